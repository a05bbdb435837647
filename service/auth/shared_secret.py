"""Shared secrets (HS256): what makes one acceptable, the development secret, and signing tokens.

The module imports neither PyJWT nor cryptography, which would take most of the time of ``tocsin
token``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from service.errors import ConfigurationError, TocsinError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic import SecretStr

    from service.settings import AuthSettings

SECRET_MIN_BYTES = 32
SECRET_MIN_PAIRS = 16
"""Different pairs of neighbouring bytes. 32 random hex digits have about 29, and what repeats a
pattern of fewer than 16 bytes, or one byte, has fewer."""
_EXAMPLES = frozenset(
    {
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI
        "a-string-secret-at-least-256-bits-long",  # jwt.io
        "your-256-bit-secret-your-256-bit-secret",
        "your-secret-key-at-least-32-characters-long",
        "your-super-secret-jwt-token-with-at-least-32-characters-long",  # Supabase
    }
)
"""Secrets of documentation, which everybody knows."""
_PLACEHOLDER = re.compile(r"<.*>|\$\{.*\}|\$\(.*\)|\{\{.*\}\}", re.DOTALL)
_WORD = re.compile(
    "battery|change|characters|correct|development|example|horse|insecure|long|openssl|password|placeholder|please"
    "|production|random|rand|replace|secret|staple|string|super|this|tocsin|token|your"
)
"""Words of placeholders; a secret with two of them is judged by what else it holds."""
_ROWS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = frozenset(pair for row in _ROWS for pair in (*pairwise(row), *pairwise(reversed(row))))
DEV_KEY_FILE = "dev-secret"
_ASYMMETRIC_KEY = re.compile(rb"\A(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-nistp)|----[- ]BEGIN ")
"""An SSH key, or anything in PEM form: more than PyJWT refuses as an HMAC secret."""


class UnacceptableKey(TocsinError):
    """A key is too weak, or of a kind that is not used. The message says why."""


def check_secret(secret: bytes) -> None:
    """Check that a shared secret is acceptable for HS256.

    Raises:
        UnacceptableKey: it is too short, can be guessed, or is not a secret but a key.

    """
    if _ASYMMETRIC_KEY.search(secret):
        raise UnacceptableKey("this is a key, not a secret: put it in a file and set TOCSIN_JWT_PUBLIC_KEY_FILE")
    if len(secret) < SECRET_MIN_BYTES:
        raise UnacceptableKey(
            f"the secret has {len(secret)} bytes; HS256 needs {SECRET_MIN_BYTES} or more (RFC 7518, 3.2)"
        )
    if len(set(pairwise(secret))) < SECRET_MIN_PAIRS or _is_guessable(secret.decode("latin-1").strip().casefold()):
        raise UnacceptableKey("the secret can be guessed: use a random one, such as openssl rand -base64 48 prints")


def _is_guessable(text: str) -> bool:
    """Return whether a secret is an example, a placeholder, or mostly runs of the alphabet or the keyboard."""
    words = _WORD.findall(text)
    return (
        text in _EXAMPLES
        or _PLACEHOLDER.fullmatch(text) is not None
        or (len(set(words)) > 1 and len(text) - sum(map(len, words)) < SECRET_MIN_BYTES)
        or 2 * sum(pair in _NEIGHBOURS for pair in pairwise(text)) >= len(text)
    )


def read_secret(secret: SecretStr | None, setting: str = "TOCSIN_JWT_SECRET") -> bytes | None:
    """Return a configured shared secret, None where there is none.

    Raises:
        ConfigurationError: it cannot be used; the message names the setting, not the secret.

    """
    if secret is None:
        return None
    try:
        text = secret.get_secret_value().encode()
        check_secret(text)
    except UnicodeEncodeError:
        raise ConfigurationError(f"{setting} is not UTF-8: write random bytes in hex or base64") from None
    except UnacceptableKey as error:
        raise ConfigurationError(f"{setting}: {error}") from None
    return text


def read_dev_secret(data_dir: Path) -> bytes | None:
    """Return the development secret kept in ``data_dir``, if one was made.

    Raises:
        ConfigurationError: the file is damaged.

    """
    try:
        secret = (data_dir / DEV_KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(secret) < SECRET_MIN_BYTES:
        raise ConfigurationError(f"{data_dir / DEV_KEY_FILE} is damaged: delete it, and a new one is made")
    return secret


def make_dev_secret(data_dir: Path) -> bytes:
    """Return the development secret, which is made once and kept with mode 0600.

    The file is created atomically: processes that start together all get the same secret.

    Raises:
        ConfigurationError: the file is damaged.

    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if (known := read_dev_secret(data_dir)) is not None:
        return known
    secret = secrets.token_urlsafe(48).encode()
    file, name = tempfile.mkstemp(prefix=f"{DEV_KEY_FILE}.", dir=data_dir)  # with mode 0600
    draft = data_dir / name
    with os.fdopen(file, "wb") as stream:
        stream.write(secret)
    try:
        os.link(draft, data_dir / DEV_KEY_FILE)
    except FileExistsError:
        return make_dev_secret(data_dir)
    finally:
        draft.unlink()
    return secret


def mint(  # noqa: PLR0913 - a token's claims, each named at the call
    secret: bytes,
    settings: AuthSettings,
    *,
    subject: str,
    scope: str,
    topics: Iterable[str] | None = None,
    ttl_seconds: float = 3600,
    jti: str | None = None,
) -> str:
    """Sign a token with a shared secret (HS256), as ``tocsin token`` and the tests need it."""
    now = time.time()
    claims: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience[0],
        "sub": subject,
        "scope": scope,
        "iat": now,
        "exp": now + ttl_seconds,
    }
    if topics is not None:
        claims["topics"] = list(topics)
    if jti is not None:
        claims["jti"] = jti
    signed = f"{_base64url(_json({'alg': 'HS256', 'typ': 'at+jwt'}))}.{_base64url(_json(claims))}"
    return f"{signed}.{_base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> str:
    """Encode without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
