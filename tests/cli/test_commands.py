"""The list of commands, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from service.cli import app
from service.cli.audit import audit
from service.cli.invocation import suggest

if TYPE_CHECKING:
    from collections.abc import Callable
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
