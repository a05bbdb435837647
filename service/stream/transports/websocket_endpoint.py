"""``GET /v1/ws``: the handshake, and the endpoint that returns when the stream is open or refused.

A refusal is accept, then close 1008 with a reason: closing before accepting would be an HTTP 403, which a browser
shows its page as 1006 without a word. Nothing else is ever sent on a refused connection, and the ledger keeps the
refusal.

The order of the questions: the Origin, the token (and, where it is bad, whether this address has shown too many such),
its scope, the query, the topics, the limits. The token comes from the ``Authorization`` header, a ``bearer.<token>``
subprotocol or ``?token=``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, QueryParams

from service.auth.principal import Principal, Scope
from service.errors import CloseReason, KeysUnavailable, RequestRefused, TokenMissing
from service.stream import frames
from service.stream.admission import Admission, Client, Refused, Wanted
from service.stream.transports.websocket import EXTENSION, WebSocketTransport

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

    from service.auth.tokens import TokenVerifier
    from service.http.rate_limits import RestLimits
    from service.settings import StreamSettings

PATH = "/v1/ws"
_BEARER = "bearer."


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client asked for."""

    headers: Headers
    query: QueryParams
    subprotocols: tuple[str, ...]
    client: Client

    @classmethod
    def of(cls, scope: AsgiScope) -> Handshake:
        """Read the ASGI scope."""
        headers = Headers(scope=scope)
        client = Client.of(headers, scope.get("client"))
        return cls(headers, QueryParams(scope["query_string"]), tuple(scope["subprotocols"]), client)

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
        """Say whether a page of this very host opened the stream; clients that are no browser send no Origin."""
        origin = self.headers.get("origin")
        return origin is None or origin.partition("://")[2].lower() == self.headers.get("host", "").lower()


class WebSocketEndpoint:
    """The ASGI application behind ``/v1/ws``."""

    def __init__(
        self, admission: Admission, verifier: TokenVerifier, limits: RestLimits, settings: StreamSettings
    ) -> None:
        self._admission = admission
        self._verifier = verifier
        self._limits = limits
        self._settings = settings

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one connection, from the handshake to its end."""
        transport: WebSocketTransport = scope["extensions"][EXTENSION]["transport"]
        handshake = Handshake.of(scope)
        await receive()
        accept = {"type": "websocket.accept"}
        if frames.SUBPROTOCOL in handshake.subprotocols:
            accept["subprotocol"] = frames.SUBPROTOCOL
        await send(accept)
        try:
            principal, wanted = await self._admit(handshake)
            after = await self._admission.start_of(principal, wanted)
            self._admission.check(principal)  # others may have come in, or the token was revoked, meanwhile
        except Refused as refused:
            transport.close_stream(refused.reason.code, refused.reason.reason)
            self._admission.refused(refused.reason.reason, PATH, handshake.client, refused.subject)
            return
        connection, welcome = self._admission.connection(
            transport, "websocket", handshake.client, principal, event_filter=wanted.filter, after=after
        )
        connection.open(welcome)

    # The handshake.

    async def _admit(self, handshake: Handshake) -> tuple[Principal, Wanted]:
        origins = self._settings.allowed_origins
        if not handshake.is_of_this_site() and "*" not in origins and handshake.headers["origin"] not in origins:
            raise Refused(CloseReason.ORIGIN_FORBIDDEN)
        principal = await self._authenticate(handshake)
        subject = principal.subject
        if not principal.may(Scope.ALERTS_READ):
            raise Refused(CloseReason.SCOPE_MISSING, subject)
        wanted = Wanted.of(handshake.query, principal)
        self._admission.check(principal)
        return principal, wanted

    async def _authenticate(self, handshake: Handshake) -> Principal:
        try:
            return await self._verifier.admit(handshake.token())
        except KeysUnavailable:
            raise Refused(CloseReason.KEYS_UNAVAILABLE) from None  # whoever sent it
        except RequestRefused as error:
            # Asked only now: one caller's bad tokens must not lock out the good ones behind the same address.
            if self._limits.would_refuse("refused", handshake.client.remote_addr or "unknown"):
                raise Refused(CloseReason.RATE_LIMITED) from None
            raise Refused(CloseReason.named(error.code)) from None
