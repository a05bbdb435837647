"""Keys that rotate: a JWK set (RFC 7517) in a file or at a URL, and the keys of an issuer that come from it.

::

               a second after it was read (file), or jwks_ttl_seconds after (URL);
               or a token names a key that is not in the set
    ┌──────┐ ─────────────────────────────────────────────────────────────────────► ┌──────────┐
    │ kept │                                                                        │ fetching │ one at a time, and
    └──────┘ ◄───────────────────────────────────────────────────────────────────── └──────────┘ not before the pause
               a set with a usable key replaces all keys; anything else leaves them

Verifying never waits: a key that is known is found in memory. Only a token that names an unknown key may wait, for the
fetch that it shares with all others, and after one that brought nothing new it is refused at once for the length of
the pause: a flood of such tokens makes one fetch a pause.

A fetch is bounded: its time, its size, one host (no redirect is followed), and only ``https`` or a loopback address.
"""

from __future__ import annotations

import asyncio
import json
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
FILE_SECONDS = 1
"""How often a JWKS file is read; its content is compared, for its time may not change with it."""

KeySet = dict[str | None, tuple[VerificationKey, ...]]
_READERS: dict[Any, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


class InvalidKeySet(TocsinError):
    """What was fetched is no set of keys that can be used. The message says why."""


class UnknownKeyId(TocsinError):
    """A token names a key that is not in the set; ``keys.refresh()`` may bring it."""

    def __init__(self, keys: RotatingKeys) -> None:
        super().__init__("the key is not known")
        self.keys = keys


# Reading a set.


def parse_set(content: bytes, *, algorithm: str | None = None, secrets: bool = False) -> KeySet:
    """Return the usable keys of a JWK set by their ``kid``; several may share one (RFC 7517, section 4.5).

    ``algorithm`` is that of RSA keys whose ``alg`` is not said. A key that cannot be used (for encryption, of another
    kind, too weak, private) is passed over; so is a shared secret unless ``secrets``, for it must not be published.

    Raises:
        UnusableSet: it is no JWK set, or none of its keys can be used.

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
            log.warning("key passed over", why=str(error))
        else:
            keys[kid] = (*keys.get(kid, ()), key)
    if not keys:
        raise InvalidKeySet("it has no key that can be used")
    return keys


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
    return kid, public_key(key, named if named is not None or kind != "RSA" else algorithm)


def _read_secret(jwk: dict[str, Any], *, secrets: bool) -> VerificationKey:
    if not secrets:
        raise UnacceptableKey("it is a shared secret, and must not be published")
    if jwk.get("alg", "HS256") != "HS256":
        raise UnacceptableKey("a shared secret is for HS256")
    return shared_secret(HMACAlgorithm.from_jwk(jwk))


# Fetching a set.


async def fetch(url: str, timeout_seconds: float) -> bytes:
    """Return what ``url`` answers.

    Raises:
        httpx2.HTTPError: it does not answer as HTTP does.
        TimeoutError: the whole of it took too long.
        UnusableSet: it answers with something else than 200, or with too much.

    """
    # Environment variables neither lead a fetch to a proxy nor add a password to it.
    async with asyncio.timeout(timeout_seconds), httpx2.AsyncClient(trust_env=False, timeout=timeout_seconds) as client:
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with client.stream("GET", url, headers=headers, follow_redirects=False) as response:
            if response.status_code != httpx2.codes.OK:
                raise InvalidKeySet(f"the answer is {response.status_code}; redirects are not followed")
            content = bytearray()
            async for chunk in response.aiter_raw():  # as it came: what was compressed small cannot unfold here
                content += chunk
                if len(content) > SET_MAX_BYTES:
                    raise InvalidKeySet(f"it is larger than {SET_MAX_BYTES} bytes")
            return bytes(content)


def read_set_file(path: Path) -> bytes:
    """Return the content of a JWKS file.

    Raises:
        OSError: it cannot be read.
        UnusableSet: it is too large.

    """
    with path.open("rb") as file:
        content = file.read(SET_MAX_BYTES + 1)
    if len(content) > SET_MAX_BYTES:
        raise InvalidKeySet(f"it is larger than {SET_MAX_BYTES} bytes")
    return content


class RotatingKeys:
    """The keys of an issuer that come from a JWK set, and come again. ``period`` and ``pause`` are in seconds."""

    def __init__(
        self,
        source: str,
        get: Callable[[], Awaitable[bytes]],
        parse: Callable[[bytes], KeySet],
        *,
        period: float,
        pause: float,
    ) -> None:
        self._source = source
        self._get = get
        self._parse = parse
        self._period = period
        self._pause = pause
        self._keys: Mapping[str | None, tuple[VerificationKey, ...]] = {}
        self._content: bytes | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._due = 0.0
        self._failing = False
        self.on_withdrawn: Callable[[], None] = lambda: None
        """Called when a key that was believed no longer is."""

    @classmethod
    def of_file(cls, path: Path, algorithm: str | None) -> RotatingKeys:
        """Return the keys of a file, which is read now.

        Raises:
            OSError: it cannot be read.
            UnusableSet: it holds no usable key.

        """

        async def get() -> bytes:
            return await asyncio.to_thread(read_set_file, path)

        def parse(content: bytes) -> KeySet:
            return parse_set(content, algorithm=algorithm, secrets=True)

        keys = cls(str(path), get, parse, period=FILE_SECONDS, pause=FILE_SECONDS)
        keys._take(read_set_file(path))
        return keys

    @classmethod
    def of_url(cls, url: str, algorithm: str | None, settings: AuthSettings) -> RotatingKeys:
        """Return the keys at a URL; they are fetched by the first ``refresh()``."""

        async def get() -> bytes:
            return await fetch(url, settings.jwks_timeout_seconds)

        def parse(content: bytes) -> KeySet:
            return parse_set(content, algorithm=algorithm)

        return cls(url, get, parse, period=settings.jwks_ttl_seconds, pause=settings.jwks_min_refresh_interval_seconds)

    def find(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys that a token with this ``kid`` may be signed with.

        A token without one is believed where there is no choice: the set holds one key.

        Raises:
            KeyUnknown: there is none now.

        """
        if kid is None and len(self._keys) == 1:
            kid = next(iter(self._keys))
        found = self._keys.get(kid)
        if found is None:
            raise UnknownKeyId(self)
        return found

    def refusal(self) -> RequestRefused:
        """Make the refusal of a token whose key is still unknown."""
        if self._keys:
            return TokenInvalid("The token names no key that its issuer has published.")
        return KeysUnavailable(
            "The keys of the token's issuer cannot be reached at the moment.",
            retry_after=max(1, round(self._not_before - time.monotonic())),
        )

    async def refresh(self) -> None:
        """Fetch again, unless that began less than a pause ago; all who ask meanwhile share one fetch."""
        if self._fetching is None:
            if time.monotonic() < self._not_before:
                return
            self._not_before = time.monotonic() + self._pause
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)  # who gives up waiting must not end it for the others

    async def run(self) -> None:
        """Fetch again whenever it is due, until cancelled."""
        try:
            await PeriodicTask("key_refresh", self._refresh_if_due, self._period, first_seconds=0).run()
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
            self._take(await self._get())
        except (httpx2.HTTPError, OSError, InvalidKeySet) as error:  # a TimeoutError is an OSError
            if not self._failing:
                why = str(error) or type(error).__name__
                log.warning("keys cannot be fetched; those of before are kept", source=self._source, why=why)
            self._failing, self._due = True, self._not_before
        else:
            if self._failing:
                log.info("keys are fetched again", source=self._source)
            self._failing, self._due = False, time.monotonic() + self._period

    def _fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    def _take(self, content: bytes) -> None:
        """Replace the keys, if they have changed."""
        if content == self._content:
            return
        before, self._keys = self._keys, self._parse(content)
        self._content = content
        if any(self._keys.get(kid) != keys for kid, keys in before.items()):
            self.on_withdrawn()
        if before:
            log.info("keys changed", source=self._source, keys=len(self._keys))
