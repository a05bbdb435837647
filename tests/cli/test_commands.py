"""The list of commands, and what importing them costs."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.cli import app
from service.cli.audit import audit
from service.cli.invocation import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.cli.lazy_group import LazyGroup

COMMANDS = [(group, name) for group in (app, audit) for name in group.commands]


@pytest.mark.unit
@pytest.mark.parametrize(("group", "name"), COMMANDS, ids=[name for _, name in COMMANDS])
def test_the_list_says_what_the_help_of_the_command_says(group: LazyGroup, name: str) -> None:
    first, *_ = inspect.cleandoc(group.load(name).help).splitlines()
    assert first == group.commands[name].help


@pytest.mark.unit
def test_a_misspelt_command_is_refused_with_the_one_that_it_resembles(
    tocsin: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    run = tocsin("audti")
    assert (run.returncode, run.stdout) == (2, "")
    assert "Did you mean 'audit'?" in run.stderr


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = "import sys; from service.cli import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *page, modules = run.stdout.splitlines()
    assert "  tail     Print events as they happen, until Ctrl-C." in page
    assert {"service.cli.audit", "service.cli.token", "pydantic", "rich"}.isdisjoint(modules.split())


@pytest.mark.unit
def test_a_suggested_command_is_the_shortest_that_works_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / ".venv" / "bin" / "tocsin"
    script.parent.mkdir(parents=True)
    python = str(script.with_name("python"))
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert suggest("migrate") == f"{python} -m service migrate"
    script.touch(0o755)
    assert suggest("migrate") == ".venv/bin/tocsin migrate"
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin")
    assert suggest("migrate") == "tocsin migrate"
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir("/")
    assert suggest("migrate") == f"{script.relative_to('/')} migrate"


READS = (
    "audit unreceived",
    "audit report",
    "audit alert 01a1fd87-65c3-71a6-ba06-3929d3197295",
    "audit verify",
    "sql -c SELECT",
    "sql --auditor -c SELECT",
    "purge --before 1d",
    "purge --before 1d --dry-run",
    "archive --before 1d --dir archives",
)


@pytest.mark.unit
@pytest.mark.parametrize("command", READS)
def test_a_command_that_reads_makes_no_database_and_says_what_to_do(
    refused: Callable[..., str], tmp_path: Path, command: str
) -> None:
    said = refused(*command.split())
    assert f"there is no database in the data folder {tmp_path.resolve() / '.tocsin'}" in said
    assert "TOCSIN_DATABASE_URL" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_a_data_folder_that_is_something_else_is_left_as_it_is(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "there is no database" in refused("audit", "report", TOCSIN_DATA_DIR="photos")
    (tmp_path / "file").touch()
    assert "there is no database" in refused("audit", "report", TOCSIN_DATA_DIR="file")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "photos"]


@pytest.mark.parametrize(
    "command", [*(each for each in READS if each.startswith(("audit r", "purge", "archive"))), "migrate"]
)
async def test_a_schema_of_a_newer_version_or_of_another_program_is_said_to_be_one(
    refused: Callable[..., str], empty_url: str, command: str
) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE alembic_version (version_num text)")
    await connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    await connection.close()
    said = await asyncio.to_thread(refused, *command.split(), TOCSIN_DATABASE_URL=empty_url)
    assert "has the schema of a newer version of Tocsin, or of another program" in said


USAGE = (
    *((name, "--no-such-option") for group, name in COMMANDS if group is app and name not in ("audit", "people")),
    *(("audit", name, "--no-such-option") for group, name in COMMANDS if group is audit),
    *(("people", name, "--no-such-option") for name in ("deactivate", "reactivate")),
    (),
    ("audit",),
    ("people",),
    ("no\nsuch",),
    ("audit", "--no\nsuch"),
    ("send", "--title"),
    ("token",),
    ("token", "--sub", "a", "--scope", "admin", "--ttl", "soon"),
    ("purge", "--before", "soon"),
    ("archive", "--before", "soon"),
    ("tail", "--count", "many"),
    ("tail", "--topic", "Bad T"),
    ("tail", "--topic", ""),
    ("tail", "--min-severity", "bad"),
    ("resolve", "key", "--topic", "payments.*"),
    ("audit", "alert", "4711"),
)


@pytest.mark.unit
@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_is_said_in_one_line(
    tocsin: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...]
) -> None:
    run = tocsin(*arguments)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run
    assert run.stderr.startswith("tocsin: ")
    assert " --help)" in run.stderr


@pytest.mark.unit
def test_a_group_without_a_command_names_its_commands(
    tocsin: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert tocsin("people").stderr == ("tocsin: give a command: deactivate, reactivate (see tocsin people --help)\n")


@pytest.mark.unit
def test_a_misspelt_option_is_refused_with_those_that_it_resembles(
    tocsin: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    assert "--escalate-after" in tocsin("send", "--escalate-aftre", "1h").stderr


class OtherServer(BaseHTTPRequestHandler):
    """Answers 200 to everything, in HTML."""

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b"<p>Hello!</p>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def other_server() -> Iterator[str]:
    """Serve, and yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("command", ["send --title x", "resolve key", "people deactivate bob", "people reactivate bob"])
def test_an_answer_of_another_server_is_said_in_one_line(
    tocsin: Callable[..., subprocess.CompletedProcess[str]], command: str
) -> None:
    with other_server() as url:
        run = tocsin(*command.split(), "--url", url, TOCSIN_TOKEN="t")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith("tocsin: ")
    assert "HTTP status 200" in run.stderr
    assert url in run.stderr
