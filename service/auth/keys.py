"""Keys that verify tokens, and what makes a key acceptable.

The algorithm belongs to the key and is fixed by the configuration; the token's header has to agree
with it (RFC 8725, section 3.1). ``issuers.py`` assigns the keys to issuers, ``jwks.py`` fetches
those that rotate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from service.auth.shared_secret import UnacceptableKey, check_secret
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

RSA_MIN_BITS = 2048
_OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALGORITHMS = frozenset({"HS256", "HS384", "HS512", *_OF_RSA, *_OF_CURVES.values(), "EdDSA"})
"""The algorithms of RFC 7518, section 3.1, and RFC 8037 that a message may name. HS256 alone is used of its kind."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and the one algorithm that it is used with."""

    algorithm: str
    key: bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


class FixedKeys:
    """The keys of an issuer that are in the settings: one, or two while a secret is replaced."""

    def __init__(self, *keys: VerificationKey) -> None:
        self._keys = keys

    def find(self, kid: str | None) -> tuple[VerificationKey, ...]:  # noqa: ARG002 - they have no names
        """Return the keys that a token may be signed with."""
        return self._keys


def public_key(key: object, algorithm: str | None) -> VerificationKey:
    """Bind a public key to ``algorithm``, or to the usual one of its kind.

    Raises:
        UnacceptableKey: it is too weak, of another kind, or not for this algorithm.

    """
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_MIN_BITS:
            raise UnacceptableKey(f"the RSA key has {key.key_size} bits; {RSA_MIN_BITS} is the least")
        return VerificationKey(_algorithm_of(algorithm, *_OF_RSA), key)
    if isinstance(key, EllipticCurvePublicKey) and (of_curve := _OF_CURVES.get(key.curve.name)) is not None:
        return VerificationKey(_algorithm_of(algorithm, of_curve), key)
    if isinstance(key, Ed25519PublicKey):
        return VerificationKey(_algorithm_of(algorithm, "EdDSA"), key)
    raise UnacceptableKey("use an RSA, P-256, P-384, P-521 or Ed25519 key")


def _algorithm_of(algorithm: str | None, *fitting: str) -> str:
    if algorithm is not None and algorithm not in fitting:
        raise UnacceptableKey(f"the algorithm is {algorithm}, but the key is for {' or '.join(fitting)}")
    return algorithm or fitting[0]


def shared_secret(secret: bytes) -> VerificationKey:
    """Bind a shared secret to HS256.

    Raises:
        UnacceptableKey: as ``check_secret``.

    """
    check_secret(secret)
    return VerificationKey("HS256", secret)


def read_public_key(path: Path, algorithm: str | None, setting: str) -> VerificationKey:
    """Read a public key from a PEM file.

    Raises:
        ConfigurationError: there is none, or none that can be used. The message does not show the path,
            which may be a secret that was set in its place.

    """
    try:
        return public_key(load_pem_public_key(path.read_bytes()), algorithm)
    except OSError as error:
        raise ConfigurationError(f"{setting}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{setting}: the file holds no public key in PEM form") from None
    except UnacceptableKey as error:
        raise ConfigurationError(f"{setting}: {error}") from None
