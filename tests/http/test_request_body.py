from __future__ import annotations

import json
import socket
import time
from contextlib import closing, suppress
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from pydantic import BaseModel

from service.errors import InvalidRequest, MalformedRequest, RequestTimeout, RequestTooLarge, UnsupportedMedia
from service.http.request_body import json_body, media_type, read_body, read_json, read_model
from service.settings import ServerSettings, Settings
from tests.harness import PATIENCE, PLAIN, WRITE, serving, token
from tests.http.requests import request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from tests.harness import Node

MAX = 256 * 1024
JSON = {"Content-Type": "application/json"}
TIMEOUT = 0.5


@pytest.fixture(scope="module")
def hurried(shared_url: str) -> Iterator[Node]:
    """A node that waits half a second for headers, and as long for a body."""
    with serving(shared_url, Settings(server=ServerSettings(request_timeout_seconds=TIMEOUT))) as running:
        yield running


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest() as client:
        yield client


def connected(node: Node) -> socket.socket:
    host, port = node.base.removeprefix("http://").split(":")
    opened = socket.create_connection((host, int(port)), timeout=PATIENCE)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def head(*lines: str, bearer: str | None = None) -> bytes:
    authorization = f"Authorization: Bearer {bearer or token('billing', WRITE)}"
    return "\r\n".join(["POST /v1/alerts HTTP/1.1", "Host: node", authorization, *lines, "", ""]).encode()


def everything(opened: socket.socket) -> bytes:
    """Read until the node hangs up."""
    answer = b""
    while chunk := opened.recv(65536):
        answer += chunk
    return answer


def status_of(opened: socket.socket) -> int:
    """Read one answer to its end, and return its status."""
    answer = HTTPResponse(opened)
    answer.begin()
    answer.read()
    return answer.status


def padded(size: int) -> bytes:
    """Return a good alert that is ``size`` bytes long."""
    return json.dumps({"title": "padded"}).encode().ljust(size)


def in_chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


# Reading, without a server.


class Thing(BaseModel):
    """Something to read."""

    size: int


def asked(*body: bytes, then: str = "ends", timeout: float = PATIENCE, **headers: str) -> Request:
    """Return a request with JSON, unless ``headers`` say otherwise."""
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    settings = ServerSettings(request_max_bytes=1024, request_timeout_seconds=timeout)
    return request(settings, headers=named, body=body, then=then)


@pytest.mark.unit
async def test_a_body_is_joined_from_its_chunks() -> None:
    assert await read_body(asked(b"", b"one, ", b"two", b"")) == b"one, two"


@pytest.mark.unit
@pytest.mark.parametrize(("max_bytes", "limit"), [(None, 1024), (100, 100), (5000, 5000)])
async def test_a_body_may_be_as_long_as_the_limit(max_bytes: int | None, limit: int) -> None:
    assert await read_body(asked(b"x" * (limit - 1), b"x"), max_bytes=max_bytes) == b"x" * limit
    with pytest.raises(RequestTooLarge, match=str(limit)):
        await read_body(asked(b"x" * limit, b"x"), max_bytes=max_bytes)


@pytest.mark.unit
async def test_no_more_is_read_than_shows_that_a_body_is_too_long() -> None:
    endless = asked(*[b"x" * 600] * 10, then="stays silent")
    with pytest.raises(RequestTooLarge):
        await read_body(endless)
    assert endless.receive.received == 2  # type: ignore[attr-defined] # the client of the test counts
    announced = asked(b"x", Content_Length="1025")
    with pytest.raises(RequestTooLarge):
        await read_body(announced)
    assert announced.receive.received == 0  # type: ignore[attr-defined]


@pytest.mark.unit
@pytest.mark.parametrize("length", ["-1", "0x10", "1e3", " ", "five"])
async def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(MalformedRequest):
        await read_body(asked(b"x", Content_Length=length))


@pytest.mark.unit
async def test_a_body_that_does_not_arrive_is_refused() -> None:
    with pytest.raises(RequestTimeout, match=r"0\.01 s") as refused:
        await read_body(asked(b"{", then="stays silent", timeout=0.01))
    assert refused.value.headers["Connection"] == "close"
    with pytest.raises(MalformedRequest, match="ended early"):
        await read_body(asked(b"{", then="hangs up"))


@pytest.mark.unit
async def test_json_is_read() -> None:
    assert await read_json(asked(b'{"a": ', b"[1, null]}")) == {"a": [1, None]}
    assert await read_model(asked(b'{"size": 3}'), Thing) == Thing(size=3)
    assert await json_body(Thing, charges=False)(asked(b'{"size": 3}')) == Thing(size=3)


@pytest.mark.unit
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b"[" * 2000, b"{'a': 1}"])
async def test_what_is_not_json_is_refused(body: bytes) -> None:
    for read in (read_json(asked(body), max_bytes=5000), read_model(asked(body), Thing, max_bytes=5000)):
        with pytest.raises((MalformedRequest, InvalidRequest)) as refused:
            await read
        assert refused.value.status == 400 or body == b"NaN"  # which pydantic reads, and then refuses


@pytest.mark.unit
async def test_a_field_that_is_not_valid_is_pointed_at() -> None:
    with pytest.raises(InvalidRequest) as refused:
        await read_model(asked(b'{"size": "big"}'), Thing)
    assert refused.value.errors is not None
    assert refused.value.errors[0]["pointer"] == "/size"


@pytest.mark.unit
async def test_what_is_not_announced_as_json_is_not_read() -> None:
    for read in (read_json, lambda announced: read_model(announced, Thing)):
        announced = asked(b"{}", Content_Type="text/plain")
        with pytest.raises(UnsupportedMedia):
            await read(announced)
        assert announced.receive.received == 0  # type: ignore[attr-defined]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("announced", "expected"),
    [
        ("application/json", "application/json"),
        (" Application/JSON ; charset=utf-8", "application/json"),
        ("application/vnd.a+json", "application/vnd.a+json"),
        ("", ""),
    ],
)
def test_a_media_type_is_read_without_its_parameters(announced: str, expected: str) -> None:
    assert media_type(asked(Content_Type=announced)) == expected


# Size.


@pytest.mark.parametrize("announced", [True, False], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(MAX, 201), (MAX + 1, 413), (8 * MAX, 413)])
def test_a_body_may_be_256_kib_long(rest: httpx2.Client, announced: bool, size: int, status: int) -> None:  # noqa: FBT001
    body: Any = padded(size) if announced else in_chunks(padded(size))
    answer = rest.post("/v1/alerts", content=body, headers=JSON)
    assert answer.status_code == status
    assert ("content-length" in answer.request.headers) is announced


def test_a_body_that_is_announced_too_long_is_refused_before_it_is_sent(lenient: Node) -> None:
    with closing(connected(lenient)) as opened:
        opened.sendall(head("Content-Type: application/json", f"Content-Length: {MAX + 1}"))
        answer = b""
        while not answer.endswith(b"}"):
            answer += opened.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"request_too_large"' in answer


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 9"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: -1"],
        ["Content-Length: " + "9" * 5000],
        ["Content-Length: 0x10"],
    ],
    ids=["twice", "and chunked", "negative", "huge", "hex"],
)
def test_an_ambiguous_length_is_refused(lenient: Node, lines: list[str]) -> None:
    with closing(connected(lenient)) as opened:
        opened.sendall(head("Content-Type: application/json", *lines) + b'{"title":"a"}')
        assert everything(opened).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.a+json"]
)
def test_json_is_announced_as_json(rest: httpx2.Client, media_type: str) -> None:
    assert rest.post("/v1/alerts", content=padded(50), headers={"Content-Type": media_type}).status_code == 201


@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json", "multipart/form-data"],
)
def test_anything_else_is_not_taken(rest: httpx2.Client, media_type: str) -> None:
    answer = rest.post("/v1/alerts", content=padded(50), headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "chunks",
    [[b"X: " + b"x" * 100_000], [b"X: " + b"x" * 100_000 + b"\r\n\r\n"], [b"X: y\r\n"] * 20_000, [b"x" * 1000] * 100],
    ids=["one that does not end", "one that is whole", "many", "one in pieces"],
)
def test_headers_over_32_kib_are_refused(lenient: Node, chunks: list[bytes]) -> None:
    with closing(connected(lenient)) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up before all is written
            for chunk in chunks:
                opened.sendall(chunk)
        assert status_of(opened) == 431


def test_headers_under_32_kib_are_taken_again_and_again(lenient: Node) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as client:
        for _ in range(5):
            assert client.get("/healthz", headers={"X": "x" * 30_000}).status_code == 200


def test_a_large_body_is_not_taken_for_headers_where_their_end_is_torn(lenient: Node) -> None:
    body = padded(200_000)
    request = head("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close") + body
    for tear in range(4):
        end = request.index(b"\r\n\r\n") + tear
        with closing(connected(lenient)) as opened:
            opened.sendall(request[:end])
            time.sleep(0.02)  # nothing to wait for: it only makes it likely that the halves are read apart
            opened.sendall(request[end:])
            assert everything(opened).startswith(b"HTTP/1.1 201 ")


# Time.


@pytest.mark.parametrize(
    "begun", [b"", b"GE", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: node\r\nX"]
)
def test_headers_that_do_not_end_are_answered_408(hurried: Node, begun: bytes) -> None:
    with closing(connected(hurried)) as opened:
        opened.sendall(begun)
        assert everything(opened).startswith(b"HTTP/1.1 408 ")


def test_headers_that_trickle_are_answered_408(hurried: Node) -> None:
    with closing(connected(hurried)) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n")
        opened.settimeout(TIMEOUT / 5)
        for _ in range(100):
            try:
                answer = opened.recv(1000)
                break
            except TimeoutError:
                opened.sendall(b"X: y\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "begun", [b"\r\n", b"G", b"GET /healthz HTTP/1.1\r\nX"], ids=["a blank line", "a letter", "a header"]
)
def test_a_second_request_that_does_not_end_is_answered_408(hurried: Node, begun: bytes) -> None:
    with closing(connected(hurried)) as opened:
        opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
        assert status_of(opened) == 200
        opened.sendall(begun)
        assert everything(opened).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("length", "begun"),
    [("Content-Length: 100", b'{"title":'), ("Transfer-Encoding: chunked", b'9\r\n{"title":\r\n')],
    ids=["Content-Length", "chunked"],
)
def test_a_body_that_does_not_end_is_answered_408(hurried: Node, length: str, begun: bytes) -> None:
    with closing(connected(hurried)) as opened:
        opened.sendall(head("Content-Type: application/json", length) + begun)
        answer = everything(opened)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_the_rest_of_a_refused_request_is_not_waited_for_for_ever(hurried: Node) -> None:
    with closing(connected(hurried)) as opened:
        opened.sendall(head("Content-Type: application/json", "Content-Length: 100", bearer="none"))
        assert status_of(opened) == 401
        opened.sendall(b"x")
        assert everything(opened) == b""


def test_a_client_that_hangs_up_early_stores_nothing_and_harms_nobody(lenient: Node) -> None:
    with lenient.rest() as client:
        before = client.get("/v1/alerts").json()["head"]
        for _ in range(5):
            with closing(connected(lenient)) as opened:
                opened.sendall(head("Content-Type: application/json", "Content-Length: 100") + b'{"title":"half"}')
        assert client.post("/v1/alerts", json={"title": "next"}).json()["seq"] == before + 1
