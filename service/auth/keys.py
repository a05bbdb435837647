"""The keys that tokens are verified with.

The algorithm belongs to the key and is fixed when it is configured; what the token's header says only has to agree
(RFC 8725, section 3.1). A ``Keyring`` answers which key a token must verify under; today it holds one key, and
rotation by ``kid`` and JWKS sources change only this module.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

from service.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from service.settings import AuthSettings

SECRET_MIN_BYTES = 32
RSA_MIN_BITS = 2048
DEV_KEY_FILE = "dev-secret"

_HOW_TO = (
    "no key to verify tokens with: set TOCSIN_JWT_SECRET (32 bytes or more) or TOCSIN_JWT_PUBLIC_KEY_FILE,"
    " or start with --dev to have a development key made"
)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and the one algorithm that it is used with."""

    algorithm: str
    key: bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that are believed."""

    key: VerificationKey

    def find(self, kid: str | None) -> VerificationKey:  # noqa: ARG002 - one key serves every kid until keys rotate
        """Return the key that a token with this ``kid`` must be signed with."""
        return self.key


def load_keyring(settings: AuthSettings, dev_secret: bytes | None = None) -> Keyring:
    """Make the keyring from the settings, or from the development secret where they name no key.

    Raises:
        ConfigurationError: there is no key, there are two, or the key is too weak.

    """
    if settings.jwt_secret and settings.jwt_public_key_file:
        raise ConfigurationError("set TOCSIN_JWT_SECRET or TOCSIN_JWT_PUBLIC_KEY_FILE, not both")
    if settings.jwt_public_key_file:
        return Keyring(_load_public_key(settings.jwt_public_key_file, settings.jwt_algorithm))
    secret = read_secret(settings) or dev_secret
    if secret is None:
        raise ConfigurationError(_HOW_TO)
    return Keyring(VerificationKey("HS256", secret))


def read_secret(settings: AuthSettings) -> bytes | None:
    """Return the configured shared secret, None where there is none.

    Raises:
        ConfigurationError: it is too short, no text, or not a secret but a key.

    """
    if settings.jwt_secret is None:
        return None
    try:
        secret = settings.jwt_secret.get_secret_value().encode()
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except UnicodeEncodeError:
        raise ConfigurationError("TOCSIN_JWT_SECRET is not UTF-8: write random bytes in hex or base64") from None
    except InvalidKeyError:
        raise ConfigurationError(
            "TOCSIN_JWT_SECRET holds a key, not a secret: put it in a file and set TOCSIN_JWT_PUBLIC_KEY_FILE"
        ) from None
    if len(secret) < SECRET_MIN_BYTES:
        raise ConfigurationError(f"TOCSIN_JWT_SECRET has {len(secret)} bytes; HS256 needs 32 or more (RFC 7518, 3.2)")
    return secret


def _load_public_key(path: Path, algorithm: str | None) -> VerificationKey:
    name = "TOCSIN_JWT_PUBLIC_KEY_FILE"
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{name}: {path}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{name}: {path} holds no public key in PEM form") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_MIN_BITS:
            raise ConfigurationError(f"{name}: the RSA key has {key.key_size} bits; 2048 is the least")
        fitting: tuple[str, ...] = ("RS256", "PS256")
    elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        fitting = ("ES256",)
    elif isinstance(key, Ed25519PublicKey):
        fitting = ("EdDSA",)
    else:
        raise ConfigurationError(f"{name}: use an RSA, P-256 or Ed25519 key")
    if algorithm and algorithm not in fitting:
        raise ConfigurationError(f"TOCSIN_JWT_ALGORITHM is {algorithm}, but the key is for {' or '.join(fitting)}")
    return VerificationKey(algorithm or fitting[0], key)


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
    """Return the development secret, made once and kept with mode 0600.

    The file appears whole: of processes that start together all get the same secret.

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
