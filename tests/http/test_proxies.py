from __future__ import annotations

from typing import Any

import pytest

from service.http.proxies import HOPS_MAX, TrustedProxies

pytestmark = pytest.mark.unit

PEER = "10.0.0.1"


def found(
    trusted: str, *lines: str, peer: str | None = PEER, kind: str = "http", **headers: str
) -> tuple[str | None, str]:
    """Return the client and the scheme of a request from ``peer`` with these lines of ``X-Forwarded-For``."""
    raw = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    raw += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": kind, "headers": raw, "client": peer and (peer, 50_000), "scheme": "http"}
    TrustedProxies(trusted.split()).apply(scope)
    return scope["client"] and scope["client"][0], scope["scheme"]


@pytest.mark.parametrize(
    ("trusted", "lines", "client"),
    [
        # Nobody is trusted, or there is nothing to read.
        ("127.0.0.1", ["203.0.113.9"], PEER),
        ("", ["203.0.113.9"], PEER),
        (PEER, [], PEER),
        (PEER, [""], PEER),
        # From the right, to the first who is not trusted.
        (PEER, ["203.0.113.9"], "203.0.113.9"),
        (PEER, ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.0/8", ["198.51.100.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.0/8", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.0/8", ["203.0.113.9,10.0.0.2,\t10.0.0.3 "], "203.0.113.9"),
        # Everybody is trusted: the peer, and nobody beyond.
        ("*", ["203.0.113.9"], "203.0.113.9"),
        ("*", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("* 10.0.0.0/8", ["198.51.100.1, 10.0.0.2"], "10.0.0.2"),
        # Lines are one list.
        (PEER, ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("*", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.0/8", ["203.0.113.9", "10.0.0.2", "10.0.0.3"], "203.0.113.9"),
        # Ports, and IPv6 in all its forms.
        (PEER, ["203.0.113.9:443"], "203.0.113.9"),
        (PEER, ["2001:db8::9"], "2001:db8::9"),
        (PEER, ["2001:0DB8:0::9"], "2001:db8::9"),
        (PEER, ["[2001:db8::9]"], "2001:db8::9"),
        (PEER, ["[2001:db8::9]:443"], "2001:db8::9"),
        (PEER, ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.0/8", ["203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9"),
        ("10.0.0.0/8 2001:db8::/32", ["203.0.113.9, [2001:db8::1]:80"], "203.0.113.9"),
        # What is no address ends the list.
        (PEER, ["unknown"], PEER),
        ("*", ["unknown"], PEER),
        ("*", ["203.0.113.9, _hidden"], PEER),
        ("10.0.0.0/8", ["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
        (PEER, ["<script>alert(1)</script>"], PEER),
        (PEER, ["203.0.113.9\xa0"], PEER),
        (PEER, ["fe80::1%eth0"], PEER),
        (PEER, ["[2001:db8::9]x"], PEER),
        (PEER, ["[2001:db8::9"], PEER),
        (PEER, ["203.0.113.9:http"], PEER),
        (PEER, ["203.0.113"], PEER),
        (PEER, ["203.0.113.09"], PEER),
        (PEER, ["x" * 10_000], PEER),
        (PEER, ["203.0.113.9,"], PEER),
    ],
)
def test_the_client_is_the_first_from_the_right_whom_no_trusted_proxy_is(
    trusted: str, lines: list[str], client: str
) -> None:
    assert found(trusted, *lines) == (client, "http")


def test_the_way_through_trusted_proxies_is_bounded() -> None:
    entries = [f"10.1.{number // 250}.{number % 250}" for number in range(1000)]
    assert found("10.0.0.0/8", ",".join(entries))[0] == entries[-HOPS_MAX]


def test_a_mapped_address_of_the_peer_is_trusted_as_its_own() -> None:
    assert found(PEER, "203.0.113.9", peer=f"::ffff:{PEER}")[0] == "203.0.113.9"


def test_a_request_without_a_peer_stays_as_it_is() -> None:
    assert found("*", "203.0.113.9", peer=None) == (None, "http")


@pytest.mark.parametrize(
    ("kind", "proto", "scheme"),
    [
        ("http", "https", "https"),
        ("http", "HTTPS", "https"),
        ("http", "wss", "https"),
        ("websocket", "https", "wss"),
        ("websocket", "wss", "wss"),
        ("websocket", "http", "ws"),
        ("http", "http, https", "https"),
        ("http", "https, http", "http"),
        ("http", "javascript", "http"),
        ("http", "", "http"),
    ],
)
def test_the_scheme_is_what_the_last_proxy_says(kind: str, proto: str, scheme: str) -> None:
    assert found(PEER, kind=kind, x_forwarded_proto=proto)[1] == scheme
    assert found("192.0.2.1", kind=kind, x_forwarded_proto=proto)[1] == "http"


def test_other_headers_of_proxies_are_not_read() -> None:
    others = {"forwarded": "for=203.0.113.9;proto=https", "x_real_ip": "203.0.113.9", "x_forwarded_host": "x"}
    assert found("*", **others) == (PEER, "http")
