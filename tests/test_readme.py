"""The commands that a newcomer pastes: those of ``README.md``, and those that ``make run`` prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def newcomer(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that knows nothing of us, in a folder whose ``.venv`` is ours."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return {**{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}, "PATH": "/usr/bin:/bin"}


@pytest.fixture
def greeting(newcomer: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """What ``make run`` prints; it serves meanwhile."""
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [".venv/bin/tocsin", "serve", "--dev"],
            cwd=tmp_path,
            env={**newcomer, "TOCSIN_PORT": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "sql -c" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], log.read_text()
        try:
            yield "".join(lines)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0


def test_the_blocks_of_the_readme_and_the_printed_commands_work_as_they_stand(
    newcomer: dict[str, str], greeting: str, tmp_path: Path
) -> None:
    printed = [line.strip() for line in greeting.splitlines() if "curl" in line or "sql -c" in line]
    found = re.search(r"http://127\.0\.0\.1:\d+", greeting)
    assert found is not None
    script = "\n".join([*BLOCKS, *printed]).replace(ADDRESS, found[0])
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=newcomer,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run
    assert len(printed) == 2
    assert '"title":"Card acceptance below 80 %"' in run.stdout
    assert '"title":"Hello, on-call"' in run.stdout
    assert run.stdout.count("(0 rows)") == 2  # nobody was connected
    assert "log     OK" in run.stdout
    assert (tmp_path / ".tocsin").is_dir()
