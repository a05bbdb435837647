"""Checks before anything is sent: the address of the service, and the token."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from service.client.errors import ClientError

_TOKEN = re.compile(r"[!-~]+")


def checked_url(url: str) -> str:
    """Return the address of a service, without a slash at its end.

    Raises:
        ClientError: it is no ``http`` or ``https`` URL.

    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ClientError(f"{url!r} is no address of a service: it looks like https://tocsin.example")
    return url.rstrip("/")


def authorization(token: str) -> str:
    """Return the ``Authorization`` header for a token.

    Raises:
        ClientError: it cannot be a token. The message does not quote it.

    """
    if not _TOKEN.fullmatch(token):
        raise ClientError("the token is empty, or holds characters that no token has, such as a blank or a line break")
    return f"Bearer {token}"
