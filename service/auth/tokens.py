"""From a token to a principal, strictly.

PyJWT verifies the signature, the issuer and the audience. It checks that claims are present but not all of their
types, so every claim that Tocsin reads is checked here: numeric dates are numbers (RFC 7519, section 2), ``sub`` is a
name that a log line and a table can hold, ``scope`` is a string (RFC 8693, section 4.2), ``topics`` is a list of topic
patterns.

A verified token is remembered by its SHA-256 until it expires, because verifying costs more than everything else that a
request does before its commit. The cache holds hashes, never tokens.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import jwt

from service.auth.principal import EVERY_TOPIC, Principal, is_subject, is_topic_pattern
from service.errors import TokenExpired, TokenInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.auth.keys import Keyring
    from service.settings import AuthSettings

TOKEN_MAX_BYTES = 8 * 1024
TOPICS_MAX = 100
_YEAR_10000 = 253_402_300_800  # what a timestamp can no longer hold
_TOKEN_TYPES = (None, "jwt", "at+jwt", "application/at+jwt")


class TokenVerifier:
    """Verifies bearer tokens, and remembers those that it verified."""

    def __init__(self, keyring: Keyring, settings: AuthSettings) -> None:
        self._keyring = keyring
        self._settings = settings
        self._cache: OrderedDict[bytes, Principal] = OrderedDict()

    def verify(self, token: str) -> Principal:
        """Return the bearer of ``token``.

        Raises:
            TokenExpired: it was good once.
            TokenInvalid: anything else is wrong with it; the message says what, without quoting it.

        """
        if len(token) > TOKEN_MAX_BYTES or not token.isascii():
            raise TokenInvalid("The token is no JWT in compact form of at most 8 KiB.")
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._cache.get(digest)
        if principal is None:
            principal = self._decode(token)
            self._remember(digest, principal)
        elif principal.expires_at <= time.time():
            del self._cache[digest]
            raise TokenExpired("The token has expired.")
        return principal

    def _remember(self, digest: bytes, principal: Principal) -> None:
        if len(self._cache) >= self._settings.token_cache_size:
            self._cache.popitem(last=False)
        self._cache[digest] = principal

    def _decode(self, token: str) -> Principal:
        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header:
                raise TokenInvalid("The token uses a critical extension that is not supported.")
            if _lower(header.get("typ")) not in _TOKEN_TYPES:
                raise TokenInvalid("The token's typ is not JWT or at+jwt.")
            key = self._keyring.find(header.get("kid"))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                issuer=self._settings.jwt_issuer,
                audience=self._settings.jwt_audience,
                options={
                    "require": ["sub", "iss", "aud", "exp", "iat"],
                    "verify_exp": False,  # the dates and the subject are checked below, with their types
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidIssuerError:
            raise TokenInvalid("The token was issued by somebody else.") from None
        except jwt.InvalidAudienceError:
            raise TokenInvalid("The token was issued for another audience.") from None
        except jwt.MissingRequiredClaimError as error:
            raise TokenInvalid(f"The token lacks the claim {error.claim}.") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            # PyJWT lets some errors of json and base64 through for hostile input; they all mean the same.
            raise TokenInvalid("The token is malformed or its signature does not fit.") from None
        return _principal(claims, self._settings.jwt_leeway_seconds)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _principal(claims: dict[str, Any], leeway: float) -> Principal:
    now = time.time()
    expires_at = _numeric_date(claims, "exp")
    if expires_at <= now:
        raise TokenExpired("The token has expired.")
    for name in ("iat", "nbf"):
        if name in claims and _numeric_date(claims, name) > now + leeway:
            raise TokenInvalid(f"The token's {name} lies in the future.")
    subject = claims["sub"]
    if not is_subject(subject):
        raise TokenInvalid("The token's sub must be 1 to 200 printable characters.")
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise TokenInvalid("The token's scope must be one string, separated by spaces.")
    token_id = claims.get("jti")
    if token_id is not None and not is_subject(token_id):
        raise TokenInvalid("The token's jti must be 1 to 200 printable characters.")
    return Principal(subject, frozenset(scope.split()), _topics(claims), expires_at, token_id)


def _numeric_date(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenInvalid(f"The token's {name} must be a number.")
    if not 0 <= value < _YEAR_10000:
        raise TokenInvalid(f"The token's {name} is out of range.")
    return float(value)


def _topics(claims: dict[str, Any]) -> tuple[str, ...]:
    topics = claims.get("topics")
    if topics is None:
        return EVERY_TOPIC
    if not isinstance(topics, list) or len(topics) > TOPICS_MAX or not all(map(is_topic_pattern, topics)):
        raise TokenInvalid("The token's topics must be a list of at most 100 topic patterns.")
    return tuple(topics)


def mint(  # noqa: PLR0913 - a token's claims, each named at the call
    secret: bytes,
    settings: AuthSettings,
    *,
    subject: str,
    scope: str,
    topics: Iterable[str] | None = None,
    ttl_seconds: float = 3600,
    token_id: str | None = None,
) -> str:
    """Sign a token with a shared secret (HS256), as ``tocsin token`` and the tests need it."""
    now = time.time()
    claims: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": subject,
        "scope": scope,
        "iat": int(now),
        "exp": now + ttl_seconds,
    }
    if topics is not None:
        claims["topics"] = list(topics)
    if token_id is not None:
        claims["jti"] = token_id
    return jwt.encode(claims, secret, algorithm="HS256", headers={"typ": "at+jwt"})
