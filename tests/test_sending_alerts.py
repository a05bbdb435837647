"""``docs/sending-alerts.md``, run as it stands: each block against a real node."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import PATIENCE, READ, ROOT, WRITE, Node, eventually, token
from tests.integrations.test_alertmanager import manager, needs_alertmanager, prometheus_alert
from tests.programs import command

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "sending-alerts.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [(language, text) for language, text in BLOCKS if language in {"bash", "python"}]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A ``PATH`` on which ``tocsin`` is this checkout and ``apprise`` that of the tests."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command(folder / "tocsin", "-m service")
    # The warning is of a module that Apprise imports and Python has deprecated.
    command(folder / "apprise", "-W ignore -c 'from apprise.cli import main; main()'")
    return f"{folder}:{os.environ['PATH']}"


def here(text: str, node: Node) -> str:
    """Return a block of the page as it is for this node."""
    address = node.base.removeprefix("http://")
    return text.replace("https://tocsin.example", node.base).replace("jsons://tocsin.example", f"json://{address}")


async def run(language: str, text: str, node: Node, path: str, folder: Path) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    bearer = token("billing", f"{READ} {WRITE}")
    command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, here(text, node)],
        env={**inherited, "PATH": path, "PYTHONPATH": str(ROOT), "TOCSIN_TOKEN": bearer},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert bearer not in done.stdout + done.stderr
    return done.stdout


async def titles(node: Node) -> list[str]:
    return [row[0] for row in await node.sql("SELECT title FROM alerts ORDER BY seq")]


@pytest.mark.parametrize(("language", "text"), COMMANDS, ids=[text.split("\n")[1][:40] for _, text in COMMANDS])
async def test_a_block_of_the_page_does_what_the_page_says(
    node: Node, path: str, tmp_path: Path, language: str, text: str
) -> None:
    if "tocsin tail" in text:
        await node.post("Settlement file is late", topic="payments.eu", severity="error")
    output = await run(language, text, node, path, tmp_path)
    assert await titles(node)
    for said in re.findall(r'(?:--title|-t|post\() ?"([^"$]+)"|"title": "([^"]+)"', text):
        if (title := said[0] or said[1]) != "A title":  # the one that the page shows being refused
            assert title in await titles(node)
    if "tail" in text:
        assert "Settlement file is late" in output
    if "events" in text and language == "python":
        assert output.splitlines()[-1].endswith("info Two")


@needs_alertmanager
async def test_an_alertmanager_with_the_configuration_of_the_page_posts(node: Node, tmp_path: Path) -> None:
    [config] = [text for language, text in BLOCKS if language == "yaml"]
    (tmp_path / "token").write_text(token("alertmanager", WRITE))
    config = here(config, node).replace("/etc/alertmanager/tocsin.token", str(tmp_path / "token"))
    config = config.replace("  group_by", "  group_wait: 100ms\n  group_by")
    async with manager(config, tmp_path) as prometheus:
        await prometheus.post(prometheus_alert("DiskFull"))

        async def is_stored() -> Any:
            return await titles(node)

        assert await eventually(is_stored) == ["DiskFull on db1"]
