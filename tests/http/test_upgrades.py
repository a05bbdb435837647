"""Offers of other protocols over a real socket: the request is read as if there were none."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.harness import PATIENCE, WRITE, token
from tests.http.test_edge import (
    BEARER,
    KEY,
    WEBSOCKET,
    asked,
    chunked,
    echoed,
    exchange,
    head_of,
    port_of,
    serving_echo,
)
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node

BODY = asked("X-Own: smuggled", path="/smuggled")  # what must stay a body is a whole request
OFFERS = {
    "another protocol": ("Connection: Upgrade", "Upgrade: x"),
    "curl --http2": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQA"),
    "another case": ("CONNECTION: UPGRADE", "UPGRADE: H2C"),
    "a list": ("Connection: Upgrade", "Upgrade: foo, websocket"),
    "several lines": ("Connection: keep-alive", "Connection: upgrade", "Upgrade: foo/2", "Upgrade: bar"),
    "a WebSocket with a body": (*WEBSOCKET, KEY),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving_echo() as opened:
        yield opened


def bodies(answers: bytes) -> list[str]:
    """Return the bodies that the application read, one of each request."""
    return [echoed(answer)["body"] for answer in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]


@pytest.mark.parametrize("coding", ["length", "chunked"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_behind_an_offer_is_read_and_is_no_request(port: int, offer: str, method: str, coding: str) -> None:
    length, sent = (
        (f"Content-Length: {len(BODY)}", BODY) if coding == "length" else ("Transfer-Encoding: chunked", chunked(BODY))
    )
    with closing(socket.create_connection(("127.0.0.1", port), timeout=0.2)) as opened:
        opened.sendall(asked(*OFFERS[offer], length, method=method, close=False))
        with pytest.raises(TimeoutError):
            opened.recv(1)  # the request is not complete
        opened.settimeout(PATIENCE)
        opened.sendall(sent + asked())
        answers = b"".join(iter(lambda: opened.recv(65536), b""))
    assert bodies(answers) == [BODY.decode(), ""]


def test_offers_on_pipelined_requests_are_ignored_one_after_another(port: int) -> None:
    offered = asked(*OFFERS["another protocol"], "Content-Length: 1", method="POST", close=False)
    sent = b"".join(offered + b"%d" % (number % 10) for number in range(300))
    assert bodies(exchange(port, sent + asked())) == [*(str(number % 10) for number in range(300)), ""]


def test_an_offer_on_the_last_request_of_a_connection_is_ignored(port: int) -> None:
    sent = asked("Connection: Upgrade, close", "Upgrade: x", "Content-Length: 4", method="POST", close=False)
    answer = exchange(port, sent + b"body")
    assert head_of(answer)[0] == 200
    assert bodies(answer) == ["body"]


@pytest.mark.parametrize("lines", [("Content-Length: 0",), ()])
def test_a_handshake_without_a_body_is_taken(lenient: Node, lines: tuple[str, ...]) -> None:
    sent = asked(*WEBSOCKET, KEY, BEARER, *lines, path="/v1/ws", close=False)
    assert exchange(port_of(lenient), sent).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("method", "lines", "body"),
    [
        ("POST", ("Content-Length: 4",), b"body"),
        ("GET", ("Content-Length: 4",), b"body"),
        ("GET", ("Upgrade: x",), b""),
    ],
)
def test_what_can_be_no_handshake_is_answered_as_http(
    lenient: Node, method: str, lines: tuple[str, ...], body: bytes
) -> None:
    sent = asked(*WEBSOCKET, KEY, BEARER, *lines, method=method, path="/v1/ws", close=False)
    answer = exchange(port_of(lenient), sent + body + asked(path="/healthz"))
    assert [line[:3] for line in answer.split(b"HTTP/1.1 ")[1:]] == [b"404", b"200"]


def test_an_alert_posted_with_an_offer_is_stored_and_one_in_its_body_is_not(lenient: Node) -> None:
    bearer = f"Authorization: Bearer {token('billing', WRITE)}"
    alert = b'{"title":"with an offer"}'
    lines = (bearer, "Content-Type: application/json", f"Content-Length: {len(alert)}")
    inner = asked(*lines, method="POST", path="/v1/alerts", close=False) + alert
    outer = asked(*OFFERS["curl --http2"], f"Content-Length: {len(inner)}", method="POST", path="/nope")
    answer = exchange(port_of(lenient), outer + inner)
    assert head_of(answer)[0] == 404
    assert answer.count(b"HTTP/1.1 ") == 1
    offered = asked(*OFFERS["curl --http2"], *lines, method="POST", path="/v1/alerts", close=False)
    assert exchange(port_of(lenient), offered + alert + asked()).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("header", ["Accept: */*", "Transfer-Encoding: chunked", "Expect: 100-continue"])
@pytest.mark.parametrize("size", [20, 200_000])
def test_what_curl_posts_with_an_offer_of_http2_is_stored(lenient: Node, size: int, header: str) -> None:
    if not shutil.which("curl"):
        missing("curl is not installed")
    command = ["curl", "-sv", "--http2", "--noproxy", "*", f"{lenient.base}/v1/alerts", "--data-binary", "@-"]
    headers = [f"Authorization: Bearer {token('billing', WRITE)}", "Content-Type: application/json", header]
    done = subprocess.run(
        [*command, *(option for line in headers for option in ("-H", line))],
        input='{"title":"from curl"'.ljust(size) + "}",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "> Upgrade: h2c" in done.stderr
    assert "< HTTP/1.1 201 " in done.stderr, done.stdout
