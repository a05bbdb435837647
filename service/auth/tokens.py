"""Strict verification of tokens.

Two unverified values of a token are used: its ``iss`` selects the issuer, and its ``kid`` one of
that issuer's keys. Every other header that names a key (``jku``, ``jwk``, ``x5u``, ``x5c``) is
ignored, and the algorithm is the key's. A token with a duplicate name in its header or claims is
invalid (RFC 7515 and RFC 7519, section 4), because two parsers may read either value. So is one in
another encoding than UTF-8 without a byte order mark, and in another spelling of base64url than the
canonical one without padding (RFC 7515, section 2), so that a token has one form.

PyJWT verifies the signature and the issuer; ``claims.py`` checks everything else.

A verified token is cached by its SHA-256 for an hour, or until it expires, because verifying costs
more than everything else that a request does before its commit. The cache holds hashes, never
tokens; it is emptied when an issuer withdraws a key, and revocations are checked after it, each
time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import jwt
from jwt.utils import base64url_decode, base64url_encode

from service.auth.claims import principal_of, token_expired
from service.auth.jwks import UnknownKeyId
from service.auth.keys import ALGORITHMS
from service.auth.principal import Scope
from service.errors import TokenInvalid, TokenRevoked
from service.settings.parsing import unique

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from service.auth.issuers import Issuer, Keyring
    from service.auth.keys import VerificationKey
    from service.auth.principal import Principal
    from service.settings import AuthSettings

TOKEN_MAX_BYTES = 8 * 1024
CACHED_SECONDS = 3600
"""How long a verified token is cached: as often is the name that it says recorded again, while it is used."""
_NOT_CACHED = (None, 0.0)
_MALFORMED = "The token is malformed."
_ACCESS_TOKEN_TYPES = ("at+jwt", "application/at+jwt")
_TOKEN_TYPES = (None, "jwt", *_ACCESS_TOKEN_TYPES)


class Revocations(Protocol):
    """What is revoked, as far as this node knows (``revocation_feed.py``)."""

    @property
    def is_current(self) -> bool:
        """Whether every revocation that was answered by now is known."""

    async def ensure_current(self) -> None:
        """Return once every revocation that was answered before the call is known.

        Raises:
            DatabaseUnavailable: they cannot be read now.

        """

    def covers(self, principal: Principal) -> bool:
        """Return whether the token of ``principal`` is revoked, or its subject deactivated."""


class TokenVerifier:
    """Verifies bearer tokens, and caches the verified ones."""

    def __init__(self, keyring: Keyring, settings: AuthSettings, revocations: Revocations) -> None:
        self._keyring = keyring
        self._settings = settings
        self._revocations = revocations
        self._cache: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        """Principals, and until when each is cached."""
        self.on_named: Callable[[Principal], None] = lambda _principal: None
        """Called when a token was verified that says a name and grants a scope, once an hour while it is used."""
        keyring.when_withdrawn(self._cache.clear)

    async def verify(self, token: str) -> Principal:
        """Return the principal of ``token``, after fetching the issuer's keys if its key is unknown.

        Raises:
            DatabaseUnavailable: what was revoked lately cannot be read now.
            KeysUnavailable: the issuer's keys could not be fetched yet.
            TokenExpired: its ``exp`` has passed.
            TokenRevoked: it was revoked.
            TokenInvalid: anything else is wrong; the message says what, without quoting the token.

        """
        try:
            principal = self.verify_cached(token)
        except UnknownKeyId as unknown:
            await unknown.keys.refresh()
            try:
                principal = self.verify_cached(token)
            except UnknownKeyId as still_unknown:
                raise still_unknown.keys.refusal() from None
        if not self._revocations.is_current:
            await self.verify_again(principal)
        return principal

    def verify_cached(self, token: str) -> Principal:
        """Return the principal of ``token``, with the keys and revocations that are in memory.

        Raises:
            UnknownKeyId: its key is not among them; ``verify()`` may fetch it.
            TokenExpired: its ``exp`` has passed.
            TokenRevoked: it was revoked.
            TokenInvalid: anything else is wrong; the message says what, without quoting the token.

        """
        if len(token) > TOKEN_MAX_BYTES or not token.isascii():
            raise TokenInvalid("The token is no JWT in compact form of at most 8 KiB.")
        digest = hashlib.sha256(token.encode()).digest()
        principal, until = self._cache.get(digest, _NOT_CACHED)
        if principal is None or until <= time.time():
            self._cache.pop(digest, None)
            principal = self._decode(token)
            self._store(digest, principal)
            self.check_not_revoked(principal)
            if principal.name is not None and not principal.scopes.isdisjoint(Scope):
                self.on_named(principal)
        else:
            self.check_not_revoked(principal)
        return principal

    @property
    def is_current(self) -> bool:
        """Whether every revocation that was answered by now is in memory."""
        return self._revocations.is_current

    async def verify_again(self, principal: Principal) -> None:
        """Check a principal that was verified with the revocations in memory, or a while ago.

        Raises:
            DatabaseUnavailable: what was revoked lately cannot be read now.
            TokenRevoked: the token was revoked.

        """
        if not self._revocations.is_current:
            await self._revocations.ensure_current()
        self.check_not_revoked(principal)

    async def require_valid(self, principal: Principal) -> None:
        """Check a principal for what is written, a while after it was verified.

        Raises:
            DatabaseUnavailable: what was revoked lately cannot be read now.
            TokenRevoked: the token was revoked.
            TokenExpired: its ``exp`` has passed.

        """
        await self.verify_again(principal)
        if principal.expires_at <= time.time():
            raise token_expired()

    def check_not_revoked(self, principal: Principal) -> None:
        """Check again a principal that was verified earlier, with the revocations that are in memory.

        Raises:
            TokenRevoked: the token was revoked, or its subject deactivated.

        """
        if self._revocations.covers(principal):
            raise token_revoked()

    def _store(self, digest: bytes, principal: Principal) -> None:
        if len(self._cache) >= self._settings.token_cache_size:
            self._cache.popitem(last=False)
        self._cache[digest] = principal, min(principal.expires_at, time.time() + CACHED_SECONDS)

    def _decode(self, token: str) -> Principal:
        header, unverified = _read(token)
        if "crit" in header:
            raise TokenInvalid("The token uses a critical extension that is not supported.")
        types, named = (
            (_ACCESS_TOKEN_TYPES, "at+jwt") if self._settings.jwt_require_at_jwt else (_TOKEN_TYPES, "JWT or at+jwt")
        )
        if _lower(header.get("typ")) not in types:
            raise TokenInvalid(f"The token's typ is not {named}.")
        if not isinstance(kid := header.get("kid"), str | None):
            raise TokenInvalid("The token's kid must be a string.")
        if unverified.get("iss") is None:
            raise TokenInvalid("The token lacks the claim iss.")
        issuer = self._keyring.issuer(unverified["iss"])
        if issuer is None:
            raise TokenInvalid("The token was issued by somebody else: its iss has to be that of the settings exactly.")
        claims = _verified(token, issuer, kid, header.get("alg"))
        return principal_of(claims, issuer.settings, self._settings)


def token_revoked() -> TokenRevoked:
    """Return the refusal of a token that was revoked, or whose subject is deactivated."""
    return TokenRevoked("The token was revoked, or its subject deactivated. Sign in again.")


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a token, both unverified.

    Raises:
        TokenInvalid: it is no JWT, or has a duplicate name.

    """
    try:
        header, claims, _signature = map(_decoded, token.split("."))
        read = [json.loads(part.decode(), object_pairs_hook=unique) for part in (header, claims)]
    except (ValueError, RecursionError):  # what json and base64 raise for hostile input
        read = []
    match read:
        case [dict(fields), dict(unverified)]:
            return fields, unverified
        case _:
            raise TokenInvalid(_MALFORMED)


def _decoded(part: str) -> bytes:
    """Decode base64url that is written in the one way that RFC 7515, section 2, allows: canonical, without padding."""
    decoded = base64url_decode(part)
    if base64url_encode(decoded) != part.encode():
        raise ValueError("another spelling of the same bytes")
    return decoded


def _verified(token: str, issuer: Issuer, kid: str | None, alg: object) -> dict[str, Any]:
    """Return the claims of a token that is signed with one of the issuer's keys.

    ``alg`` is what the token's header says; it selects nothing, but has to be that of a key.

    Raises:
        UnknownKeyId: the issuer's key of that name is unknown.
        TokenInvalid: it is signed with another algorithm or another key.

    """
    keys = issuer.keys.find(kid)  # one, or two while a secret is replaced
    if alg not in [key.algorithm for key in keys]:
        raise TokenInvalid(_other_algorithm(alg, keys))
    for key in keys:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=issuer.name,
                options={
                    "verify_aud": False,  # claims.py checks all other claims, with their types
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
            continue
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            # PyJWT lets some errors of json and base64 pass for hostile input; all mean the same.
            raise TokenInvalid(_MALFORMED) from None
    raise TokenInvalid("The token's signature does not fit the key of its issuer.")


def _other_algorithm(alg: object, keys: Collection[VerificationKey]) -> str:
    """Say how a token has to be signed, before its signature is looked at: the answer is the same for any."""
    expected = " or ".join(sorted({key.algorithm for key in keys}))
    named = (
        f", and not with {alg}" if isinstance(alg, str) and alg in ALGORITHMS else ""
    )  # nothing else that a token says is repeated
    return f"The token must be signed with {expected}, the algorithm of its issuer's key{named}."


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value
