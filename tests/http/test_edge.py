"""The outermost application over real sockets: raw bytes, where a client library would tidy them."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import uvicorn

from service.http.edge import Edge
from service.http.proxies import TrustedProxies
from service.http.response_headers import DEFAULTS
from service.http.server_config import ServerConfig
from service.http.server_protocol import HttpServerProtocol
from tests.harness import PATIENCE, PLAIN, READ, WRITE, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from tests.harness import Node

FORGED = "forged.example"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, and answer with what the application sees of the request."""
    if scope["type"] == "lifespan":
        return
    read, more = b"", True
    while more:
        message = await receive()
        read, more = read + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/fails":
        raise RuntimeError("on purpose")
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    seen = {"headers": headers, "client": scope["client"][0], "scheme": scope["scheme"], "body": read.decode("latin-1")}
    body = json.dumps(seen).encode()
    own = [(b"content-length", str(len(body)).encode())]
    if scope["path"] == "/own":
        own.append((b"cache-control", b"no-cache"))
    await send({"type": "http.response.start", "status": 200, "headers": own})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving_echo(*trusted: str) -> Iterator[int]:
    """Serve ``echo`` behind the edge, and yield the port."""
    config = ServerConfig(
        Edge(echo, TrustedProxies(trusted)), port=0, http=HttpServerProtocol, log_config=None, proxy_headers=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving_echo("127.0.0.1") as opened:
        yield opened


def port_of(node: Node) -> int:
    return int(node.base.rpartition(":")[2])


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes, and read until the server hangs up, or speaks WebSocket."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as opened:
        opened.sendall(request)
        answer = b""
        while not answer.startswith(b"HTTP/1.1 101 ") and (chunk := opened.recv(65536)):
            answer += chunk
    return answer


def asked(*lines: str, method: str = "GET", path: str = "/", close: bool = True) -> bytes:
    """Return the head of a request; ``lines`` may replace ``Host``."""
    own = [] if any(line.lower().startswith("host:") for line in lines) else ["Host: node"]
    last = ["Connection: close"] if close else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", *own, *lines, *last, "", ""]).encode("latin-1")


def chunked(body: bytes, *trailers: str) -> bytes:
    """Return a body of one chunk, and trailers."""
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, "".join(f"{line}\r\n" for line in trailers).encode())


def head_of(answer: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of an answer, of which none is there twice."""
    status, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs), lines
    return int(status.split()[1]), headers


def echoed(answer: bytes) -> dict[str, Any]:
    """Return what the application saw."""
    seen: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return seen


# Trailers.

TRAILERS = ["Authorization: Bearer x", "Idempotency-Key: x", "X-Forwarded-For: 203.0.113.9", "Host: forged.example"]


@pytest.mark.parametrize("trailer", TRAILERS)
def test_a_trailer_never_becomes_a_header(port: int, trailer: str) -> None:
    head = asked("Transfer-Encoding: chunked", f"Trailer: {trailer.partition(':')[0]}", method="POST")
    seen = echoed(exchange(port, head + chunked(b"body", trailer)))
    assert trailer.partition(":")[0].lower() not in {name for name, _ in seen["headers"]} - {"host"}
    assert [value for name, value in seen["headers"] if name == "host"] == ["node"]
    assert seen["client"] == "127.0.0.1"


def test_the_request_after_trailers_has_headers_of_its_own(port: int) -> None:
    first = asked("Transfer-Encoding: chunked", "X-Own: 1", method="POST", close=False) + chunked(
        b"body", "X-Trailer: 1"
    )
    answers = exchange(port, first + asked("X-Own: 2"))
    _, one, two = answers.split(b"HTTP/1.1 200 OK\r\n")
    assert [pair for pair in echoed(one)["headers"] if pair[0].startswith("x-")] == [["x-own", "1"]]
    assert [pair for pair in echoed(two)["headers"] if pair[0].startswith("x-")] == [["x-own", "2"]]


def test_a_token_in_a_trailer_is_no_token(lenient: Node) -> None:
    head = asked("Content-Type: application/json", "Transfer-Encoding: chunked", method="POST", path="/v1/alerts")
    body = chunked(b'{"title":"from a trailer"}', f"Authorization: Bearer {token('billing', WRITE)}")
    answer = exchange(port_of(lenient), head + body)
    assert head_of(answer)[0] == 401
    assert b"token_missing" in answer


def test_an_idempotency_key_in_a_trailer_is_none(lenient: Node) -> None:
    bearer = f"Authorization: Bearer {token('billing', WRITE)}"
    head = asked(
        bearer, "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST", path="/v1/alerts"
    )
    for title in (b"one", b"two"):  # the second would be 422: another body for the same key
        body = chunked(b'{"title":"%b"}' % title, "Idempotency-Key: of a trailer")
        assert head_of(exchange(port_of(lenient), head + body))[0] == 201


# What is there twice.

TWICE = [
    ["Authorization: Bearer a", "Authorization: Bearer a"],
    ["Authorization: Bearer a", "authorization: Basic b"],
    ["Idempotency-Key: a", "Idempotency-Key: a"],
    ["Host: node", "Host: forged.example"],
    ["Content-Type: application/json", "Content-Type: text/plain"],
    ["Content-Length: 0", "Content-Length: 0"],
    ["Content-Length: 0", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Last-Event-ID: 1", "Last-Event-ID: 2"],
    ["Origin: http://node", "Origin: http://node"],
    ["ce-id: 1", "CE-ID: 2"],
    ["WebHook-Request-Origin: a.example", "WebHook-Request-Origin: b.example"],
]


@pytest.mark.parametrize("lines", TWICE, ids=" and ".join)
def test_a_header_that_is_there_twice_is_refused_and_ends_the_connection(port: int, lines: list[str]) -> None:
    answer = exchange(port, asked(*lines, method="POST", close=False) + asked(path="/smuggled"))
    status, headers = head_of(answer)
    assert status == 400
    assert headers["connection"] == "close"
    assert answer.count(b"HTTP/1.1 ") == 1  # nothing is answered after it


def test_the_refusal_of_a_repeated_header_is_a_problem_document(port: int) -> None:
    answer = exchange(port, asked("Authorization: Bearer a", "Authorization: Bearer b"))
    assert head_of(answer)[1]["content-type"] == "application/problem+json"
    assert echoed(answer)["code"] == "malformed_request"
    assert "authorization" in echoed(answer)["detail"]


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "chunked, chunked", "xchunked", "identity"])
def test_another_transfer_coding_is_refused(port: int, coding: str) -> None:
    answer = exchange(port, asked(f"Transfer-Encoding: {coding}", method="POST", close=False) + chunked(b"body"))
    assert head_of(answer)[0] == 400


def test_lists_may_be_on_several_lines(port: int) -> None:
    lines = ["Accept: text/html", "Accept: */*", "Cookie: a=1", "Cookie: b=2", "X-Forwarded-For: x"]
    assert head_of(exchange(port, asked(*lines)))[0] == 200


@pytest.mark.parametrize(
    ("path", "repeated"),
    [
        ("/v1/alerts?limit=1&limit=2", "limit"),
        ("/v1/alerts?limit=1&%6cimit=1", "limit"),
        ("/v1/alerts?q=a&q=b", "q"),
        ("/v1/alerts?cursor=a&cursor=b", "cursor"),
        ("/v1/alerts?min_severity=info&min_severity=error", "min_severity"),
        ("/v1/events?after=1&after=2&wait=0", "after"),
        ("/v1/events?after=latest&wait=0&wait=60", "wait"),
        ("/v1/events?consumer=a&consumer=b&wait=0", "consumer"),
        ("/v1/audit/unreceived?limit=1&limit=2", "limit"),
        ("/v1/audit/connections?recipient=a&recipient=b", "recipient"),
    ],
)
def test_a_parameter_of_one_value_that_is_there_twice_is_refused(lenient: Node, path: str, repeated: str) -> None:
    with lenient.rest("alice", "alerts:read audit:read") as client:
        answer = client.get(path)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": f"/query/{repeated}", "detail": "this takes one value"}]


def test_a_parameter_that_takes_a_list_may_be_repeated(lenient: Node) -> None:
    with lenient.rest("alice", READ) as client:
        answer = client.get("/v1/alerts?topic=a&topic=b&status=open&status=open&severity=info&severity=error&limit=1")
    assert answer.status_code == 200


# White space around a value (RFC 9110, section 5.5).

BLANKS = ["", " ", "\t", " \t ", "\t\t"]


@pytest.mark.parametrize("before", BLANKS)
@pytest.mark.parametrize("after", BLANKS)
def test_white_space_around_a_value_is_no_part_of_it(port: int, before: str, after: str) -> None:
    lines = [f"{name}:{before}{value}{after}" for name, value in (("X-Own", "a \t b"), ("Content-Length", "4"))]
    seen = echoed(exchange(port, asked(*lines, method="POST") + b"body"))
    assert seen["body"] == "body"
    assert ["x-own", "a \t b"] in seen["headers"]
    assert ["content-length", "4"] in seen["headers"]


@pytest.mark.parametrize("after", BLANKS)
def test_an_alert_is_stored_whatever_white_space_follows_its_headers(lenient: Node, after: str) -> None:
    alert = b'{"title":"blanks"}'
    values = (f"Bearer {token('billing', WRITE)}", "application/json", f"key of blanks {len(after)}", str(len(alert)))
    names = ("Authorization", "Content-Type", "Idempotency-Key", "Content-Length")
    lines = [f"{name}: {value}{after}" for name, value in zip(names, values, strict=True)]
    answer = exchange(port_of(lenient), asked(*lines, method="POST", path="/v1/alerts") + alert)
    assert head_of(answer)[0] == 201


@pytest.mark.parametrize("after", BLANKS)
def test_a_handshake_is_taken_whatever_white_space_follows_its_headers(lenient: Node, after: str) -> None:
    lines = [f"{line}{after}" for line in (*WEBSOCKET, KEY, BEARER)]
    assert head_of(exchange(port_of(lenient), asked(*lines, path="/v1/ws", close=False)))[0] == 101


# Who the client is.


def test_the_application_sees_the_client_behind_a_proxy(port: int) -> None:
    seen = echoed(exchange(port, asked("X-Forwarded-For: 198.51.100.1, 203.0.113.9", "X-Forwarded-Proto: https")))
    assert (seen["client"], seen["scheme"]) == ("203.0.113.9", "https")


def test_a_client_that_is_no_proxy_cannot_say_who_it_is() -> None:
    with serving_echo("192.0.2.1") as port:
        seen = echoed(exchange(port, asked("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")))
    assert (seen["client"], seen["scheme"]) == ("127.0.0.1", "http")


# What every answer carries.

WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
BEARER = f"Authorization: Bearer {token('alice', READ)}"
ANSWERS: dict[str, tuple[int, bytes]] = {
    "200": (200, asked(path="/healthz")),
    "metrics": (200, asked(path="/metrics")),
    "OpenAPI": (200, asked(path="/openapi.json")),
    "a list": (200, asked(BEARER, path="/v1/alerts")),
    "the answer to HEAD": (200, asked(path="/healthz", method="HEAD")),
    "405 for HEAD": (405, asked(path="/v1/alerts/batch", method="HEAD")),
    "401": (401, asked(path="/v1/alerts")),
    "403": (403, asked(BEARER, path="/v1/audit/connections")),
    "404": (404, asked(path="/nothing")),
    "404 of the console": (404, asked(path="/console/nothing.js")),
    "405": (405, asked(path="/v1/alerts", method="PUT")),
    "405 of the console": (405, asked(path="/console/main.js", method="POST", close=True)),
    "400 for a repeated header": (400, asked(BEARER, BEARER, path="/v1/alerts")),
    "400 for what is not HTTP": (400, b"not HTTP\r\n\r\n"),
    "413": (
        413,
        asked(
            f"Authorization: Bearer {token('billing', WRITE)}",
            "Content-Type: application/json",
            "Content-Length: 99999999",
            method="POST",
            path="/v1/alerts",
        ),
    ),
    "415": (415, asked(f"Authorization: Bearer {token('billing', WRITE)}", method="POST", path="/v1/alerts")),
    "422": (422, asked(BEARER, path="/v1/alerts?limit=x")),
    "431": (431, asked("X-Long: " + "x" * 40_000)),
    "Swagger UI": (200, asked(path="/docs")),
    "a file of Swagger UI": (200, asked(path="/docs/files/swagger-ui.css")),
    "101": (101, asked(*WEBSOCKET, KEY, path="/v1/ws", close=False)),
    "a WebSocket elsewhere": (404, asked(*WEBSOCKET, KEY, path="/v1/alerts", close=False)),
    "a WebSocket without a key": (400, asked(*WEBSOCKET, path="/v1/ws", close=False)),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_every_answer_carries_the_headers(lenient: Node, case: str) -> None:
    expected, request = ANSWERS[case]
    status, headers = head_of(exchange(port_of(lenient), request))
    assert status == expected
    own = {"Content-Security-Policy"} if case == "Swagger UI" else set()
    missing = {
        name: headers.get(name.lower()) for name, value in DEFAULTS.items() if headers.get(name.lower()) != value
    }
    assert set(missing) == own, missing
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/console/main.js", "/console/settings.json"])
def test_the_files_of_the_console_are_kept_and_asked_for_again(lenient: Node, path: str) -> None:
    _, headers = head_of(exchange(port_of(lenient), asked(path=path)))
    assert headers["cache-control"] == "no-cache"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    for name in ("Permissions-Policy", "Referrer-Policy", "X-Content-Type-Options"):
        assert headers[name.lower()] == DEFAULTS[name]


def test_a_file_that_has_not_changed_carries_the_headers(lenient: Node) -> None:
    _, known = head_of(exchange(port_of(lenient), asked(path="/console/main.js")))
    again = asked(f"If-None-Match: {known['etag']}", path="/console/main.js")
    status, headers = head_of(exchange(port_of(lenient), again))
    assert status == 304
    assert {name: headers[name.lower()] for name in DEFAULTS} == {name: known[name.lower()] for name in DEFAULTS}


def test_a_stream_of_events_carries_the_headers(lenient: Node) -> None:
    with lenient.rest("alice", READ) as client, client.stream("GET", "/v1/events") as answer:
        assert {name: answer.headers.get(name) for name in DEFAULTS} == DEFAULTS


def test_an_error_of_the_service_carries_the_headers(lenient: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("service.http.health.exposition", fail)
    status, headers = head_of(exchange(port_of(lenient), asked(path="/metrics")))
    assert status == 500
    assert {name: headers.get(name.lower()) for name in DEFAULTS} == DEFAULTS


def test_an_answer_may_set_its_own_value(port: int) -> None:
    assert head_of(exchange(port, asked(path="/own")))[1]["cache-control"] == "no-cache"


# Where a client is sent.


@pytest.mark.parametrize(
    "path", ["/v1/alerts/", "/docs/", "/console", "/healthz/", f"//{FORGED}/", f"/v1//{FORGED}", f"/\\{FORGED}/"]
)
def test_nobody_is_sent_to_the_host_that_the_client_names(lenient: Node, path: str) -> None:
    answer = exchange(port_of(lenient), asked(f"Host: {FORGED}", f"X-Forwarded-Host: {FORGED}", path=path))
    status, headers = head_of(answer)
    assert status == 404
    assert "location" not in headers


def test_no_answer_names_the_host_that_the_client_names(lenient: Node) -> None:
    headers = {"Host": FORGED, "X-Forwarded-Host": FORGED, "Authorization": f"Bearer {token('billing', WRITE)}"}
    with httpx2.Client(base_url=lenient.base, headers=headers, **PLAIN) as client:
        stored = client.post("/v1/alerts", json={"title": "Where?"})
        assert stored.headers["Location"] == f"/v1/alerts/{stored.json()['id']}"
        for answer in (stored, *map(client.get, ("/openapi.json", "/docs", "/", "/nothing", "/console/settings.json"))):
            assert FORGED not in answer.text + str(answer.headers)
