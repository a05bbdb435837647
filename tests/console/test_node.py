"""The console's modules that need no browser, under Node's own test runner."""

from __future__ import annotations

import asyncio
import json
import os
from itertools import product
from pathlib import Path

import pytest

from scripts.node_tools import INSTALL, node
from service.topics import covers
from tests.requirements import missing

FOLDER = Path(__file__).parent
WITH_SOCKETS = [FOLDER / "stream" / name for name in ("stream-client.test.mjs", "tab-leader.test.mjs")]
PURE = sorted({*FOLDER.glob("*/*.test.mjs")} - {*WITH_SOCKETS})
TOPICS = [".".join(parts) for count in (1, 2, 3) for parts in product(("a", "b", "a-b"), repeat=count)]
PATTERNS = ["*", *TOPICS[:12], *(f"{topic}.*" for topic in TOPICS[:12])]
TOPIC_CASES = [(pattern, topic, covers(pattern, topic)) for pattern in PATTERNS for topic in TOPICS]


async def run(*files: Path) -> None:
    """Run the tests of these files in one process."""
    executable = node()
    if executable is None:
        missing(f"there is no Node of version 20.19 or newer: {INSTALL}")
        return
    process = await asyncio.create_subprocess_exec(
        executable,
        "--experimental-websocket",  # Node 20 has it behind this flag, later versions accept the flag
        "--no-warnings",
        "--input-type=module",
        "--eval",
        "".join(f"import {json.dumps(file.as_uri())};" for file in files),
        env={**os.environ, "TOPIC_CASES": json.dumps(TOPIC_CASES), "NODE_TEST_CONTEXT": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"tests 0" not in output
    assert b"skipped 0" in output


@pytest.mark.unit(process=True)
async def test_pure_modules() -> None:
    await run(*PURE)


async def test_modules_with_sockets() -> None:
    """They mostly wait, so they do it side by side, each in a process whose clock and chance are its own."""
    await asyncio.gather(*(run(file) for file in WITH_SOCKETS))
