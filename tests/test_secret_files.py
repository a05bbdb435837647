"""Secrets in files: ``TOCSIN_…_FILE`` for every secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from service.errors import ConfigurationError
from service.settings import PREFIX, AuthSettings, IssuerSettings, groups, load, unknown_variables

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_set")]

SECRET = "bX2uV9rKq4Lw7NzT1cYh8GmPd5SjF0ae"
ISSUERS = json.dumps([{"issuer": "a", "audience": "b", "secret": SECRET}])
VALUES = {
    "jwt_secret": SECRET,
    "jwt_secret_previous": SECRET,
    "database_url": "postgresql://tocsin:hunter2@db/tocsin",
    "listen_url": "postgresql://tocsin:hunter2@db/tocsin",
    "auditor_url": "postgresql://auditor:hunter2@db/tocsin",
    "issuers": ISSUERS,
}


def plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps([{"issuer": one.issuer, "audience": "b", "secret": plain(one.secret)} for one in value])


def value_of(name: str) -> Any:
    settings = load()
    [group] = [group for group, cls in groups().items() if name in cls.model_fields]
    return plain(getattr(getattr(settings, group), name))


def refusal() -> str:
    with pytest.raises(ConfigurationError) as raised:
        load()
    message = str(raised.value)
    assert "\n" not in message
    assert SECRET not in message
    assert "hunter2" not in message
    return message


def test_every_secret_is_tried_here() -> None:
    secrets = {
        name
        for group in groups().values()
        for name, field in group.model_fields.items()
        if "SecretStr" in repr(field.annotation) or "IssuerSettings" in repr(field.annotation)
    }
    assert secrets == VALUES.keys() | {"token"}  # TOCSIN_TOKEN_FILE is older, and read for each connection
    assert all("secret" not in name or name in secrets for name in AuthSettings.model_fields)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_secret_may_be_in_a_file_with_or_without_a_line_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, end: str
) -> None:
    (tmp_path / "secret").write_bytes(f"{VALUES[name]}{end}".encode())
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(tmp_path / "secret"))
    assert value_of(name) == VALUES[name]
    assert not list(unknown_variables())


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_blanks_belong_to_a_secret_and_a_byte_order_mark_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mark: str
) -> None:
    (tmp_path / "secret").write_text(f"{mark} {SECRET}\t\n", "utf-8")
    monkeypatch.setenv("TOCSIN_JWT_SECRET_FILE", "secret")
    assert value_of("jwt_secret") == f" {SECRET}\t"


@pytest.mark.parametrize("name", VALUES)
def test_a_secret_and_its_file_are_not_both_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(VALUES[name])
    variable = f"{PREFIX}{name.upper()}"
    monkeypatch.setenv(variable, VALUES[name])
    monkeypatch.setenv(f"{variable}_FILE", "secret")
    assert refusal() == f"set {variable} or {variable}_FILE, not both"
    monkeypatch.delenv(variable)
    (tmp_path / ".env").write_text(f"{variable}='{VALUES[name]}'\n")
    assert refusal() == f"set {variable} or {variable}_FILE, not both"
    monkeypatch.setenv(f"{variable}_FILE", "")
    assert value_of(name) == VALUES[name]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (b"\n", "the file is empty"),
        (b"\xff\xfe", "the file is not UTF-8"),
        (b"a" * (1024 * 1024 + 1), "the file is larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    variable = f"{PREFIX}{name.upper()}_FILE"
    monkeypatch.setenv(variable, str(tmp_path / "secret"))
    message = refusal()
    assert message.startswith(f"{variable}: {said}")
    assert str(tmp_path) not in message


def test_a_secret_that_was_set_in_the_place_of_its_file_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (SECRET, VALUES["database_url"], "a" * 5000):
        monkeypatch.setenv("TOCSIN_JWT_SECRET_FILE", value)
        assert refusal().startswith("TOCSIN_JWT_SECRET_FILE: ")


def test_a_folder_is_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOCSIN_DATABASE_URL_FILE", str(tmp_path))
    assert refusal().startswith("TOCSIN_DATABASE_URL_FILE: Is a directory")


@pytest.mark.parametrize("name", ["secret", "secret_previous"])
def test_the_secrets_of_issuers_may_be_in_files_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    one = {"issuer": "a", "audience": "b", f"{name}_file": "secret"}
    monkeypatch.setenv("TOCSIN_ISSUERS", json.dumps([one]))
    assert plain(getattr(load().auth.issuers[0], name)) == SECRET
    monkeypatch.setenv("TOCSIN_ISSUERS", json.dumps([{**one, name: SECRET}]))
    assert refusal() == f"TOCSIN_ISSUERS: 0: set {name} or {name}_file, not both"
    for path in ("absent", 5, ["secret"], "\0"):
        monkeypatch.setenv("TOCSIN_ISSUERS", json.dumps([{**one, f"{name}_file": path}]))
        assert refusal().startswith(f"TOCSIN_ISSUERS: 0: {name}_file: ")


def test_what_is_no_secret_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_PORT_FILE", "port")
    assert [name for name, _ in unknown_variables()] == ["TOCSIN_PORT_FILE"]
    with pytest.raises(ValueError, match="audience_file"):
        IssuerSettings.model_validate({"issuer": "a", "audience": "b", "audience_file": "x"})
