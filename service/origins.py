"""Web origins (RFC 6454): the scheme, the host and the port of a page."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import NamedTuple, Self

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PORT_MAX = 65535
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII
)


class Origin(NamedTuple):
    """An origin. Two are the same only if all three parts are."""

    scheme: str
    host: str
    port: int | None
    """None for a scheme without a default port, such as that of a browser extension."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the origin that ``text`` writes, such as ``https://console.example:8443``; None: it is not one."""
        if (found := _ORIGIN.fullmatch(text)) is None:
            return None
        scheme, host = found[1].lower(), found[2].lower()
        if host.startswith("["):
            try:
                host = f"[{ip_address(host[1:-1]).compressed}]"
            except ValueError:
                return None
        port = int(found[3]) if found[3] else _DEFAULT_PORTS.get(scheme)
        return None if port is not None and port > _PORT_MAX else cls(scheme, host, port)

    def __str__(self) -> str:
        """Return it as a browser writes it."""
        shown = "" if self.port in (None, _DEFAULT_PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{self.host}{shown}"
