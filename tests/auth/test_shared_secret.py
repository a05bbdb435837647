from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
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

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"0123456789abcdef0123456789abcdef"


@given(st.text(), st.text(), st.none() | st.lists(st.text()), st.floats(1, 1e9))
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
