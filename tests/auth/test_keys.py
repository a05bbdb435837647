from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.auth.issuers import load_keyring
from service.auth.keys import FixedKeys, VerificationKey
from service.auth.shared_secret import check_secret
from service.errors import ConfigurationError
from service.settings import AuthSettings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

STRONG = "bX2uV9rKq4Lw7NzT1cYh8GmPd5SjF0ae"


def pem(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def keys_of(settings: AuthSettings, dev_secret: bytes | None = None) -> tuple[VerificationKey, ...]:
    """Return the keys of the one issuer."""
    issuer = load_keyring(settings, dev_secret).issuer("tocsin")
    assert issuer is not None
    assert isinstance(issuer.keys, FixedKeys)
    return issuer.keys.find(None)


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load_keyring(AuthSettings(**settings))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_without_a_key_the_message_says_what_to_set() -> None:
    assert "TOCSIN_JWT_SECRET" in refusal()
    assert "--dev" in refusal()


def test_two_keys_are_refused(tmp_path: Path) -> None:
    assert "not both" in refusal(jwt_secret=STRONG, jwt_public_key_file=tmp_path / "key.pem")


def test_a_secret_of_32_bytes_is_enough() -> None:
    for secret in (STRONG, "äöüéèàçñßåøæïêôû"):
        assert keys_of(AuthSettings(jwt_secret=secret)) == (VerificationKey("HS256", secret.encode()),)


def test_a_weak_secret_is_refused_and_not_shown() -> None:
    message = refusal(jwt_secret="correct horse battery staple")
    assert "28 bytes" in message
    assert "horse" not in message


@pytest.mark.parametrize("setting", ["jwt_secret", "jwt_secret_previous"])
@pytest.mark.parametrize(
    "secret",
    [
        "a" * 32,
        "a" * 4096,
        "é" * 16,
        "\U0001f512" * 8,
        " " * 32,
        "0" * 64,
        "a" * 31 + "b",
        "ab" * 16,
        "changeme" * 4,
        "password" * 5,
        "1234567890" * 4,
        "supersecret" * 3,
        "hunter2hunter2h" * 3,
        "a-string-secret-at-least-256-bits-long",
    ],
)
def test_a_secret_that_can_be_guessed_is_refused_and_not_shown(secret: str, setting: str) -> None:
    message = refusal(**{"jwt_secret": STRONG, setting: secret})
    assert message.startswith(f"TOCSIN_{setting.upper()}: the secret can be guessed")
    assert secret[:8] not in message
    another = {"issuer": "a", "audience": "b", "secret": STRONG, setting.removeprefix("jwt_"): secret}
    assert "can be guessed" in refusal(jwt_secret=STRONG, issuers=[another])


def test_a_random_secret_is_taken() -> None:
    numbers = random.Random(15)
    for _ in range(1000):
        for secret in (
            numbers.randbytes(32),
            numbers.randbytes(16).hex().encode(),
            b"%032d" % numbers.getrandbits(106),
        ):
            check_secret(secret)


@pytest.mark.parametrize(
    "secret", [pem(ed25519.Ed25519PrivateKey.generate()).decode(), "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ"]
)
def test_a_key_is_no_secret(secret: str) -> None:
    assert "TOCSIN_JWT_PUBLIC_KEY_FILE" in refusal(jwt_secret=secret)


def test_a_secret_that_is_no_text_is_refused() -> None:
    assert "UTF-8" in refusal(jwt_secret="\udcff" * 40)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (rsa.generate_private_key(65537, 1024), "1024 bits"),
        (ec.generate_private_key(ec.SECP256K1()), "P-256"),
        (ed448.Ed448PrivateKey.generate(), "Ed25519"),
        (x25519.X25519PrivateKey.generate(), "Ed25519"),
    ],
    ids=["RSA of 1024 bits", "secp256k1", "Ed448", "X25519"],
)
def test_a_weak_or_unknown_kind_of_key_is_refused(tmp_path: Path, key: Any, problem: str) -> None:
    (tmp_path / "key.pem").write_bytes(pem(key))
    assert problem in refusal(jwt_public_key_file=tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "ES256"),
        (ec.generate_private_key(ec.SECP256R1()), "EdDSA"),
        (ed25519.Ed25519PrivateKey.generate(), "RS256"),
    ],
    ids=["RSA", "P-256", "Ed25519"],
)
def test_an_algorithm_that_does_not_fit_the_key_is_refused(tmp_path: Path, key: Any, algorithm: str) -> None:
    (tmp_path / "key.pem").write_bytes(pem(key))
    assert "the key is for" in refusal(jwt_public_key_file=tmp_path / "key.pem", jwt_algorithm=algorithm)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["empty", "binary", "broken", "private"],
)
def test_a_file_without_a_public_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    assert "no public key in PEM form" in refusal(jwt_public_key_file=tmp_path / "key.pem")


def test_the_setting_of_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pem", tmp_path):
        said = refusal(jwt_public_key_file=path)
        assert said.startswith("TOCSIN_JWT_PUBLIC_KEY_FILE: ")
        assert str(tmp_path) not in said


def test_the_development_secret_is_used_only_where_no_key_is_configured() -> None:
    assert [key.key for key in keys_of(AuthSettings(), b"d" * 64)] == [b"d" * 64]
    assert [key.key for key in keys_of(AuthSettings(jwt_secret=STRONG), b"d" * 64)] == [STRONG.encode()]
