"""The client behind reverse proxies: ``X-Forwarded-For`` and ``X-Forwarded-Proto``.

A proxy appends the address that it was connected from to the right of ``X-Forwarded-For``; what
stands to the left of that was written by whoever connected. So the list is read from the right,
starting at the peer of the connection, and an entry counts only where the proxy that wrote it is
trusted. ``*`` trusts the peer, whoever it is, and nobody beyond it.

``Forwarded`` (RFC 7239), ``X-Forwarded-Host`` and ``X-Real-IP`` are not read.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    _Address = IPv4Address | IPv6Address

EVERY = "*"
HOPS_MAX = 32
"""The most proxies in a row that are followed."""

FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto")
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+):\d{1,5}")
"""``[2001:db8::7]``, ``[2001:db8::7]:443`` or ``192.0.2.7:443``."""
_SCHEMES = {"http", "https", "ws", "wss"}


class TrustedProxies:
    """The proxies whose headers are believed: addresses and networks, or ``*``."""

    def __init__(self, trusted: Iterable[str]) -> None:
        named = set(trusted)
        self._every = EVERY in named
        self._networks = [ip_network(name, strict=False) for name in named - {EVERY}]

    def apply(self, scope: MutableMapping[str, Any]) -> None:
        """Set ``client`` and ``scheme`` of an ASGI scope to those of the client."""
        addresses, schemes = ([value for name, value in scope["headers"] if name == which] for which in FORWARDED)
        peer = scope.get("client")
        if peer is None or not (addresses or schemes):
            return
        at = _address(peer[0])
        if not self._trusts(at):
            return
        if schemes and (scheme := _entries(schemes)[-1].lower()) in _SCHEMES:
            is_websocket = scope["type"] == "websocket"
            scope["scheme"] = scheme.replace("http", "ws") if is_websocket else scheme.replace("ws", "http")
        client = self._client(_entries(addresses))
        if client is not None:
            scope["client"] = (str(client), 0)

    def _client(self, entries: list[str]) -> _Address | None:
        """Return the first address from the right that no trusted proxy has; None: there is none.

        Where an entry is not an address, the proxy that wrote it is the client.
        """
        client = None
        for entry in entries[: -HOPS_MAX - 1 : -1]:
            if (address := _address(entry)) is None:
                break
            client = address
            if self._every or not self._trusts(address):
                break
        return client

    def _trusts(self, address: _Address | None) -> bool:
        return self._every or (address is not None and any(address in network for network in self._networks))


def _entries(lines: list[bytes]) -> list[str]:
    """Return the entries of a list header, whose lines are one list (RFC 9110, section 5.3)."""
    return [entry.strip(" \t") for entry in b",".join(lines).decode("latin-1").split(",")]


def _address(entry: str) -> _Address | None:
    """Return the address of an entry, without its port; None: it is something else."""
    found = _WITH_PORT.fullmatch(entry)
    try:
        address = ip_address((found[1] or found[2]) if found else entry)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id is not None else address.ipv4_mapped or address
    return address
