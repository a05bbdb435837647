"""From the claims of a token whose signature was verified to its principal, by the settings of its issuer.

Every claim that Tocsin reads is checked here, with its type: numeric dates are numbers (RFC 7519,
section 2), ``sub`` is a name that a log line and a table can hold, ``topics`` is a list of topic
patterns, ``scope`` is a string (RFC 8693, section 4.2). Claims that a setting names may hold a list
as well.

A claim within a claim is named with dots (``realm_access.roles``). A claim of that whole name comes
first, because the names of claims hold dots themselves (``https://tocsin.example/roles``).
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from service.auth.names import shown_name
from service.auth.principal import Principal, is_subject
from service.errors import TokenExpired, TokenInvalid
from service.topics import EVERY_TOPIC, is_topic_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from service.settings import AuthSettings, IssuerSettings

TOPICS_MAX = 100
_YEAR_10000 = 253_402_300_800  # what a timestamp can no longer hold


def principal_of(claims: Mapping[str, Any], issuer: IssuerSettings, settings: AuthSettings) -> Principal:
    """Return the bearer of a token of ``issuer``.

    Raises:
        TokenExpired: its ``exp`` has passed.
        TokenInvalid: a claim is missing, has the wrong type, or a value that is not accepted.

    """
    for name in ("sub", "exp", *(("iat",) if issuer.require_iat else ())):
        if claims.get(name) is None:
            raise TokenInvalid(f"The token lacks the claim {name}.")
    _check_audience(claims, issuer)
    _check_required(claims, issuer)
    expires_at, issued_at = _check_dates(claims, settings)
    subject = claims["sub"]
    if not is_subject(subject):
        raise TokenInvalid("The token's sub must be 1 to 200 printable characters.")
    jti = claims.get("jti")
    if jti is not None and not is_subject(jti):
        raise TokenInvalid("The token's jti must be 1 to 200 printable characters.")
    return Principal(
        subject, _scopes(claims, issuer), _topics(claims), expires_at, jti, issued_at, _name(claims, issuer)
    )


def _find(claims: object, name: str) -> Any:
    """Return the claim of a name, None where there is none; the whole name comes before a path of dots."""
    if not isinstance(claims, dict):
        return None
    if name in claims:
        return claims[name]
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        if isinstance(within := claims.get(".".join(parts[:count])), dict):
            return _find(within, ".".join(parts[count:]))
    return None


def _check_audience(claims: Mapping[str, Any], issuer: IssuerSettings) -> None:
    """Check for whom the token is. An ``aud`` counts wherever there is one (RFC 7519, section 4.1.3)."""
    accepted = set(issuer.audience)
    for name in dict.fromkeys((issuer.audience_claim, *({"aud"} & claims.keys()))):
        audience = _find(claims, name)
        if audience is None:
            raise TokenInvalid(f"The token lacks the claim {name}.")
        values = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(value, str) for value in values):
            raise TokenInvalid(f"The token's {name} must be a string or a list of strings.")
        if accepted.isdisjoint(values):
            raise TokenInvalid(
                f"The token was issued for another audience: its {name} has to hold {' or '.join(issuer.audience)}."
            )


def token_expired() -> TokenExpired:
    """Return the refusal of a token whose ``exp`` has passed."""
    return TokenExpired("The token has expired.")


def _check_required(claims: Mapping[str, Any], issuer: IssuerSettings) -> None:
    for name, value in (issuer.required_claims or {}).items():
        found = _find(claims, name)
        if isinstance(found, list | dict):
            raise TokenInvalid(f"The token's {name} must be {value}, and not a list or an object.")
        # A setting is text: it is compared with true or 2 as JSON spells them.
        if found is None or value != (found if isinstance(found, str) else json.dumps(found)):
            raise TokenInvalid(f"The token's {name} must be {value}.")


def _check_dates(claims: Mapping[str, Any], settings: AuthSettings) -> tuple[float, float]:
    """Return when the token expires and when it was issued.

    Without ``iat`` it counts as issued as early as its lifetime allows. So a revocation covers each
    token that may have been issued before it, and is kept until all of them have expired.
    """
    now, longest = time.time(), settings.jwt_max_lifetime_seconds
    expires_at = _numeric_date(claims, "exp")
    if expires_at <= now:
        raise token_expired()
    for name in ("iat", "nbf"):
        if name in claims and _numeric_date(claims, name) > now + settings.jwt_leeway_seconds:
            raise TokenInvalid(f"The token's {name} lies in the future.")
    if "iat" not in claims:
        if expires_at > now + longest:
            raise TokenInvalid(
                f"The token expires later than {longest:g} s from now; without iat, that is the longest lifetime."
            )
        return expires_at, expires_at - longest
    issued_at = _numeric_date(claims, "iat")
    if expires_at > issued_at + longest:
        raise TokenInvalid(f"The token lives longer than {longest:g} s.")
    return expires_at, issued_at


def _numeric_date(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenInvalid(f"The token's {name} must be a number.")
    if not 0 <= value < _YEAR_10000:
        raise TokenInvalid(f"The token's {name} is out of range.")
    return float(value)


def _scopes(claims: Mapping[str, Any], issuer: IssuerSettings) -> frozenset[str]:
    values = frozenset(_scope_values(claims, issuer.scope_claims))
    if issuer.scope_map is None:
        return values
    return frozenset(scope for value in values for scope in issuer.scope_map.get(value, ()))


def _scope_values(claims: Mapping[str, Any], names: Iterable[str] | None) -> Iterator[str]:
    """Yield what the claims grant, in the issuer's words."""
    if names is None:
        scope = claims.get("scope", "")
        if not isinstance(scope, str):
            raise TokenInvalid(
                "The token's scope must be one string, separated by spaces; the setting TOCSIN_JWT_SCOPE_CLAIMS, or"
                " scope_claims in TOCSIN_ISSUERS, accepts lists."
            )
        yield from _separated(scope)
        return
    for name in names:
        match _find(claims, name):
            case None:
                pass
            case str() as values:
                yield from _separated(values)
            case list() as values if all(isinstance(value, str) for value in values):
                yield from values
            case _:
                raise TokenInvalid(f"The token's {name} must be a string or a list of strings.")


def _separated(values: str) -> Iterator[str]:
    """Split at U+0020 and at no other white space (RFC 6749, section 3.3)."""
    return filter(None, values.split(" "))


def _topics(claims: Mapping[str, Any]) -> tuple[str, ...]:
    if "topics" not in claims:
        return EVERY_TOPIC
    topics = claims["topics"]
    if not isinstance(topics, list) or len(topics) > TOPICS_MAX or not all(map(is_topic_pattern, topics)):
        raise TokenInvalid("The token's topics must be a list of at most 100 topic patterns.")
    return tuple(topics)


def _name(claims: Mapping[str, Any], issuer: IssuerSettings) -> str | None:
    """Return the name to show the subject by.

    It decides nothing, so a value that cannot be shown refuses no token: the next claim counts. An
    address that its issuer did not verify is not shown, because anybody could have entered it.
    """
    for name in issuer.name_claims:
        is_unverified = name == "email" and claims.get("email_verified", True) not in (True, "true")
        if not is_unverified and (shown := shown_name(_find(claims, name))) is not None:
            return shown
    return None
