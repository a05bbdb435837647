from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth.shared_secret import (
    DEV_KEY_FILE,
    UnacceptableKey,
    check_secret,
    make_dev_secret,
    mint,
    read_dev_secret,
)
from service.errors import ConfigurationError
from service.settings import AuthSettings
from tests.harness import HOUR

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"bX2uV9rKq4Lw7NzT1cYh8GmPd5SjF0ae"


@given(st.text(), st.text(), st.none() | st.lists(st.text()), st.floats(HOUR, 1e9))
def test_a_minted_token_is_one_that_pyjwt_reads(subject: str, scope: str, topics: list[str] | None, ttl: float) -> None:
    token = mint(SECRET, AuthSettings(), subject=subject, scope=scope, topics=topics, ttl_seconds=ttl)
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], issuer="tocsin", audience="tocsin")
    assert (claims["sub"], claims["scope"], claims.get("topics")) == (subject, scope, topics)
    assert claims["exp"] - claims["iat"] == pytest.approx(ttl)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "at+jwt"}


@pytest.mark.parametrize(
    "key",
    [
        *(f"{kind} AAAAB3NzaC1yc2EAAAADAQABAAABgQ" for kind in ("ssh-ed25519", "ssh-rsa", "ssh-dss")),
        *(f"ecdsa-sha2-nistp{bits} AAAAB3NzaC1yc2EAAAADAQABAAABgQ" for bits in (256, 384, 521)),
        *(f"x\n-----BEGIN {kind}-----\nA\n-----END {kind}-----" for kind in ("CERTIFICATE", "EC PRIVATE KEY")),
        "---- BEGIN SSH2 PUBLIC KEY ----\nA\n---- END SSH2 PUBLIC KEY ----",
    ],
)
def test_what_pyjwt_refuses_as_a_secret_is_refused_before(key: str) -> None:
    with pytest.raises(jwt.InvalidKeyError):
        jwt.encode({}, key, algorithm="HS256")
    with pytest.raises(UnacceptableKey, match="a key, not a secret"):
        check_secret(key.encode())


GUESSABLE = [
    "0123456789abcdef0123456789abcdef",
    "fedcba9876543210fedcba9876543210",
    "01234567890123456789012345678901",
    "abcdefghijklmnopqrstuvwxyz012345",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
    "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
    "qwertyuiopasdfghjklzxcvbnm123456",
    "1234567890qwertyuiopasdfghjklzxcvbnm",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "09D25E094FAA6CA2556C818166B7A9563B93F7099F6F0F4CAA6CF63B88E8D3E7",
    "a-string-secret-at-least-256-bits-long \n",
    "\ta-string-secret-at-least-256-bits-long",
    "your-256-bit-secret-your-256-bit-secreT",
    "a-string-secret-at-least-512-bits-long-a-string",
    "your_super_secret_jwt_key_change_in_production",
    "super-secret-key-change-me-in-production",
    "please-change-this-secret-in-production",
    "please-change-me-please-change-me",
    "my-super-secret-key-which-is-32-bytes-long",
    "this-is-a-very-long-secret-key-for-jwt-tokens",
    "django-insecure-replace-me-with-a-secret",
    "an-example-password-of-32-characters",
    "tocsin-jwt-secret-for-development-only-2024",
    "correct-horse-battery-staple-correct-horse",
    "openssl rand -base64 48 | tr -d newline",
    "<32 bytes or more random characters>",
    "${TOCSIN_JWT_SECRET:?set it, 32 bytes or more}",
    "$(openssl rand -base64 48 for your node)",
    "{{ .Values.tocsin.jwt.secret | quote }}",
    "passwordpasswordpasswordpassword",
]


@pytest.mark.parametrize("secret", GUESSABLE)
def test_a_secret_that_can_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(UnacceptableKey, match="can be guessed"):
        check_secret(secret.encode())


def test_no_random_secret_is_refused() -> None:
    source = Random(1)
    for _ in range(10_000):
        drawn = source.randbytes(source.choice((24, 32, 48)))
        for secret in (drawn.hex(), base64.b64encode(drawn).decode(), base64.urlsafe_b64encode(drawn).decode()):
            check_secret(secret.encode())
            check_secret(f"tocsin-production-secret-{secret}".encode())
        check_secret(drawn.hex()[:32].encode())
        check_secret(source.randbytes(32))


def test_the_development_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert read_dev_secret(folder) is None
    secret = make_dev_secret(folder)
    assert len(secret) >= 32
    assert make_dev_secret(folder) == read_dev_secret(folder) == secret
    assert stat.S_IMODE((folder / DEV_KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [DEV_KEY_FILE]


def test_all_who_start_together_get_the_same_development_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(make_dev_secret, [tmp_path] * 64))
    assert len(secrets) == 1


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_damaged_development_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DEV_KEY_FILE).write_bytes(content)
    for read in (read_dev_secret, make_dev_secret):
        with pytest.raises(ConfigurationError, match="delete it"):
            read(tmp_path)
