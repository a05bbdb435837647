"""Settings of the tokens that are accepted, and of their issuers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, model_validator

from service.settings.group import SettingsGroup
from service.settings.parsing import (
    JsonList,
    PublicKeyAlgorithm,
    RequiredClaims,
    ScopeMap,
    Seconds,
    Text,
    Texts,
    TrustedUrl,
)
from service.settings.secret_files import read_secret_files, secrets_of

DEFAULT_NAME_CLAIMS = ("name", "preferred_username", "email")
YEAR_SECONDS = 366 * 86400


class IssuerSettings(SettingsGroup):
    """One issuer: what its tokens look like, and exactly one source of its keys.

    ``AuthSettings`` has each of these as ``jwt_…`` and describes it there.
    """

    issuer: Text
    audience: Texts
    audience_claim: Text = "aud"
    required_claims: RequiredClaims | None = None
    require_iat: bool = True
    scope_claims: Texts | None = None
    scope_map: ScopeMap | None = None
    name_claims: Texts = DEFAULT_NAME_CLAIMS
    secret: SecretStr | None = None
    secret_previous: SecretStr | None = None
    public_key_file: Path | None = None
    jwks_file: Path | None = None
    jwks_url: TrustedUrl | None = None
    jwks_ca_file: Path | None = None
    algorithm: PublicKeyAlgorithm | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if absent := next((name for name, value in given.items() if value is None), None):
            raise ValueError(f"{absent} is null: leave it out, or give it a value")
        return read_secret_files(given, secrets_of(cls))


class AuthSettings(SettingsGroup):
    """Which tokens are accepted."""

    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens: random, at least 32 bytes."""
    jwt_secret_previous: SecretStr | None = None
    """The secret that ``TOCSIN_JWT_SECRET`` replaces: accepted as well, until it is removed from
    the settings."""
    jwt_public_key_file: Path | None = None
    """A PEM file with the public key of the token issuer: RSA, P-256, P-384, P-521 or Ed25519."""
    jwt_jwks_file: Path | None = None
    """A file with a JWK set (RFC 7517, section 5). A change takes effect within a second."""
    jwt_jwks_url: TrustedUrl | None = None
    """The address of the token issuer's JWK set: ``https``, or ``http`` to a loopback address."""
    jwt_jwks_ca_file: Path | None = None
    """A PEM file with the certificate authorities that ``TOCSIN_JWT_JWKS_URL`` is trusted with, and no
    others. Without it they are those of the system, or of the variable ``SSL_CERT_FILE``."""
    jwt_algorithm: PublicKeyAlgorithm | None = None
    """The algorithm of the public key. RSA keys default to RS256, unless this or the JWK says RS384,
    RS512, PS256, PS384 or PS512."""
    jwt_issuer: Text = "tocsin"
    """The required ``iss`` of a token."""
    jwt_audience: Texts = ("tocsin",)
    """The required ``aud`` of a token: it has to hold one of these."""
    jwt_audience_claim: Text = "aud"
    """The claim that holds the audience of tokens without ``aud``, such as ``client_id``. A token that has
    an ``aud`` is checked by that as well."""
    jwt_required_claims: RequiredClaims | None = None
    """Further claims that a token must have, and their values, such as ``token_use=access``. ``true`` and
    numbers are compared as JSON spells them; a claim that is a list never has the value."""
    jwt_require_iat: bool = True
    """Require ``iat``. A token without it counts as issued ``TOCSIN_JWT_MAX_LIFETIME_SECONDS`` before its
    ``exp`` (see [tokens without `iat`](issuers.md#tokens-without-iat))."""
    jwt_scope_claims: Texts | None = None
    """The claims that hold the scopes, each a list or one string separated by spaces, such as
    ``scp,roles`` or ``realm_access.roles``. Without this it is ``scope``, one string."""
    jwt_scope_map: ScopeMap | None = None
    """What the issuer's values allow here, such as ``Alerts.Read=alerts:read, oncall=alerts:read
    alerts:manage``. With it, only these values count; without it, each value is a scope as it stands."""
    jwt_name_claims: Texts = DEFAULT_NAME_CLAIMS
    """The claims that hold the name that a person is shown by; the first that there is counts. ``-``, a
    claim that no token has, shows nobody's name."""
    jwt_require_at_jwt: bool = False
    """Accept only access tokens that say so: with the ``typ`` ``at+jwt`` (RFC 9068, section 2.1)."""
    jwt_leeway_seconds: float = Field(30, ge=0, le=300)
    """How far an issuer's clock may be ahead (``iat``, ``nbf``). Never applied to ``exp``."""
    jwt_max_lifetime_seconds: float = Field(YEAR_SECONDS, gt=0, le=10 * YEAR_SECONDS)
    """The longest lifetime of a token (``exp`` - ``iat``); a longer one is refused. Revocations are
    kept as long."""
    issuers: Annotated[tuple[IssuerSettings, ...], JsonList] = ()
    """More issuers of tokens: a JSON list of ``{"issuer", "audience"}``, each with its keys (see
    "Keys" below) and whatever else the settings above say of the plain one. ``…_REQUIRE_AT_JWT``,
    ``…_LEEWAY_SECONDS`` and ``…_MAX_LIFETIME_SECONDS`` are for all issuers."""
    jwks_ttl_seconds: Seconds = 300
    """How long a fetched key set is cached. A key removed by the issuer stays trusted for up to
    this long."""
    jwks_min_refresh_interval_seconds: Seconds = 10
    """The shortest time between two fetches from one JWKS URL, however many tokens name an unknown
    key."""
    jwks_timeout_seconds: Seconds = 5
    """How long one fetch from a JWKS URL may take, from connecting to the last byte."""
    token_cache_size: int = Field(10_000, ge=1)
    """How many verified tokens are cached, by their hash."""
    revocations_max: int = Field(100_000, ge=1)
    """How many revocations may be in force; further ones are answered 503 ``overloaded``, except
    reactivations."""
