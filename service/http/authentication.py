"""The bearer of a request, and the dependencies that ask for one.

``Bearer(Scope.ALERTS_READ, limit="read")`` is a FastAPI dependency: it verifies the token of the ``Authorization``
header (RFC 6750, section 2.1), asks for the scope, or one of them, and counts the request against the subject's limit.
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of an instance's annotations.

from fastapi import Request
from fastapi.security import HTTPBearer

from service.auth.principal import Principal, Scope
from service.auth.tokens import TokenVerifier
from service.errors import KeysUnavailable, RequestRefused, ScopeMissing, TokenMissing
from service.http.provided import part
from service.http.rate_limits import RestLimits


class Bearer(HTTPBearer):
    """A dependency that yields the principal of a request, or refuses it."""

    def __init__(self, *scopes: Scope, limit: str) -> None:
        super().__init__(
            scheme_name="bearer", bearerFormat="JWT", description="A token with the scope of the operation."
        )
        self.scopes = scopes
        self.limit = limit

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]  # the base returns the raw header
        """Return the bearer of ``request``."""
        limits = part(request, RestLimits)
        try:
            principal = await _verify(request, part(request, TokenVerifier))
        except KeysUnavailable:
            raise  # not the caller's fault
        except RequestRefused:
            limits.hit("refused", address(request))
            raise
        request.state.principal = principal
        limits.hit(self.limit, principal.subject)
        if not any(map(principal.may, self.scopes)):
            raise ScopeMissing(f"This needs a token with the scope {' or '.join(self.scopes)}.")
        return principal


async def _verify(request: Request, verifier: TokenVerifier) -> Principal:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenMissing("Send the header Authorization: Bearer <token>.")
    return await verifier.admit(token.strip())


def address(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "unknown"
