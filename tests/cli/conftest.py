from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TextIO

import pytest

from service import logs
from service.cli import main
from tests.harness import ROOT, new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

Run = subprocess.CompletedProcess[str]
THREAD = "command"
PATIENCE = 120
ALWAYS = {"NO_COLOR": "1", "TOCSIN_DATABASE_CONNECT_TIMEOUT_SECONDS": "60"}  # a busy machine takes its time


class OfThread(io.TextIOBase):
    """Standard output or error of one thread; what others write, such as the logs of a node, goes where it went."""

    def __init__(self, others: TextIO) -> None:
        self.text = ""
        self._others = others

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith(THREAD):
            self.text += text
            return len(text)
        return self._others.write(text)


def _exit_code() -> int:
    with pytest.raises(SystemExit) as raised:
        main()
    code = raised.value.code or 0
    assert isinstance(code, int)
    return code


@pytest.fixture
def tocsin(tmp_path: Path) -> Callable[..., Run]:
    """Run the command in this process, in an empty folder, with these variables and no others of ours.

    It runs in a thread, for the test may have an event loop. The logs stay those of the test. A command that starts a
    program that prints, or handles signals, needs ``tocsin_process``.
    """

    def run(*arguments: str, text: str = "", **variables: str) -> Run:
        output, errors = OfThread(sys.stdout), OfThread(sys.stderr)
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1, THREAD) as thread:
            patch.chdir(tmp_path)
            patch.setattr(logs, "configure", lambda *_: None)
            for name in [name for name in os.environ if name.startswith("TOCSIN_")]:
                patch.delenv(name)
            for name, value in {**ALWAYS, **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["tocsin", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            patch.setattr(sys, "stdout", output)
            patch.setattr(sys, "stderr", errors)
            code = thread.submit(_exit_code).result(PATIENCE)
        return Run(arguments, code, output.text, errors.text)

    return run


@pytest.fixture
def tocsin_process(tmp_path: Path) -> Callable[..., Run]:
    """Run the command in a process of its own."""

    def run(*arguments: str, **variables: str) -> Run:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": str(ROOT), **ALWAYS, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


def _one_line(run: Run) -> str:
    """Return what a command says that failed: one line, on standard error alone."""
    assert (run.returncode, run.stdout) == (1, ""), run
    assert run.stderr.startswith("tocsin: ")
    assert run.stderr.count("\n") == 1, run.stderr
    assert "hunter2" not in run.stderr
    return run.stderr


@pytest.fixture
def refused(tocsin: Callable[..., Run]) -> Callable[..., str]:
    """Run the command in this process; it must fail, with one line on standard error, which is returned."""
    return lambda *arguments, **variables: _one_line(tocsin(*arguments, **variables))


@pytest.fixture
def refused_process(tocsin_process: Callable[..., Run]) -> Callable[..., str]:
    """Run the command in a process of its own; it must fail, with one line on standard error, which is returned."""
    return lambda *arguments, **variables: _one_line(tocsin_process(*arguments, **variables))


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """A database without a schema."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", "template0") as url:
        yield url
