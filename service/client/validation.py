"""Checks before anything is sent: the service's address, the token, an idempotency key, and a stream's start."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2

from service.client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS = re.compile(r"https?://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?(?:/[^?#\s]*)?", re.IGNORECASE)
_PORT_MAX = 65535
_TOKEN = re.compile(r"[!-~]+")
_CONSUMER = re.compile(r"[A-Za-z0-9._-]{1,100}")
_KEY_MAX = 200
_START = re.compile(r"latest|[0-9]{1,19}(-[0-9a-f]{8})?")
UNUSABLE_PROXY = "the proxy of the environment cannot be used: correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"


def checked_url(url: str) -> str:
    """Return the address of a service, without a slash at its end.

    Raises:
        ClientError: it is no ``http`` or ``https`` URL, or holds a password. The message shows nothing of
            it.

    """
    if "@" in url:
        raise ClientError("the address of a service has no user and no password: a token says who calls")
    found = _ADDRESS.fullmatch(url)
    if found is None or int(found[1] or 0) > _PORT_MAX or not _has_host(url):
        raise ClientError("the address of the service must look like https://tocsin.example")
    return url.rstrip("/")


def _has_host(url: str) -> bool:
    """Return whether a resolver takes the host of ``url``, which may be an address of IPv6."""
    try:
        httpx2.URL(url).host.encode("idna")
    except (httpx2.InvalidURL, UnicodeError):
        return False
    return True


@contextmanager
def usable_environment(*, trust_env: bool) -> Iterator[None]:
    """Say what is wrong where the block fails for what the environment says about proxies and certificates.

    Raises:
        ClientError: it did. The message quotes nothing: the address of a proxy may hold a password.

    """
    try:
        if trust_env:
            _check_ports_of_proxies()
        yield
    except (httpx2.InvalidURL, ValueError, ImportError):
        raise ClientError(UNUSABLE_PROXY) from None
    except OSError:  # also what ssl raises
        raise ClientError(
            "the certificates of the environment cannot be read: correct SSL_CERT_FILE or SSL_CERT_DIR"
        ) from None


def _check_ports_of_proxies() -> None:
    """Raise ``ValueError`` for a port beyond 65535, of which httpx2 uses the last 16 bits."""
    proxies = getproxies()
    for scheme in ("http", "https", "all"):
        _ = urlsplit(proxies.get(scheme, "")).port


def authorization(token: str) -> str:
    """Return the ``Authorization`` header for a token.

    Raises:
        ClientError: it cannot be a token. The message does not quote it.

    """
    if not _TOKEN.fullmatch(token):
        raise ClientError("the token is empty, or holds characters that no token has, such as a blank or a line break")
    return f"Bearer {token}"


def checked_consumer(name: str | None) -> str | None:
    """Return the name of a consumer; None: it has none.

    Raises:
        ClientError: it is not 1 to 100 of the characters that are allowed.

    """
    if name is not None and not _CONSUMER.fullmatch(name):
        raise ClientError(f"{name!r} is no name of a consumer: 1 to 100 of a-z, A-Z, 0-9, dot, _ and -")
    return name


def checked_key(key: object) -> str:
    """Return the idempotency key of a post.

    Raises:
        ClientError: the service would refuse it, or a header cannot hold it.

    """
    if not isinstance(key, str) or not 0 < len(key) <= _KEY_MAX or not key.isprintable() or key != key.strip():
        raise ClientError("idempotency_key must be text of 1 to 200 printable characters, without blanks at its ends")
    return key


def start_of(after: int | str | None) -> str | None:
    """Return where a stream starts, as the service is asked for it; None: where this admin left off.

    Raises:
        ClientError: it is neither a cursor, nor a seq, nor ``latest``.

    """
    if after is not None and not _START.fullmatch(str(after)):
        raise ClientError(f"{after!r} is no cursor: it looks like 4711-9f3a2c1d, or is a seq, or latest")
    return None if after is None else str(after)
