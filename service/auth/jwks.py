"""Keys that rotate: the keys of an issuer from a JWK set (RFC 7517), in a file or at a URL.

::

               one second after the last fetch (file), or jwks_ttl_seconds (URL);
               or a token names a key that is not in the set
    ┌────────┐ ───────────────────────────────────────────────────────────► ┌──────────┐
    │ cached │                                                              │ fetching │
    └────────┘ ◄─────────────────────────────────────────────────────────── └──────────┘
               a set with a usable key replaces all keys; anything else keeps them

Verifying with a known key never waits. Only a token that names an unknown key may wait, for a fetch
that it shares with all others. If that fetch brings no such key, tokens with unknown keys are
refused at once until the minimum interval is over: a flood of them causes one fetch per interval.

A fetch is limited in time and size, follows no redirect, and uses only ``https`` or a loopback
address.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from service.auth.keys import VerificationKey, public_key, shared_secret
from service.auth.shared_secret import UnacceptableKey
from service.errors import KeysUnavailable, RequestRefused, TocsinError, TokenInvalid
from service.logs import get_logger
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from service.settings import AuthSettings

log = get_logger(__name__)

SET_MAX_BYTES = 256 * 1024
SET_MAX_KEYS = 100
KID_LOGGED = 100
"""Characters of the ``kid`` of a key that was skipped that the log shows."""
FILE_SECONDS = 1
"""How often a JWKS file is read. Its content is compared, because its modification time may not
change."""

KeySet = dict[str | None, tuple[VerificationKey, ...]]
_UNKNOWN_AUTHORITY = ("unable to get local issuer certificate", "self-signed certificate", "self signed certificate")
"""How OpenSSL says that nobody trusted issued a certificate; the last is that of version 1.1."""
_READERS: dict[Any, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


class InvalidKeySet(TocsinError):
    """The content is no JWK set, or has no usable key. The message says why."""


class UnknownKeyId(TocsinError):
    """A token names a key that is not in the set; ``keys.refresh()`` may fetch it."""

    def __init__(self, keys: RotatingKeys) -> None:
        super().__init__("the key is unknown")
        self.keys = keys


# Reading a set.


def parse_key_set(
    content: bytes, *, algorithm: str | None = None, secrets: bool = False, source: str | None = None
) -> KeySet:
    """Return the usable keys of a JWK set by ``kid``; several may share one (RFC 7517, section 4.5).

    ``algorithm`` is that of RSA keys without an ``alg``, and ``source`` what the log calls the set. A
    key that cannot be used (for encryption, of another kind, too weak, private) is skipped; so is a
    shared secret unless ``secrets``, because it must not be published.

    Raises:
        InvalidKeySet: it is no JWK set, or none of its keys can be used.

    """
    try:
        members = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        members = None
    if not isinstance(members, list):
        raise InvalidKeySet("it is no JWK set")
    if len(members) > SET_MAX_KEYS:
        raise InvalidKeySet(f"it has {len(members)} keys; {SET_MAX_KEYS} is the most")
    keys: KeySet = {}
    for member in members:
        try:
            kid, key = _read_key(member, algorithm, secrets=secrets)
        except UnacceptableKey as error:
            log.warning("key skipped", source=source, kid=_kid_of(member), reason=str(error))
        else:
            keys[kid] = (*keys.get(kid, ()), key)
    if not keys:
        raise InvalidKeySet("it has no key that can be used")
    return keys


def _kid_of(jwk: Any) -> str | None:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return kid[:KID_LOGGED] if isinstance(kid, str) else None


def _read_key(jwk: Any, algorithm: str | None, *, secrets: bool) -> tuple[str | None, VerificationKey]:
    if not isinstance(jwk, dict) or not isinstance(kid := jwk.get("kid"), str | None):
        raise UnacceptableKey("it is no JWK")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise UnacceptableKey("it is not for verifying signatures")
    if "d" in jwk:
        raise UnacceptableKey("it is a private key, and must not be here")
    kind, named = jwk.get("kty"), jwk.get("alg")
    try:
        if kind == "oct":
            return kid, _read_secret(jwk, secrets=secrets)
        if kind not in _READERS:
            raise UnacceptableKey("it is of a kind that is not used")
        key = _READERS[kind].from_jwk(jwk)
    except (InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError):
        raise UnacceptableKey("it is malformed") from None
    if named == "Ed25519":  # a newer name of what RFC 8037 calls EdDSA (RFC 9864, section 2.2)
        named = "EdDSA"
    return kid, public_key(key, named if named is not None or kind != "RSA" else algorithm)


def _read_secret(jwk: dict[str, Any], *, secrets: bool) -> VerificationKey:
    if not secrets:
        raise UnacceptableKey("it is a shared secret, and must not be published")
    if jwk.get("alg", "HS256") != "HS256":
        raise UnacceptableKey("a shared secret is for HS256")
    return shared_secret(HMACAlgorithm.from_jwk(jwk))


# Fetching a set.


def trusted_authorities(file: Path | None = None) -> ssl.SSLContext:
    """Return the certificate authorities of ``file`` alone, or else those of the system.

    The latter are those of the variables ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``, where one is set.

    Raises:
        OSError: the file cannot be read, or holds no certificate (an ``ssl.SSLError``).

    """
    authorities = httpx2.create_ssl_context() if file is None else ssl.create_default_context(cafile=file)
    # Python 3.13 and later ask for each field of RFC 5280, which certificates of private authorities lack.
    authorities.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return authorities


async def fetch(url: str, timeout_seconds: float, authorities: ssl.SSLContext | None = None) -> bytes:
    """Return the content at ``url``; its certificate is of one of ``authorities``, by default the system's.

    Raises:
        httpx2.HTTPError: the request failed.
        TimeoutError: it took longer than ``timeout_seconds`` as a whole.
        InvalidKeySet: the status is not 200, or the content is too large.

    """
    # trust_env=False: no proxy and no password from environment variables.
    client = httpx2.AsyncClient(trust_env=False, timeout=timeout_seconds, verify=authorities or trusted_authorities())
    async with asyncio.timeout(timeout_seconds), client:
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with client.stream("GET", url, headers=headers, follow_redirects=False) as response:
            if response.status_code != httpx2.codes.OK:
                raise InvalidKeySet(f"the status is {response.status_code}; redirects are not followed")
            content = bytearray()
            async for chunk in response.aiter_raw():  # undecoded, so that no compressed content expands
                content += chunk
                if len(content) > SET_MAX_BYTES:
                    raise InvalidKeySet(f"it is larger than {SET_MAX_BYTES} bytes")
            return bytes(content)


def read_set_file(path: Path) -> bytes:
    """Return the content of a JWKS file.

    Raises:
        OSError: it cannot be read.
        InvalidKeySet: it is too large.

    """
    with path.open("rb") as file:
        content = file.read(SET_MAX_BYTES + 1)
    if len(content) > SET_MAX_BYTES:
        raise InvalidKeySet(f"it is larger than {SET_MAX_BYTES} bytes")
    return content


class RotatingKeys:
    """The keys of an issuer that come from a JWK set.

    They are fetched ``ttl`` seconds after the last fetch, and at most once in ``min_interval``
    seconds.
    """

    def __init__(
        self,
        source: str,
        get: Callable[[], Awaitable[bytes]],
        parse: Callable[[bytes], KeySet],
        *,
        ttl: float,
        min_interval: float,
    ) -> None:
        self._source = source
        self._get = get
        self._parse = parse
        self._ttl = ttl
        self._min_interval = min_interval
        self._keys: Mapping[str | None, tuple[VerificationKey, ...]] = {}
        self._content: bytes | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._due = 0.0
        self._failing = False
        self.on_withdrawn: Callable[[], None] = lambda: None
        """Called when a key is no longer in the set."""

    @classmethod
    def of_file(cls, path: Path, algorithm: str | None) -> RotatingKeys:
        """Read the keys of a file.

        Raises:
            OSError: it cannot be read.
            InvalidKeySet: it holds no usable key.

        """

        async def get() -> bytes:
            return await asyncio.to_thread(read_set_file, path)

        def parse(content: bytes) -> KeySet:
            return parse_key_set(content, algorithm=algorithm, secrets=True, source=str(path))

        keys = cls(str(path), get, parse, ttl=FILE_SECONDS, min_interval=FILE_SECONDS)
        content = read_set_file(path)
        keys._replace(content, parse(content))
        return keys

    @classmethod
    def of_url(
        cls, url: str, algorithm: str | None, settings: AuthSettings, *, ca_file: Path | None = None
    ) -> RotatingKeys:
        """Return the keys at a URL; the first ``refresh()`` fetches them.

        Raises:
            OSError: the file with the certificate authorities cannot be used.

        """
        authorities = trusted_authorities(ca_file)

        async def get() -> bytes:
            return await fetch(url, settings.jwks_timeout_seconds, authorities)

        source = url.partition("?")[0]  # the query may hold a secret, and the source is logged

        def parse(content: bytes) -> KeySet:
            return parse_key_set(content, algorithm=algorithm, source=source)

        return cls(
            source,
            get,
            parse,
            ttl=settings.jwks_ttl_seconds,
            min_interval=settings.jwks_min_refresh_interval_seconds,
        )

    def find(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys that a token with this ``kid`` may be signed with.

        A token without one is accepted if the set holds only one key.

        Raises:
            UnknownKeyId: there is none in memory.

        """
        if kid is None and len(self._keys) == 1:
            kid = next(iter(self._keys))
        found = self._keys.get(kid)
        if found is None:
            raise UnknownKeyId(self)
        return found

    def refusal(self) -> RequestRefused:
        """Return the refusal of a token whose key is still unknown."""
        if self._keys:
            return TokenInvalid("The token names no key that its issuer has published, or one that cannot be used.")
        return KeysUnavailable(
            "The keys of the token's issuer cannot be reached at the moment.",
            retry_after=max(1, round(self._not_before - time.monotonic())),
        )

    async def refresh(self) -> None:
        """Fetch the set, at most once per minimum interval. Concurrent calls share one fetch."""
        if self._fetching is None:
            if time.monotonic() < self._not_before:
                return
            self._not_before = time.monotonic() + self._min_interval
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)  # one cancelled waiter must not cancel it for the others

    async def run(self) -> None:
        """Fetch the set whenever it is due, until cancelled."""
        try:
            await PeriodicTask("key_refresh", self._refresh_if_due, self._ttl, first_seconds=0).run()
        finally:
            if self._fetching is not None:
                self._fetching.cancel()

    async def _refresh_if_due(self) -> float:
        if self._seconds_to_wait() <= 0:
            await self.refresh()
        return self._seconds_to_wait()

    def _seconds_to_wait(self) -> float:
        return max(self._due, self._not_before) - time.monotonic()

    async def _fetch(self) -> None:
        try:
            content = await self._get()
            if content != self._content:
                self._replace(content, await asyncio.to_thread(self._parse, content))
        except (httpx2.HTTPError, OSError, InvalidKeySet) as error:  # a TimeoutError is an OSError
            if not self._failing:
                reason = str(error) or type(error).__name__
                if any(unknown in reason for unknown in _UNKNOWN_AUTHORITY):
                    reason += "; set jwks_ca_file, or SSL_CERT_FILE for all, to a file with its authority"
                log.warning("keys cannot be fetched; the last ones are kept", source=self._source, reason=reason)
            self._failing, self._due = True, self._not_before
        else:
            if self._failing:
                log.info("keys are fetched again", source=self._source)
            self._failing, self._due = False, time.monotonic() + self._ttl

    def _fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    def _replace(self, content: bytes, keys: KeySet) -> None:
        before, self._keys = self._keys, keys
        self._content = content
        if any(self._keys.get(kid) != keys for kid, keys in before.items()):
            self.on_withdrawn()
        if before:
            log.info("keys changed", source=self._source, keys=len(self._keys))
