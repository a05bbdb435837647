from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.harness import ROOT, new_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
def tocsin(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in an empty folder, with these variables and no others of ours."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def refused(tocsin: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Run the command, which must fail, and return what it says: one line, on standard error alone."""

    def run(*arguments: str, **variables: str) -> str:
        run = tocsin(*arguments, **variables)
        assert (run.returncode, run.stdout) == (1, ""), run
        assert run.stderr.startswith("tocsin: ")
        assert run.stderr.count("\n") == 1, run.stderr
        assert "hunter2" not in run.stderr
        return run.stderr

    return run


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """A database without a schema."""
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", "template0") as url:
        yield url
