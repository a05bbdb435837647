"""Authentication of a request by its bearer token.

``Bearer(Scope.ALERTS_READ, limit="read")`` is a FastAPI dependency: it verifies the token of the
``Authorization`` header (RFC 6750, section 2.1), requires one of the scopes, refuses query
parameters that the operation does not declare (``query.py``), and charges the request to the
subject's rate limit, unless it has a body: then whoever reads that charges it (``charges.py``). A
request without a valid token counts against the limit of its address.

What is read takes time, and the token may be revoked meanwhile: no answer to a GET leaves before
``StillValid`` has checked again. What is written is checked before its commit, by whoever commits,
and then the token must not have expired either.
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of an instance's
# annotations.

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.auth.authorization import scope_missing
from service.auth.principal import Principal, Scope
from service.auth.tokens import TokenVerifier
from service.errors import DatabaseUnavailable, KeysUnavailable, RequestRefused, TokenMissing
from service.http.charges import assign, charge
from service.http.problems import problem_response
from service.http.provided import part
from service.http.query import parameters_of, require_known_parameters
from service.http.rate_limits import RestLimit, RestLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as RequestScope


_READING = ("GET", "HEAD")
_WITHOUT_BODY = frozenset({*_READING, "DELETE"})
_REFUSALS = 400
"""The first status of those that say why there is no answer."""


class Bearer(HTTPBearer):
    """A dependency that yields the principal of a request, or refuses the request."""

    def __init__(self, *scopes: Scope, limit: RestLimit, charges: bool = True, of_senders: bool = False) -> None:
        super().__init__(
            scheme_name="bearer", bearerFormat="JWT", description="A token with the scope of the operation."
        )
        self.scopes = scopes
        self.limit = limit
        self.charges = charges
        self.of_senders = of_senders

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]  # the base returns the raw header
        """Return the principal of ``request``."""
        limits = part(request, RestLimits)
        try:
            principal = await _verify(request, part(request, TokenVerifier))
        except (KeysUnavailable, DatabaseUnavailable):
            raise  # not a failure of the client's
        except RequestRefused:
            limits.hit("auth_failure", client_address(request))
            raise
        request.state.principal = principal  # for verified_principal()
        assign(request, self.limit, principal.subject)
        if not any(map(principal.may, self.scopes)):
            raise scope_missing(principal, self.scopes)
        if request.scope["query_string"]:
            parameters = parameters_of(request.scope.get("route"))
            require_known_parameters(request.query_params, parameters, of_senders=self.of_senders)
        if self.charges and request.method in _WITHOUT_BODY:
            charge(request)
        return principal


MayRead = Annotated[Principal, Depends(Bearer(Scope.ALERTS_READ, limit="read"))]
"""The principal of a request that reads alerts."""


def verified_principal(request: Request) -> Principal | None:
    """Return whose token was verified, even if the request was refused afterwards."""
    principal: Principal | None = getattr(request.state, "principal", None)
    return principal


class StillValid:
    """Wraps the application: what a token asked for is answered only while the token is not revoked."""

    def __init__(self, app: "ASGIApp", verifier: TokenVerifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: "RequestScope", receive: "Receive", send: "Send") -> None:
        """Serve a request, or refuse it at the last moment."""
        if scope["type"] != "http" or scope["method"] not in _READING:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal: RequestRefused | None = None

        async def send_if_valid(message: "Message") -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] < _REFUSALS:
                try:
                    await self._verify_again(request)
                except RequestRefused as error:
                    refusal = error
                    raise _WithheldError from None  # ends the answer, which none of the handlers of errors knows
            await send(message)

        try:
            await self._app(scope, receive, send_if_valid)
        except Exception:
            if refusal is None:
                raise
        if refusal is not None:
            await problem_response(refusal)(scope, receive, send)

    async def _verify_again(self, request: Request) -> None:
        if (principal := verified_principal(request)) is not None:
            await self._verifier.verify_again(principal)


class _WithheldError(Exception):
    """An answer is not sent: the token was revoked meanwhile."""


async def _verify(request: Request, verifier: TokenVerifier) -> Principal:
    if (token := bearer_token(request.headers)) is None:
        raise TokenMissing("Send the header Authorization: Bearer <token>.")
    return await verifier.verify(token)


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """Return the token of the ``Authorization`` header, None where there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip(" ") or None if scheme.lower() == "bearer" else None


def client_address(request: Request) -> str:
    """Return the address of the client."""
    return request.client.host if request.client else "unknown"
