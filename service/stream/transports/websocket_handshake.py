"""``GET /v1/ws``: the check of a WebSocket handshake, which opens the stream or rejects it.

A rejection is an accept, then a close with a code and a reason: a close before the accept would be
an HTTP 403, which a browser shows its page as 1006 without a reason. Nothing else is ever sent on a
rejected connection, and the ledger records the rejection.

Checked are, in this order: the Origin, the token (and, where it is bad, whether this address has
sent too many such), its scope, the query, the topics, the room. The token comes from the
``Authorization`` header, a ``bearer.<token>`` subprotocol or ``?token=``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, QueryParams

from service.auth.principal import Scope
from service.errors import (
    CloseReason,
    DatabaseUnavailable,
    InvalidRequest,
    KeysUnavailable,
    OutcomeUnknown,
    RateLimited,
    RequestRefused,
    ScopeMissing,
    TargetTooLong,
    TokenMissing,
)
from service.http.request_bounds import require_query
from service.stream import frames
from service.stream.admission import Admission, ClientInfo, StreamRequest
from service.stream.transports.websocket import EXTENSION, WebSocketTransport

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.http.rate_limits import RestLimits
    from service.settings import StreamSettings
    from service.stream.hub import Hub

PATH = "/v1/ws"
_BEARER = "bearer."
_REASON_OF_REFUSAL: dict[str, CloseReason] = {
    InvalidRequest.code: CloseReason.BAD_MESSAGE,
    TargetTooLong.code: CloseReason.BAD_MESSAGE,
    DatabaseUnavailable.code: CloseReason.OVERLOADED,
    OutcomeUnknown.code: CloseReason.OVERLOADED,
}
"""The close reasons of the refusals that are not named alike."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The request of a client."""

    headers: Headers
    query: QueryParams
    subprotocols: tuple[str, ...]
    client: ClientInfo
    refusal: TargetTooLong | None
    """Why the query was not read."""

    @classmethod
    def of(cls, scope: AsgiScope) -> Handshake:
        """Read the ASGI scope; the query only if it is within its bounds."""
        headers = Headers(scope=scope)
        client = ClientInfo.of(headers, scope.get("client"))
        query, refusal = QueryParams(), None
        try:
            require_query(scope["query_string"])
            query = QueryParams(scope["query_string"])
        except TargetTooLong as error:
            refusal = error
        return cls(headers, query, tuple(scope["subprotocols"]), client, refusal)

    def token(self) -> str:
        """Return the bearer token: header, then subprotocol, then query.

        Raises:
            TokenMissing: there is none.

        """
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
        for subprotocol in self.subprotocols:
            if subprotocol.startswith(_BEARER):
                return subprotocol.removeprefix(_BEARER)
        if in_query := self.query.get("token"):
            return in_query
        raise TokenMissing("Send a token: header, subprotocol or query.")

    def is_of_this_site(self) -> bool:
        """Return whether the client is a page of this host, or sends no Origin."""
        origin = self.headers.get("origin")
        return origin is None or origin.partition("://")[2].lower() == self.headers.get("host", "").lower()


class WebSocketEndpoint:
    """The ASGI application behind ``/v1/ws``."""

    def __init__(
        self, admission: Admission, hub: Hub, verifier: TokenVerifier, limits: RestLimits, settings: StreamSettings
    ) -> None:
        self._admission = admission
        self._hub = hub
        self._verifier = verifier
        self._limits = limits
        self._settings = settings

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one handshake."""
        transport: WebSocketTransport = scope["extensions"][EXTENSION]["transport"]
        handshake = Handshake.of(scope)
        await receive()
        accept = {"type": "websocket.accept"}
        if frames.SUBPROTOCOL in handshake.subprotocols:
            accept["subprotocol"] = frames.SUBPROTOCOL
        await send(accept)
        if not self._is_allowed_origin(handshake):
            self._reject(transport, handshake, CloseReason.ORIGIN_FORBIDDEN, None)
            return
        principal: Principal | None = None
        try:
            if handshake.refusal is not None:
                raise handshake.refusal
            principal = await self._authenticate(handshake)
            await self._open(transport, handshake, principal)
        except RequestRefused as refusal:
            reason = _REASON_OF_REFUSAL.get(refusal.code) or CloseReason.named(refusal.code)
            self._reject(transport, handshake, reason, principal)

    def _is_allowed_origin(self, handshake: Handshake) -> bool:
        allowed = self._settings.allowed_origins
        return handshake.is_of_this_site() or "*" in allowed or handshake.headers["origin"] in allowed

    async def _authenticate(self, handshake: Handshake) -> Principal:
        try:
            return await self._verifier.verify(handshake.token())
        except (KeysUnavailable, DatabaseUnavailable):
            raise  # no fault of the client
        except RequestRefused:
            # Only now: bad tokens of one client must not lock out good ones of the same address.
            if self._limits.is_exhausted("auth_failure", handshake.client.remote_addr or "unknown"):
                raise RateLimited("Too many bad tokens came from this address.") from None
            raise

    async def _open(self, transport: WebSocketTransport, handshake: Handshake, principal: Principal) -> None:
        if not principal.may(Scope.ALERTS_READ):
            raise ScopeMissing(f"The stream needs a token with the scope {Scope.ALERTS_READ}.")
        request = StreamRequest.of(handshake.query, principal)
        with self._hub.reserve(principal.subject):
            start = await self._admission.start_of(principal, request)
            connection, welcome = self._admission.connection(
                transport, "websocket", handshake.client, principal, event_filter=request.filter, start=start
            )
            connection.open(welcome)

    def _reject(
        self, transport: WebSocketTransport, handshake: Handshake, reason: CloseReason, principal: Principal | None
    ) -> None:
        transport.close_stream(reason)
        subject = principal.subject if principal is not None else None
        self._admission.record_rejection(reason.reason, PATH, handshake.client, subject)
