"""``GET /v1/ws``: the check of a WebSocket handshake, which opens the stream or rejects it.

A rejection is an accept, then a close with a code and a reason: a close before the accept would be
an HTTP 403, which a browser shows its page as 1006 without a reason. Nothing else is ever sent on a
rejected connection, and the ledger records the rejection.

Checked are, in this order: that nothing is there twice of which there can be one, the Origin, the
token (and, where it is bad, whether this address has sent too many such), its scope, the query, the
topics, the room, whether the subject opens streams too often. The token comes from the
``Authorization`` header, a ``bearer.<token>`` subprotocol or, unless a setting forbids it,
``?token=``.

The page's origin must be that of this service: the scheme of the request and its ``Host``. Where a
proxy passes on ``Host`` without the port, or is not trusted to say ``https``, no origin fits; so the
reason of that rejection goes on with what to set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, QueryParams

from service.auth.principal import Scope
from service.errors import (
    CloseReason,
    ConsumerLimit,
    DatabaseUnavailable,
    InvalidRequest,
    KeysUnavailable,
    MalformedRequest,
    RateLimited,
    RequestRefused,
    ScopeMissing,
    TargetTooLong,
    TokenMissing,
    UnsupportedMedia,
)
from service.http.authentication import bearer_token
from service.http.edge import check_headers
from service.http.problems import unescaped
from service.http.query import QueryParameters, require_known_parameters
from service.http.request_bounds import require_query_size, require_utf_8_query
from service.logs import get_logger
from service.origins import Origin
from service.stream import frames
from service.stream.admission import Admission, ClientInfo, StreamRequest
from service.stream.transports.websocket import EXTENSION, WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.http.rate_limits import RestLimits
    from service.settings import StreamSettings
    from service.stream.hub import Hub

log = get_logger(__name__)

PATH = "/v1/ws"
PARAMETERS = QueryParameters(("after", "topic", "min_severity", "consumer", "token"), frozenset({"topic"}))
_BEARER = "bearer."
_FAULTY = MalformedRequest | TargetTooLong | UnsupportedMedia
_PROXY_HINT = "set TOCSIN_ALLOWED_ORIGINS to the page's origin, or pass Host and X-Forwarded-Proto on"
"""What to do where the host of a page is that of the service, and its scheme or port is not."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The request of a client."""

    scheme: str
    headers: Headers
    query: QueryParams
    subprotocols: tuple[str, ...]
    client: ClientInfo
    refusal: TargetTooLong | MalformedRequest | None
    """Why the query was not read."""

    @classmethod
    def of(cls, scope: AsgiScope) -> Handshake:
        """Read the ASGI scope; the query only if it is within its bounds, and UTF-8."""
        headers = Headers(scope=scope)
        client = ClientInfo.of(headers, scope.get("client"))
        query, refusal = QueryParams(), None
        try:
            require_query_size(scope["query_string"])
            require_utf_8_query(scope["query_string"])
            query = QueryParams(scope["query_string"])
        except (TargetTooLong, MalformedRequest) as error:
            refusal = error
        scheme = scope.get("scheme", "ws").replace("ws", "http")
        return cls(scheme, headers, query, tuple(scope["subprotocols"]), client, refusal)

    def require_unambiguous(self) -> None:
        """Check that nothing is there twice of which there can be one.

        Raises:
            MalformedRequest, InvalidRequest: a header, a token or a parameter is.

        """
        check_headers(self.headers.raw)
        require_known_parameters(self.query, PARAMETERS)
        tokens = sum(subprotocol.startswith(_BEARER) for subprotocol in self.subprotocols)
        if tokens > 1:
            raise MalformedRequest("Send one bearer subprotocol.")
        if "token" in self.query and (tokens or bearer_token(self.headers)):
            raise MalformedRequest("Send no token in the query beside one in Authorization or a subprotocol.")

    def token(self, *, allow_query: bool) -> str:
        """Return the bearer token: of the header, where a proxy may put it, else of a subprotocol or the query.

        Raises:
            TokenMissing: there is none.

        """
        if in_header := bearer_token(self.headers):
            return in_header
        for subprotocol in self.subprotocols:
            if subprotocol.startswith(_BEARER):
                return subprotocol.removeprefix(_BEARER)
        if allow_query and (in_query := self.query.get("token")):
            return in_query
        raise TokenMissing("Send a token: header, subprotocol or query.")

    def is_from(self, allowed: Collection[str]) -> bool:
        """Return whether the client is a page of this service or of an allowed origin, or sends no Origin."""
        if "origin" not in self.headers or "*" in allowed:
            return True
        origin = Origin.parse(self.headers["origin"])
        return origin is not None and (origin == self._own_origin() or str(origin) in allowed)

    def hint(self) -> str | None:
        """Return what to set where ``Host`` has no port, and is otherwise the host of the page."""
        origin, own = Origin.parse(self.headers["origin"]), self._own_origin()
        is_bare = own is not None and not self.headers["host"].endswith(f":{own.port}")
        return _PROXY_HINT if is_bare and origin is not None and own is not None and origin.host == own.host else None

    def _own_origin(self) -> Origin | None:
        return Origin.parse(f"{self.scheme}://{self.headers.get('host', '')}")


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
        principal: Principal | None = None
        try:
            if handshake.refusal is not None:
                raise handshake.refusal
            handshake.require_unambiguous()
            if not handshake.is_from(self._settings.allowed_origins):
                self._reject(transport, handshake, CloseReason.ORIGIN_FORBIDDEN, None, hint=handshake.hint())
                return
            principal = await self._authenticate(handshake)
            await self._open(transport, handshake, principal)
        except RequestRefused as refusal:
            self._reject(
                transport,
                handshake,
                _close_reason(refusal),
                principal,
                hint=_hint(refusal, is_known=principal is not None),
            )

    async def _authenticate(self, handshake: Handshake) -> Principal:
        try:
            return await self._verifier.verify(handshake.token(allow_query=self._settings.allow_query_token))
        except (KeysUnavailable, DatabaseUnavailable):
            raise  # no fault of the client
        except RequestRefused:
            # Only now: bad tokens of one client must not lock out good ones of the same address.
            address = handshake.client.remote_addr or "unknown"
            if self._limits.is_exhausted("auth_failure", address):
                raise RateLimited("Too many bad tokens came from this address.") from None
            self._limits.hit("auth_failure", address)
            raise

    async def _open(self, transport: WebSocketTransport, handshake: Handshake, principal: Principal) -> None:
        if not principal.may(Scope.ALERTS_READ):
            raise ScopeMissing(f"The stream needs a token with the scope {Scope.ALERTS_READ}.")
        query = handshake.query
        request = StreamRequest.of(
            principal,
            after=query.get("after"),
            topics=query.getlist("topic"),
            min_severity=query.get("min_severity"),
            consumer=query.get("consumer"),
        )
        with self._hub.reserve(principal.subject):
            self._admission.check_pace(principal)
            start = await self._admission.start_of(principal, request)
            connection, welcome = self._admission.connection(
                transport, "websocket", handshake.client, principal, request=request, start=start
            )
            connection.open(welcome)

    def _reject(
        self,
        transport: WebSocketTransport,
        handshake: Handshake,
        reason: CloseReason,
        principal: Principal | None,
        *,
        hint: str | None = None,
    ) -> None:
        transport.close_stream(reason, hint)
        subject = principal.subject if principal is not None else None
        is_logged = self._admission.record_rejection(reason.reason, PATH, handshake.client, subject)
        if is_logged and hint is not None and reason is CloseReason.ORIGIN_FORBIDDEN:
            log.warning("origin forbidden", origin=handshake.client.origin, host=handshake.headers["host"], hint=hint)


def _hint(refusal: RequestRefused, *, is_known: bool) -> str | None:
    """Return what is wrong with the handshake, of a parameter its name and what it takes; None: the reason says all."""
    if isinstance(refusal, RateLimited) and is_known:
        return f"wait {refusal.retry_after} s"
    if isinstance(refusal, InvalidRequest) and refusal.errors:
        fault = refusal.errors[0]
        return f"{unescaped(fault['pointer'].removeprefix('/query/'))}: {fault['detail']}"
    return refusal.detail if isinstance(refusal, _FAULTY | ConsumerLimit) else None


def _close_reason(refusal: RequestRefused) -> CloseReason:
    if isinstance(refusal, _FAULTY):
        return CloseReason.BAD_MESSAGE
    if isinstance(refusal, DatabaseUnavailable):
        return CloseReason.OVERLOADED
    return CloseReason.named(refusal.code)
