"""No command shows a part of a password, whatever is wrong with the address that holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = {
    "migrate": ("migrate",),
    "sql": ("sql", "-c", "SELECT 1"),
    "audit": ("audit", "connections"),
    "purge": ("purge", "--before", "1d", "--dry-run"),
    "archive": ("archive", "--before", "1d", "--dir", "."),
}
ADDRESSES = [  # nobody listens on port 1
    "postgresql://u:hunter2@127.0.0.1:1/db",
    "postgresql://u:un@hunter2x@127.0.0.1:1/db",
    "postgresql://u:un@hunter2/x@127.0.0.1:1/db",
    "postgresql://u:hunter2/x@127.0.0.1:1/db",
    "postgresql://u:hunter2#x@127.0.0.1:1/db",
    "postgresql://u:hunter2?x@127.0.0.1:1/db",
    "postgresql://u:hunter2%x@127.0.0.1:1/db",
    "postgresql://u:x:hunter2@127.0.0.1:1/db",
    "postgresql://u:hunter2@127.0.0.1:1,127.0.0.1:1/db",
    "postgresql://u:hunter2,?hunter2@127.0.0.1:1/db",
    "postgresql://u@127.0.0.1:1/db?password=hunter2",
    "postgresql:///db?host=127.0.0.1&port=1&user=u&password=hunter2",
    "postgresql://u@127.0.0.1:1/db?sslmode=require&sslpassword=hunter2",
    "postgresql://u@127.0.0.1:1/db?sslmode=never&password=hunter2",
    "postgresql://u:hunter2@127.0.0.1:99999/db",
    "postgresql://u:hunter2@127.0.0.1:x/db",
    "postgresql://u:hunter2@[::1/db",
    "postgresql://u:hunter2@d\N{ACCOUNT OF}b/db",
    "postgresql://127.0.0.1:hunter2/db",
    "postgresql://u:hunter2,x/db",
    "postgresql://u:hunter2,x",
    "postgresql://u:hunter2,x?y",
    "postgresql://u:hunter2,2#x",
    "postgresql://u:1,2#hunter2",
    "postgresql://u:54/hunter2%40127.0.0.1:1/db",
    "postgresql://u%3Ahunter2%40127.0.0.1:1/db",
    "postgresql://u:hunter2@127.0.0.1:-1/db",
    "postgresql://u:hunter2@127.0.0.1:0/db",
    "postgresql://u:hunter2@127.0.0..1/db",
    "postgresql://u:hunter2@127.0.0.1:1/db?sslmode=hunter2",
    "postgresql:hunter2",
    "hunter2",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_a_part_of_the_password_of_the_database(
    refused: Callable[..., str], tmp_path: Path, command: str, address: str
) -> None:
    shown = refused(*COMMANDS[command], TOCSIN_DATABASE_URL=address, TOCSIN_DATA_DIR=str(tmp_path))
    assert "hunter2" not in shown


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", ["TOCSIN_LISTEN_URL", "TOCSIN_AUDITOR_URL"])
def test_no_command_shows_a_part_of_a_password_of_another_login(
    refused: Callable[..., str], name: str, address: str
) -> None:
    variables = {"TOCSIN_DATABASE_URL": "postgresql://127.0.0.1:1/db", name: address}
    assert "hunter2" not in refused("sql", "--auditor", "-c", "SELECT 1", **variables)


@pytest.mark.parametrize("address", ADDRESSES[:2])
def test_a_server_that_does_not_start_shows_none_either(refused_process: Callable[..., str], address: str) -> None:
    variables = {"TOCSIN_JWT_SECRET": SECRET, "TOCSIN_PORT": "0", "TOCSIN_DATABASE_URL": address}
    assert "hunter2" not in refused_process("serve", **variables)


SENDING = {"send": ("--title", "a title"), "people": ("deactivate", "alice")}
SERVICES = [
    "https://u:hunter2@127.0.0.1:1",
    "http://hunter2@127.0.0.1:1",
    "ftp://u:hunter2@x",
    "http://u:hunter2/x@h",
    "http://u:1/hunter2@h",
    "http://u:hunter2?x@h",
    "http://u:hunter2#x@h",
    "http://u:hunter2",
    "http://u:hunter2,x/",
    "http://[hunter2",
    "http://127.0.0.1:1/?token=hunter2",
    "hunter2",
]


@pytest.mark.parametrize("command", SENDING)
@pytest.mark.parametrize("address", SERVICES)
def test_a_password_in_the_address_of_the_service_is_refused_and_not_shown(
    refused: Callable[..., str], address: str, command: str
) -> None:
    shown = refused(command, *SENDING[command], TOCSIN_URL=address, TOCSIN_TOKEN="x")
    assert "hunter2" not in shown
    assert "the address of" in shown


@pytest.mark.parametrize("variable", ["TOCSIN_URL", "TOCSIN_TOKEN_FILE"])
def test_a_stream_that_does_not_start_shows_none_either(refused_process: Callable[..., str], variable: str) -> None:
    variables = {"TOCSIN_TOKEN": "x"} if variable == "TOCSIN_URL" else {}
    assert "hunter2" not in refused_process("tail", **{variable: "http://u:hunter2/x@h"}, **variables)


@pytest.mark.parametrize("address", [address for address in SERVICES if address != "http://127.0.0.1:1/?token=hunter2"])
@pytest.mark.parametrize("name", ["TOCSIN_JWT_JWKS_URL", "TOCSIN_OIDC_ISSUER"])
def test_a_password_in_the_address_of_an_issuer_is_refused_and_not_shown(
    refused: Callable[..., str], name: str, address: str
) -> None:
    for written in (address, address.replace("http://", "https://")):
        shown = refused("serve", **{"TOCSIN_JWT_SECRET": SECRET, name: written})
        assert "hunter2" not in shown
        assert name in shown


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("TOCSIN_TOKEN_FILE", ("send", "--title", "a title")),
        ("TOCSIN_JWT_PUBLIC_KEY_FILE", ("serve",)),
        ("TOCSIN_JWT_JWKS_FILE", ("serve",)),
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", "hunter2" * 100, "hunter2/x", "/dev/null/hunter2"])
def test_a_secret_in_place_of_the_path_of_a_file_is_not_shown(
    refused: Callable[..., str], name: str, command: tuple[str, ...], secret: str
) -> None:
    shown = refused(*command, **{name: secret})
    assert "hunter2" not in shown
    assert name in shown


@pytest.mark.parametrize("name", ["TOCSIN_JWT_SECRET", "TOCSIN_JWT_SECRET_PREVIOUS"])
@pytest.mark.parametrize("secret", ["hunter2", "hunter2" * 8, "-----BEGIN PUBLIC KEY-----hunter2"])
def test_a_secret_that_is_refused_is_not_shown(refused: Callable[..., str], name: str, secret: str) -> None:
    assert name in refused("serve", **{"TOCSIN_JWT_SECRET": SECRET, name: secret})


@pytest.mark.parametrize(
    "issuers",
    [
        '[{"issuer": "a", "audience": "b", "secret": "hunter2"}]',
        '[{"issuer": "a", "audience": "b", "secret": ["hunter2"]}]',
        '[{"issuer": "a", "secret": "hunter2"}]',
        '["hunter2"]',
        "hunter2",
    ],
)
def test_a_secret_of_another_issuer_is_not_shown(refused: Callable[..., str], issuers: str) -> None:
    assert "TOCSIN_ISSUERS" in refused("serve", TOCSIN_ISSUERS=issuers)
