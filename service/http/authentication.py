"""Authentication of a request by its bearer token.

``Bearer(Scope.ALERTS_READ, limit="read")`` is a FastAPI dependency: it verifies the token of the
``Authorization`` header (RFC 6750, section 2.1), requires one of the scopes, and counts the request
against the subject's rate limit. A request without a valid token counts against the limit of its
address.
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of an instance's
# annotations.

from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.auth.principal import Principal, Scope
from service.auth.tokens import TokenVerifier
from service.errors import DatabaseUnavailable, KeysUnavailable, RequestRefused, ScopeMissing, TokenMissing
from service.http.provided import part
from service.http.query import require_single_parameters, single_parameters
from service.http.rate_limits import RestLimit, RestLimits


class Bearer(HTTPBearer):
    """A dependency that yields the principal of a request, or refuses the request."""

    def __init__(self, *scopes: Scope, limit: RestLimit) -> None:
        super().__init__(
            scheme_name="bearer", bearerFormat="JWT", description="A token with the scope of the operation."
        )
        self.scopes = scopes
        self.limit = limit

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
        limits.hit(self.limit, principal.subject)
        if not any(map(principal.may, self.scopes)):
            raise ScopeMissing(f"This requires a token with the scope {' or '.join(self.scopes)}.")
        if request.scope["query_string"]:
            require_single_parameters(request.query_params, single_parameters(request.scope.get("route")))
        return principal


MayRead = Annotated[Principal, Depends(Bearer(Scope.ALERTS_READ, limit="read"))]
"""The principal of a request that reads alerts."""


def verified_principal(request: Request) -> Principal | None:
    """Return whose token was verified, even if the request was refused afterwards."""
    principal: Principal | None = getattr(request.state, "principal", None)
    return principal


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
