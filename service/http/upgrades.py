"""Offers to change the protocol (``Upgrade``): the one that is taken, and those that are ignored.

llhttp stops behind the head of a request that offers another protocol, and skips its body: a server
that answers such a request takes the body for the next request. Whoever sends ``Upgrade: h2c``, as
``curl --http2`` and Java's client do, loses the body; whoever writes a request into it smuggles it
past a proxy. So the head of a request whose offer is not taken is parsed again, without the offer.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UpgradeOffers(HttpToolsProtocol):
    """One HTTP connection that takes the offer of a WebSocket, and ignores all others (RFC 9110, 7.8)."""

    def feed(self, data: bytes) -> bool:
        """Parse data that ends where headers end, if not before, and return whether their offer is taken."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                return True
            head = self._head_without_offer()
            self.parser = _parser(self)
            self.parser.feed_data(head)
        return False

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is parsed again."""
        if not self._is_ignored():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request, unless its head is parsed again."""
        if not self._is_ignored():
            super().on_message_complete()

    def _is_ignored(self) -> bool:
        # llhttp reads CONNECT as an offer, too; it has no path, and is refused.
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        """Return whether a WebSocket is offered, in a request that can be a handshake (RFC 6455, section 4.1).

        A body would be read as frames. What else is no handshake, the WebSocket core refuses.
        """
        has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self.headers
        )
        return self.parser.get_http_version() == "1.1" and not has_body and super()._should_upgrade()

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])


def _parser(protocol: HttpToolsProtocol) -> Any:
    """Return a parser as uvicorn makes it: one that ignores what follows ``Connection: close``."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
