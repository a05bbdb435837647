"""The stream client under Node's own test runner: one test here for each ``*.test.mjs`` beside this file."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from scripts.node_tools import INSTALL, node
from service.errors import CloseReason
from tests.requirements import missing

FOLDER = Path(__file__).parent
REASONS = [{"reason": close.reason, "code": close.code, "advice": close.advice} for close in CloseReason]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.test.mjs")), ids=lambda file: file.name)
async def test_under_node(file: Path) -> None:
    executable = node()
    if executable is None:
        missing(f"there is no Node of version 20.19 or newer: {INSTALL}")
        return
    run = await asyncio.create_subprocess_exec(
        executable,
        "--experimental-websocket",  # Node 20 has it behind this flag, later ones know the flag
        "--no-warnings",
        "--test-reporter=tap",
        "--test-timeout=90000",  # ms
        "--test",
        str(file),
        env={**os.environ, "CLOSE_REASONS": json.dumps(REASONS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()
    assert b"# skipped 0" in output
