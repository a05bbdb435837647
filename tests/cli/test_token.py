from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from service.auth.issuers import load_keyring
from service.auth.shared_secret import make_dev_secret
from service.auth.tokens import TokenVerifier
from service.settings import AuthSettings
from tests.fixtures.revocations import KnownRevocations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tocsin = Callable[..., subprocess.CompletedProcess[str]]

    from service.auth.principal import Principal

SECRET = "bX2uV9rKq4Lw7NzT1cYh8GmPd5SjF0ae"
ALICE = ("--sub", "alice", "--scope", "alerts:read")


def bearer(text: str, secret: bytes = SECRET.encode(), **settings: str) -> Principal:
    auth = AuthSettings(**settings)
    return TokenVerifier(load_keyring(auth, secret), auth, KnownRevocations()).verify_cached(text)


def test_the_command_prints_a_token_and_nothing_else(tocsin_process: Tocsin) -> None:
    run = tocsin_process("token", *ALICE, TOCSIN_JWT_SECRET=SECRET)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 1
    assert bearer(run.stdout.strip()).subject == "alice"


@pytest.mark.unit
def test_a_token_carries_what_was_asked_for(tocsin: Tocsin) -> None:
    run = tocsin(
        "token",
        *("--sub", "Zoë", "--scope", "alerts:read  alerts:manage", "--topics", "payments.*, shop"),
        *("--ttl", "90", "--jti", "7"),
        TOCSIN_JWT_SECRET=SECRET,
        TOCSIN_JWT_ISSUER="us",
    )
    assert run.returncode == 0
    principal = bearer(run.stdout.strip(), jwt_issuer="us")
    assert (principal.subject, principal.topics, principal.jti) == ("Zoë", ("payments.*", "shop"), "7")
    assert principal.scopes == {"alerts:read", "alerts:manage"}
    assert 80 < principal.expires_at - time.time() <= 90


@pytest.mark.unit
def test_without_a_secret_the_development_key_signs(tocsin: Tocsin, tmp_path: Path) -> None:
    run = tocsin("token", *ALICE, TOCSIN_DATA_DIR=str(tmp_path))
    assert (run.returncode, run.stdout) == (1, "")
    assert "serve --dev" in run.stderr
    secret = make_dev_secret(tmp_path)
    run = tocsin("token", *ALICE, TOCSIN_DATA_DIR=str(tmp_path))
    assert bearer(run.stdout.strip(), secret).subject == "alice"


def test_the_command_that_sets_a_token_can_be_pasted(tocsin: Tocsin) -> None:
    said = tocsin("send", "--title", "x").stderr
    command = "export TOCSIN_TOKEN=" + said.partition("export TOCSIN_TOKEN=")[2]
    pasted = subprocess.run(
        ["sh", "-c", command + 'printf %s "$TOCSIN_TOKEN"'],
        env={**os.environ, "TOCSIN_JWT_SECRET": SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    assert bearer(pasted.stdout).scopes == {"alerts:read", "alerts:write"}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"TOCSIN_JWT_PUBLIC_KEY_FILE": "key.pem"}, "public key"),
        ({"TOCSIN_JWT_SECRET": "short"}, "TOCSIN_JWT_SECRET"),
        ({"TOCSIN_JWT_SECRET": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "TOCSIN_JWT_SECRET"),
        ({"TOCSIN_JWT_SECRET": os.fsdecode(b"\xff" * 40)}, "UTF-8"),
        ({"TOCSIN_JWT_SECRET": SECRET, "TOCSIN_PORT": "x"}, "TOCSIN_PORT"),
    ],
    ids=["a public key", "weak", "a key", "bytes", "another setting"],
)
def test_what_cannot_sign_is_refused_in_one_line(tocsin: Tocsin, variables: dict[str, str], word: str) -> None:
    run = tocsin("token", *ALICE, **variables)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("tocsin: ")
    assert run.stderr.count("\n") == 1
    assert word in run.stderr
    assert "short" not in run.stderr.replace("too short", "")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--sub", "alice"), "--scope"),
        (("--scope", "admin"), "--sub"),
        (("--sub", "", "--scope", "admin"), "--sub"),
        (("--sub", "a\nb", "--scope", "admin"), "--sub"),
        (("--sub", "a", "--scope", "alerts:red"), "--scope"),
        ((*ALICE, "--topics", ""), "--topics"),
        ((*ALICE, "--topics", "A"), "--topics"),
        ((*ALICE, "--topics", "a,*.b"), "--topics"),
        ((*ALICE, "--ttl", "0"), "--ttl"),
        ((*ALICE, "--ttl", "nan"), "--ttl"),
        ((*ALICE, "--ttl", "inf"), "--ttl"),
        ((*ALICE, "--ttl", "1e300"), "--ttl"),
        ((*ALICE, "--ttl", "soon"), "--ttl"),
        ((*ALICE, "--jti", ""), "--jti"),
        ((*ALICE, "--jti", "\x1b"), "--jti"),
        ((*ALICE, "--audience", "x"), "--audience"),
    ],
)
def test_wrong_usage_is_reported_by_the_option(tocsin: Tocsin, arguments: tuple[str, ...], option: str) -> None:
    run = tocsin("token", *arguments, TOCSIN_JWT_SECRET=SECRET)
    assert (run.returncode, run.stdout) == (2, "")
    assert option in run.stderr


@pytest.mark.unit
@pytest.mark.parametrize(
    "variable",
    [
        {"TOCSIN_JWT_SCOPE_CLAIMS": "roles"},
        {"TOCSIN_JWT_SCOPE_MAP": "oncall=alerts:read"},
        {"TOCSIN_JWT_REQUIRED_CLAIMS": "token_use=access"},
        {"TOCSIN_JWT_AUDIENCE_CLAIM": "client_id"},
    ],
)
def test_tokens_of_another_form_are_not_signed_here(tocsin: Tocsin, variable: dict[str, str]) -> None:
    run = tocsin("token", *ALICE, TOCSIN_JWT_SECRET=SECRET, **variable)
    assert (run.returncode, run.stdout) == (1, "")
    assert "another issuer" in run.stderr


@pytest.mark.unit
def test_a_token_is_for_the_first_of_several_audiences(tocsin: Tocsin) -> None:
    run = tocsin("token", *ALICE, TOCSIN_JWT_SECRET=SECRET, TOCSIN_JWT_AUDIENCE="tocsin,other")
    assert bearer(run.stdout.strip()).subject == "alice"


@pytest.mark.unit
def test_the_secret_may_be_in_a_file(tocsin: Tocsin, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    run = tocsin("token", *ALICE, TOCSIN_JWT_SECRET_FILE=str(tmp_path / "secret"))
    assert bearer(run.stdout.strip()).subject == "alice"
    both = tocsin("token", *ALICE, TOCSIN_JWT_SECRET_FILE=str(tmp_path / "secret"), TOCSIN_JWT_SECRET=SECRET)
    assert both.returncode == 1
    assert "set TOCSIN_JWT_SECRET or TOCSIN_JWT_SECRET_FILE, not both" in both.stderr
