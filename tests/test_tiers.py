from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness import ROOT
from tests.tiers import SLOWEST_FIRST

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit


def test_a_unit_test_that_connects_fails() -> None:
    with socket.socket() as one, pytest.raises(pytest.fail.Exception, match="unit test"):
        one.connect(("127.0.0.1", 1))


async def test_a_unit_test_that_connects_through_its_loop_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="unit test"):
        await asyncio.open_connection("127.0.0.1", 1)


def test_a_unit_test_that_starts_a_process_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="unit test"):
        subprocess.Popen([sys.executable, "-c", ""])


@pytest.mark.unit(process=True)
def test_neither_the_tests_nor_their_processes_ask_a_proxy(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_it():\n    assert not [name for name in os.environ if name.lower().endswith('_proxy')]\n"
    )
    variables = {"HTTP_PROXY": "http://127.0.0.1:1", "no_proxy": "*", "Grpc_Proxy": "http://127.0.0.1:1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.tiers", "-c", ROOT / "pyproject.toml", tmp_path],
        cwd=tmp_path,
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_processes_of_tests_end_with_ctrl_c_however_the_run_was_started() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_slowest_modules_exist() -> None:
    assert [module for module in SLOWEST_FIRST if not (ROOT / "tests" / module).exists()] == []
