"""The trusted issuers of tokens, each with its own audience and keys.

The plain settings (``TOCSIN_JWT_…``) describe one issuer, ``TOCSIN_ISSUERS`` any number of others.
A token is verified with the keys of the issuer that it names, and with no others. Subjects and
``jti`` share one namespace: every issuer is trusted to name any subject, and to grant any scope.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.auth.jwks import InvalidKeySet, RotatingKeys
from service.auth.keys import FixedKeys, VerificationKey, read_public_key
from service.auth.principal import Scope
from service.auth.shared_secret import read_secret
from service.errors import ConfigurationError
from service.settings import IssuerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from service.settings import AuthSettings

_HOW_TO = (
    "no key to verify tokens with: set TOCSIN_JWT_SECRET (32 bytes or more), TOCSIN_JWT_PUBLIC_KEY_FILE,"
    " TOCSIN_JWT_JWKS_FILE, TOCSIN_JWT_JWKS_URL or TOCSIN_ISSUERS, or start with --dev to have a development key made"
)
_SOURCES = ("secret", "public_key_file", "jwks_file", "jwks_url")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer: what its tokens look like, and the keys that sign them."""

    settings: IssuerSettings
    keys: FixedKeys | RotatingKeys

    @property
    def name(self) -> str:
        """Its ``iss``."""
        return self.settings.issuer


class Keyring:
    """The trusted issuers, by name."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._rotating = [issuer.keys for issuer in self._issuers.values() if isinstance(issuer.keys, RotatingKeys)]

    def issuer(self, name: object) -> Issuer | None:
        """Return the issuer that a token names, None if it is not trusted."""
        return self._issuers.get(name) if isinstance(name, str) else None

    def when_withdrawn(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever an issuer withdraws a key."""
        for keys in self._rotating:
            keys.on_withdrawn = callback

    async def load(self) -> None:
        """Fetch the keys that rotate. If that fails, tokens are refused 503 until it succeeds."""
        await asyncio.gather(*(keys.refresh() for keys in self._rotating))

    async def run(self) -> None:
        """Refresh the keys that rotate, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for keys in self._rotating:
                group.create_task(keys.run())


def load_keyring(settings: AuthSettings, dev_secret: bytes | None = None) -> Keyring:
    """Make the keyring from the settings, with the development secret if they have no plain key.

    Raises:
        ConfigurationError: there is no key, one issuer has two kinds of keys, or a key cannot be
            used.

    """
    issuers = [_issuer(one, f"TOCSIN_ISSUERS: {one.issuer}: ", settings) for one in settings.issuers]
    plain = plain_issuer(settings)
    if any(getattr(plain, source) is not None for source in _SOURCES) or plain.secret_previous is not None:
        issuers.append(_issuer(plain, "TOCSIN_JWT_", settings))
    elif dev_secret is not None:
        issuers.append(Issuer(plain, FixedKeys(VerificationKey("HS256", dev_secret))))
    elif issuers and (stray := _of_plain_issuer(settings)):
        raise ConfigurationError(
            f"{stray} is for an issuer whose key is in TOCSIN_JWT_…, and there is none. Those of TOCSIN_ISSUERS have"
            f" members of their own, such as {stray.removeprefix('TOCSIN_JWT_').lower()}: set it there"
        )
    if not issuers:
        raise ConfigurationError(_HOW_TO)
    names = [issuer.name for issuer in issuers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"TOCSIN_ISSUERS: the issuer {twice} is there twice; TOCSIN_JWT_ISSUER counts as one")
    return Keyring(issuers)


def plain_issuer(settings: AuthSettings) -> IssuerSettings:
    """Return the issuer that the plain settings describe."""
    given = {name: getattr(settings, f"jwt_{name}") for name in IssuerSettings.model_fields}
    return IssuerSettings(**{name: value for name, value in given.items() if value is not None})


def _of_plain_issuer(settings: AuthSettings) -> str | None:
    """Return the first setting that was set and describes the plain issuer."""
    fields = (f"jwt_{name}" for name in IssuerSettings.model_fields)
    return next((f"TOCSIN_{name.upper()}" for name in fields if name in settings.model_fields_set), None)


def _issuer(one: IssuerSettings, prefix: str, settings: AuthSettings) -> Issuer:
    """Read the keys of an issuer. An error names the setting, which is ``prefix`` and a field."""

    def name(field: str) -> str:
        return prefix + (field.upper() if prefix == "TOCSIN_JWT_" else field)

    given = [source for source in _SOURCES if getattr(one, source) is not None]
    if len(given) > 1:
        raise ConfigurationError(f"set {' or '.join(map(name, given))}, not both")
    if not given:
        raise ConfigurationError(f"set one of {', '.join(map(name, _SOURCES))}")
    _check_scopes(one, name("scope_map"))
    if one.jwks_ca_file is not None and (one.jwks_url is None or not one.jwks_url.lower().startswith("https:")):
        raise ConfigurationError(f"{name('jwks_ca_file')} is for {name('jwks_url')} with https: set both")
    if one.algorithm is not None and one.secret is not None:
        raise ConfigurationError(f"{name('algorithm')} is for public keys; tokens of {name('secret')} are HS256")
    if one.secret_previous is not None and one.secret is None:
        raise ConfigurationError(f"{name('secret_previous')} is for the time when {name('secret')} is new: set both")
    if one.secret is not None:
        secrets = (
            read_secret(one.secret, name("secret")),
            read_secret(one.secret_previous, name("secret_previous")),
        )
        keys: FixedKeys | RotatingKeys = FixedKeys(*(VerificationKey("HS256", s) for s in secrets if s is not None))
    elif one.public_key_file is not None:
        keys = FixedKeys(read_public_key(one.public_key_file, one.algorithm, name("public_key_file")))
    elif one.jwks_file is not None:
        keys = _keys_of_file(one.jwks_file, one.algorithm, name("jwks_file"))
    else:
        assert one.jwks_url is not None  # noqa: S101 - the last of the sources, one of which is given
        keys = _keys_at_url(one.jwks_url, one, name("jwks_ca_file"), settings)
    return Issuer(one, keys)


def _check_scopes(one: IssuerSettings, setting: str) -> None:
    for value, scopes in (one.scope_map or {}).items():
        if unknown := next((scope for scope in scopes if scope not in set(Scope)), None):
            raise ConfigurationError(f"{setting}: {value}: {unknown} is none of {', '.join(Scope)}")


def _keys_at_url(url: str, one: IssuerSettings, ca_setting: str, settings: AuthSettings) -> RotatingKeys:
    setting = "SSL_CERT_FILE" if one.jwks_ca_file is None else ca_setting
    try:
        return RotatingKeys.of_url(url, one.algorithm, settings, ca_file=one.jwks_ca_file)
    except ssl.SSLError:
        raise ConfigurationError(f"{setting}: the file holds no certificate in PEM form") from None
    except OSError as error:
        raise ConfigurationError(f"{setting}: {error.strerror}") from None


def _keys_of_file(path: Path, algorithm: str | None, setting: str) -> RotatingKeys:
    # As in ``read_public_key()``, no message shows the path.
    try:
        return RotatingKeys.of_file(path, algorithm)
    except OSError as error:
        raise ConfigurationError(f"{setting}: {error.strerror}") from None
    except InvalidKeySet as error:
        raise ConfigurationError(f"{setting}: {error}") from None
