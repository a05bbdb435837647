"""Why a request got no answer, and whether it is worth another attempt.

A wrong setting of this machine fails at once: nothing cures it while the client waits. What may pass
is retried. That includes a service whose name is not known: in a cluster, names come and go with what
they stand for.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from websockets.exceptions import InvalidProxyStatus

from service.client.errors import ClientError, Unreachable
from service.client.validation import UNUSABLE_PROXY

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROXIES = {
    "http": ("http", "all"),
    "https": ("https", "all"),
    "ws": ("ws", "socks", "https", "http"),
    "wss": ("wss", "socks", "https"),
}
"""The proxies of the environment that are used for a scheme, by the libraries of HTTP and of WebSockets."""
_NO_TLS = frozenset({"HTTP_REQUEST", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"})
"""What OpenSSL calls an answer that is not TLS."""
_REFUSED = "the proxy of the environment refused to connect, with HTTP status {}: correct HTTPS_PROXY or ALL_PROXY"


def failure(error: Exception, url: str, *, trust_env: bool, protocol: Literal["http", "ws"] = "http") -> ClientError:
    """Return what to raise for ``error``: ``Unreachable`` if another attempt may succeed.

    ``url`` is the address that was connected to. The message does not quote that of a proxy, which
    may hold a password.
    """
    for cause in _causes(error):
        wrong = _wrong_address(cause, url)
        if wrong is None and trust_env:
            wrong = _wrong_proxy(cause, url, protocol)
        if wrong is not None:
            return ClientError(wrong)
    return Unreachable(f"{url} did not answer: {str(error) or type(error).__name__}")


def _wrong_address(cause: BaseException, url: str) -> str | None:
    match cause:
        case ssl.SSLCertVerificationError(verify_message=why):
            return f"the certificate of {url} cannot be trusted: {why}"
        case ssl.SSLError(reason=reason) if reason in _NO_TLS:
            return f"{url} does not answer with TLS: it may have to begin with http:// instead"
    return None


def _wrong_proxy(cause: BaseException, url: str, protocol: str) -> str | None:
    match cause:
        case UnicodeError():  # the name of the service was checked
            return UNUSABLE_PROXY
        case socket.gaierror(errno=socket.EAI_NONAME) if _has_proxy(url, protocol):
            return UNUSABLE_PROXY
        case httpx2.ProxyError():
            status = str(cause).partition(" ")[0]
        case InvalidProxyStatus(response=response):
            status = str(response.status_code)
        case _:
            return None
    return _REFUSED.format(status) if status.startswith("4") else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _has_proxy(url: str, protocol: str) -> bool:
    """Return whether a proxy of the environment leads to ``url``, so that this machine looks up no other name."""
    parts, proxies = urlsplit(url), getproxies()
    scheme = protocol + parts.scheme.removeprefix("http")
    return any(name in proxies for name in _PROXIES[scheme]) and not proxy_bypass(parts.netloc)
