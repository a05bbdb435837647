"""The check of a WebSocket handshake, on a fake socket: the token, the Origin, and why it is rejected."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest

from service.auth.issuers import load_keyring
from service.auth.shared_secret import mint
from service.auth.tokens import TokenVerifier
from service.errors import CloseReason, DatabaseUnavailable, KeysUnavailable, RateLimited
from service.events.position import ORIGIN
from service.ledger.resume_points import ResumePoint
from service.settings import AuthSettings, StreamSettings
from service.stream.admission import Admission
from service.stream.cursor_check import Start
from service.stream.hub import Hub
from service.stream.transports.websocket import EXTENSION
from service.stream.transports.websocket_handshake import PATH, WebSocketEndpoint
from tests.fixtures.revocations import KnownRevocations
from tests.stream.fakes import FakeLedger, FakeTransport, NoLimits

if TYPE_CHECKING:
    from service.events.position import Cursor, Position
    from service.ledger.resume_points import ResumeKey

pytestmark = pytest.mark.unit

SECRET = b"a secret of more than thirty-two bytes"
AUTH = AuthSettings()
VERIFIER = TokenVerifier(load_keyring(AUTH, SECRET), AUTH, KnownRevocations())
V1 = "tocsin.v1"
HOST = "tocsin.example:8000"
ELSEWHERE = "https://elsewhere.example"
HASTY = "hasty"


def token(subject: str = "alice", scope: str = "alerts:read", **claims: Any) -> str:
    return mint(SECRET, AUTH, subject=subject, scope=scope, **claims)


def bearer(*arguments: str, **claims: Any) -> str:
    return f"bearer.{token(*arguments, **claims)}"


class Ledger(FakeLedger):
    """A ledger whose recipients all start at the head, or that cannot reach its database."""

    def __init__(self, *, is_reachable: bool = True) -> None:
        super().__init__()
        self.node_id = uuid4()
        self._is_reachable = is_reachable

    async def resume_point(self, _key: ResumeKey, _topics: tuple[str, ...], head: Position) -> ResumePoint:
        if not self._is_reachable:
            raise DatabaseUnavailable("away")
        return ResumePoint(*head)


class Log:
    """The log, in which each cursor is found at the origin; no connection gets so far as to replay."""

    replays = None

    async def start_after(self, _cursor: Cursor, _recipient: str) -> Start:
        return Start(ORIGIN)


class Limits:
    """REST limits, of an address that has sent too many bad tokens or not, and of a subject that opens too often."""

    def __init__(self, *, is_over: bool) -> None:
        self._is_over = is_over

    def require(self, kind: str, who: str) -> None:
        assert kind == "connect"
        if who == HASTY:
            raise RateLimited("Too often.", retry_after=7)

    def is_exhausted(self, kind: str, who: str) -> bool:
        assert (kind, who) == ("auth_failure", "192.0.2.1")
        return self._is_over

    def hit(self, *_: Any, **__: Any) -> None:
        """Let everything be recorded."""


class NoKeys:
    async def verify(self, _token: str) -> None:
        raise KeysUnavailable("not yet", retry_after=1)


class NoRevocations:
    async def verify(self, _token: str) -> None:
        raise DatabaseUnavailable("not now", retry_after=1)


class Served:
    """A handshake that was served: what was accepted, and what became of it."""

    def __init__(self, settings: StreamSettings, verifier: Any, ledger: Ledger, *, is_over: bool) -> None:
        self.ledger = ledger
        self.transport = FakeTransport()
        self.sent: list[dict[str, Any]] = []
        self.hub = Hub(cast("Any", ledger), settings, KnownRevocations())
        limits = cast("Any", Limits(is_over=is_over))
        admission = Admission(
            hub=self.hub,
            fanout=cast("Any", Log()),
            cursor_check=cast("Any", Log()),
            ledger=cast("Any", ledger),
            verifier=VERIFIER,
            rest_limits=limits,
            limits=cast("Any", NoLimits()),
            settings=settings,
        )
        self.endpoint = WebSocketEndpoint(admission, self.hub, verifier, limits, settings)

    async def serve(
        self, subprotocols: tuple[str, ...], query: str, headers: dict[str, str], scheme: str = "ws"
    ) -> None:
        scope: Any = {
            "type": "websocket",
            "scheme": scheme,
            "headers": [
                (name.lower().encode(), value.encode())
                for name, lines in {"Host": HOST, **headers}.items()
                for value in lines.split("\n")
            ],
            "query_string": query.encode(),
            "subprotocols": list(subprotocols),
            "client": ("192.0.2.1", 4711),
            "extensions": {EXTENSION: {"transport": self.transport}},
        }

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.endpoint(scope, receive, send)

    @property
    def recipient(self) -> str | None:
        """The recipient who was welcomed; nothing is sent on a rejected connection."""
        if self.transport.closed is not None:
            assert self.transport.batches == []
            assert self.hub.open == 0
            return None
        return str(self.transport.frames[0]["recipient"])

    @property
    def rejection(self) -> tuple[str, str | None]:
        """The reason and the subject that the ledger records and the client receives."""
        [[rejection]] = self.ledger.of("record_rejection")
        assert (self.transport.closed or CloseReason.KICKED).reason == rejection.reason
        assert (rejection.path, rejection.remote_addr) == (PATH, "192.0.2.1")
        return rejection.reason, rejection.subject


async def handshake(
    *subprotocols: str,
    query: str = "",
    settings: StreamSettings | None = None,
    verifier: Any = VERIFIER,
    is_reachable: bool = True,
    is_over: bool = False,
    reserved_for: str | None = None,
    scheme: str = "ws",
    **headers: str,
) -> Served:
    served = Served(settings or StreamSettings(), verifier, Ledger(is_reachable=is_reachable), is_over=is_over)
    with served.hub.reserve(reserved_for) if reserved_for else nullcontext():
        await served.serve(subprotocols, query, headers, scheme)
    return served


# Where the token is taken from.


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_token_in_the_header_is_taken(scheme: str) -> None:
    assert (await handshake(Authorization=f"{scheme} {token()}")).recipient == "alice"


async def test_a_token_in_a_subprotocol_is_taken() -> None:
    assert (await handshake(V1, bearer())).recipient == "alice"


@pytest.mark.parametrize("name", ["token", "%74oken", "to%6Ben"])
async def test_a_token_in_the_query_is_taken(name: str) -> None:
    assert (await handshake(query=f"{name}={token()}")).recipient == "alice"


async def test_another_scheme_in_the_header_is_no_token() -> None:
    assert (await handshake(V1, query=f"token={token()}", Authorization="Basic YTpi")).recipient == "alice"


async def test_a_token_in_the_query_is_none_where_a_setting_says_so() -> None:
    settings = StreamSettings(allow_query_token=False)
    assert (await handshake(V1, query=f"token={token()}", settings=settings)).rejection == ("token_missing", None)


@pytest.mark.parametrize(
    ("subprotocols", "query", "headers"),
    [
        ([bearer(), bearer()], "", {}),
        ([bearer()], f"token={token()}", {}),
        ([], "token=", {"Authorization": f"Bearer {token()}"}),
    ],
    ids=["two subprotocols", "a subprotocol and the query", "the query and the header"],
)
async def test_no_token_is_passed_over(subprotocols: list[str], query: str, headers: dict[str, Any]) -> None:
    served = await handshake(V1, *subprotocols, query=query, **headers)
    assert served.rejection == ("bad_message", None)


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ([V1, "bearer"], V1),
        (["bearer", V1], V1),
        (["other", V1, "bearer"], V1),
        (["bearer"], None),
        (["tocsin.v2", "bearer"], None),
    ],
)
async def test_the_answer_names_the_protocol_and_never_the_token(offered: list[str], answered: str | None) -> None:
    served = await handshake(*(bearer() if entry == "bearer" else entry for entry in offered))
    accept = {"type": "websocket.accept"}
    assert served.sent == [{**accept, "subprotocol": answered} if answered else accept]
    assert served.recipient == "alice"


# Rejections.

OTHER_KEY = mint(b"another secret of more than 32 bytes, too", AUTH, subject="mallory", scope="alerts:read")
REJECTED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "no token": ("token_missing", None, {}),
    "an empty token in the query": ("token_missing", None, {"query": "token="}),
    "another scheme": ("token_missing", None, {"Authorization": "Basic YTpi"}),
    "a token without form": ("token_invalid", None, {"offers": ["bearer.x"]}),
    "an empty bearer": ("token_invalid", None, {"offers": ["bearer."]}),
    "a token of another key": ("token_invalid", None, {"query": f"token={OTHER_KEY}"}),
    "a token that expired": ("token_expired", None, {"offers": [bearer(ttl_seconds=-1)]}),
    "another scope": ("scope_missing", "alice", {"offers": [bearer("alice", "alerts:write admin")]}),
    "another topic": ("topic_forbidden", "alice", {"offers": [bearer(topics=["payments.*"])], "query": "topic=x"}),
    "one topic too many": (
        "topic_forbidden",
        "alice",
        {"offers": [bearer(topics=["payments.*"])], "query": "topic=payments.eu,billing"},
    ),
    "a token without topics": ("topic_forbidden", "alice", {"offers": [bearer(topics=[])]}),
    "a page of another site": ("origin_forbidden", None, {"offers": [bearer()], "Origin": ELSEWHERE}),
    "keys that are not there yet": ("keys_unavailable", None, {"offers": [bearer()], "verifier": NoKeys()}),
    "keys that are not there yet, after many bad tokens": (
        "keys_unavailable",
        None,
        {"offers": [bearer()], "verifier": NoKeys(), "is_over": True},
    ),
    "revocations that cannot be read, after many bad tokens": (
        "overloaded",
        None,
        {"offers": [bearer()], "verifier": NoRevocations(), "is_over": True},
    ),
    "a bad token after many": ("rate_limited", None, {"offers": ["bearer.x"], "is_over": True}),
    "no token after many bad ones": ("rate_limited", None, {"is_over": True}),
    "a subject that opens too many streams": ("rate_limited", HASTY, {"offers": [bearer(HASTY)]}),
    "a database that is away": ("overloaded", "alice", {"offers": [bearer()], "is_reachable": False}),
    "no room": (
        "overloaded",
        "alice",
        {"offers": [bearer()], "settings": StreamSettings(connections_max=1), "reserved_for": "bob"},
    ),
    "no room for the recipient": (
        "connection_limit",
        "alice",
        {"offers": [bearer()], "settings": StreamSettings(connections_per_recipient=1), "reserved_for": "alice"},
    ),
    "two headers with a token": ("bad_message", None, {"Authorization": f"Bearer {token()}\nBearer {token()}"}),
    "two hosts": ("bad_message", None, {"offers": [bearer()], "Host": f"{HOST}\nelsewhere.example"}),
    "two origins": ("bad_message", None, {"offers": [bearer()], "Origin": f"http://{HOST}\n{ELSEWHERE}"}),
    "two bearer subprotocols": ("bad_message", None, {"offers": [bearer(), bearer("bob")]}),
    "two tokens in the query": ("invalid_request", None, {"query": f"token={token()}&%74oken={token('bob')}"}),
    "two cursors": ("invalid_request", None, {"offers": [bearer()], "query": "after=1&after=2"}),
    "a parameter that does not exist": ("invalid_request", None, {"offers": [bearer()], "query": "topics=a"}),
    "two severities": (
        "invalid_request",
        None,
        {"offers": [bearer()], "query": "min_severity=info&min_severity=error"},
    ),
    "a token in the query that a setting forbids": (
        "token_missing",
        None,
        {"query": f"token={token()}", "settings": StreamSettings(allow_query_token=False)},
    ),
    **{
        f"the query {query:.40}": ("invalid_request", "alice", {"offers": [bearer()], "query": query})
        for query in (
            "after=",
            "after=-1",
            "after=x",
            "after=1.5",
            "after=%C2%B2",
            "after=%D9%A1",
            "after=LATEST",
            "after=9223372036854775808",
            "after=" + "9" * 5000,
            "min_severity=fatal",
            "min_severity=",
            "min_severity=Info",
            "consumer=",
            "consumer=a%20b",
            "topic=",
            "topic=A",
            "topic=a..b",
            "topic=a,*.b",
            "topic=" + "a" * 101,
        )
    },
}


@pytest.mark.parametrize("case", REJECTED)
async def test_a_rejected_handshake_is_accepted_and_closed_with_its_reason(case: str) -> None:
    reason, subject, options = REJECTED[case]
    others = {name: value for name, value in options.items() if name != "offers"}
    served = await handshake(V1, *options.get("offers", ()), **others)
    assert served.sent == [{"type": "websocket.accept", "subprotocol": V1}]
    assert served.rejection == (reason, subject)
    assert served.recipient is None


def test_every_reason_of_1008_is_shown_in_a_test() -> None:
    elsewhere = {"token_revoked", "kicked", "consumer_limit"}
    at_the_handshake = {reason for reason, _, _ in REJECTED.values() if CloseReason.named(reason).code == 1008}
    assert at_the_handshake | elsewhere == {reason.reason for reason in CloseReason if reason.code == 1008}


async def test_a_subject_that_opens_too_many_streams_learns_how_long_to_wait() -> None:
    assert (await handshake(V1, bearer(HASTY))).transport.hint == "wait 7 s"
    assert (await handshake(V1, "bearer.x", is_over=True)).transport.hint is None


async def test_a_good_token_is_accepted_after_many_bad_ones_of_its_address() -> None:
    assert (await handshake(V1, bearer(), is_over=True)).recipient == "alice"


async def test_room_is_free_again_after_a_handshake() -> None:
    served = Served(StreamSettings(connections_per_recipient=1), VERIFIER, Ledger(), is_over=False)
    await served.serve((V1, bearer()), "", {})
    assert served.recipient == "alice"
    [connection] = served.hub._connections.values()
    connection.ended(1000, "client")
    with served.hub.reserve("alice"):
        pass


# Origins.


@pytest.mark.parametrize("origin", [f"http://{HOST}", f"HTTP://{HOST}", f"http://{HOST.upper()}"])
async def test_a_page_of_this_service_may_connect(origin: str) -> None:
    assert (await handshake(V1, bearer(), Origin=origin)).recipient == "alice"


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("ws", "tocsin.example", "http://tocsin.example"),
        ("ws", "tocsin.example", "http://tocsin.example:80"),
        ("ws", "tocsin.example:80", "http://tocsin.example"),
        ("wss", "tocsin.example", "https://tocsin.example"),
        ("wss", "tocsin.example:443", "https://tocsin.example"),
        ("wss", "tocsin.example", "https://tocsin.example:443"),
        ("ws", "[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000"),
        ("ws", "[2001:DB8::1]", "http://[2001:db8::1]"),
        ("ws", "tocsin.example.:8000", "http://tocsin.example.:8000"),
    ],
)
async def test_a_port_may_be_left_out_where_it_is_the_schemes_own(scheme: str, host: str, origin: str) -> None:
    assert (await handshake(V1, bearer(), scheme=scheme, Host=host, Origin=origin)).recipient == "alice"


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("ws", "tocsin.example", "http://tocsin.example:8000"),
        ("ws", "tocsin.example", "https://tocsin.example"),
        ("ws", "[::1]", "http://[::1]:8000"),
    ],
)
async def test_a_host_without_its_port_is_answered_with_what_to_set(scheme: str, host: str, origin: str) -> None:
    served = await handshake(V1, bearer(), scheme=scheme, Host=host, Origin=origin)
    assert served.rejection == ("origin_forbidden", None)
    assert "TOCSIN_ALLOWED_ORIGINS" in (served.transport.hint or "")
    assert len(f"origin_forbidden: {served.transport.hint}".encode()) <= 123  # RFC 6455, section 5.5


@pytest.mark.parametrize("origin", [ELSEWHERE, "null", "http://tocsin.example.:8000", "http://tocsin.example@x"])
async def test_another_site_gets_no_hint(origin: str) -> None:
    served = await handshake(V1, bearer(), Host="tocsin.example", Origin=origin)
    assert served.rejection == ("origin_forbidden", None)
    assert served.transport.hint is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        ELSEWHERE,
        f"https://{HOST}",
        f"ws://{HOST}",
        "http://tocsin.example.:8000",
        f"http://{HOST} {ELSEWHERE}",
        f"http://{HOST}/",
        f"http://{HOST}/x",
        f" http://{HOST}",
        f"http://{HOST}x",
        "http://tocsin.example:08000x",
        "http://tocsin.example:99999",
        f"http://x@{HOST}",
        "http://tocsin.example",
        "http://tocsin.example:1",
        "http://localhost:8000",
        f"http://{HOST}.elsewhere.example",
        f"http://elsewhere.example/{HOST}",
        f"http://{HOST}@elsewhere.example",
        f"http://elsewhere.example#{HOST}",
        "http://[",
        HOST,
        "://",
    ],
)
async def test_a_page_of_any_other_origin_may_not(origin: str) -> None:
    assert (await handshake(V1, bearer(), Origin=origin)).rejection == ("origin_forbidden", None)


async def test_origins_that_are_allowed_by_a_setting_may_connect_and_no_others() -> None:
    some, every = StreamSettings(allowed_origins=(ELSEWHERE,)), StreamSettings(allowed_origins=("*",))
    assert (await handshake(V1, bearer(), settings=some, Origin=ELSEWHERE)).recipient == "alice"
    assert (await handshake(V1, bearer(), settings=some, Origin=ELSEWHERE + ":8443")).recipient is None
    assert (await handshake(V1, bearer(), settings=every, Origin="null")).recipient == "alice"


@pytest.mark.parametrize("written", [f"{ELSEWHERE}/", f"{ELSEWHERE}:443", "HTTPS://Elsewhere.example", "*"])
async def test_an_allowed_origin_may_be_written_in_several_ways(written: str) -> None:
    settings = StreamSettings(allowed_origins=(written,))
    assert (await handshake(V1, bearer(), settings=settings, Origin=ELSEWHERE)).recipient == "alice"
