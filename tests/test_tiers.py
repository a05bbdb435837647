from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

import pytest

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


def test_the_processes_of_tests_end_with_ctrl_c_however_the_run_was_started() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
