from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from service.auth.issuers import load_keyring
from service.auth.shared_secret import make_dev_secret
from service.auth.tokens import TokenVerifier
from service.cli import main
from service.settings import AuthSettings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from service.auth.principal import Principal

SECRET = "0123456789abcdef0123456789abcdef"
ALICE = ("--sub", "alice", "--scope", "alerts:read")


@pytest.fixture
def token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``tocsin token`` in this process, and return its exit code, its output and its complaint."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("TOCSIN_"):
            monkeypatch.delenv(name)

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["tocsin", "token", *arguments])
        with pytest.raises(SystemExit) as raised:
            main()
        code = raised.value.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def bearer(text: str, secret: bytes = SECRET.encode(), **settings: str) -> Principal:
    auth = AuthSettings(**settings)  # type: ignore[arg-type]
    return TokenVerifier(load_keyring(auth, secret), auth).verify(text)


def test_the_command_prints_a_token_and_nothing_else(tocsin: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run = tocsin("token", *ALICE, TOCSIN_JWT_SECRET=SECRET)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 1
    assert bearer(run.stdout.strip()).subject == "alice"


@pytest.mark.unit
def test_a_token_carries_what_was_asked_for(token: Callable[..., tuple[int, str, str]]) -> None:
    code, output, _ = token(
        *("--sub", "Zoë", "--scope", "alerts:read  alerts:manage", "--topics", "payments.*, shop"),
        *("--ttl", "90", "--jti", "7"),
        TOCSIN_JWT_SECRET=SECRET,
        TOCSIN_JWT_ISSUER="us",
    )
    assert code == 0
    principal = bearer(output.strip(), jwt_issuer="us")
    assert (principal.subject, principal.topics, principal.jti) == ("Zoë", ("payments.*", "shop"), "7")
    assert principal.scopes == {"alerts:read", "alerts:manage"}
    assert 80 < principal.expires_at - time.time() <= 90


@pytest.mark.unit
def test_without_a_secret_the_development_key_signs(token: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, output, complaint = token(*ALICE, TOCSIN_DATA_DIR=str(tmp_path))
    assert (code, output) == (1, "")
    assert "serve --dev" in complaint
    secret = make_dev_secret(tmp_path)
    code, output, _ = token(*ALICE, TOCSIN_DATA_DIR=str(tmp_path))
    assert bearer(output.strip(), secret).subject == "alice"


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
def test_what_cannot_sign_is_refused_in_one_line(
    token: Callable[..., tuple[int, str, str]], variables: dict[str, str], word: str
) -> None:
    code, output, complaint = token(*ALICE, **variables)
    assert (code, output) == (1, "")
    assert complaint.startswith("tocsin: ")
    assert complaint.count("\n") == 1
    assert word in complaint
    assert "short" not in complaint.replace("too short", "")


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
def test_wrong_usage_is_told_by_the_option(
    token: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], option: str
) -> None:
    code, output, complaint = token(*arguments, TOCSIN_JWT_SECRET=SECRET)
    assert (code, output) == (2, "")
    assert option in complaint
