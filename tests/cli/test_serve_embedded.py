"""The embedded PostgreSQL of ``tocsin serve``, killed while nodes serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.harness import PATIENCE, ROOT, SECRET, Process, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start nodes that share an embedded PostgreSQL."""
    started: list[Process] = []

    def start(*options: str) -> Process:
        log = tmp_path / f"log-{len(started)}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")},
            "TOCSIN_JWT_SECRET": SECRET,
            "TOCSIN_DATA_DIR": str(tmp_path / "data"),
            "TOCSIN_PORT": "0",
            "TOCSIN_LOG_FORMAT": "json",
        }
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", *options],
                cwd=ROOT,
                env=environment,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("Tocsin serves ")), "")
        assert line, log.read_text()
        started.append(Process(line.removeprefix("Tocsin serves ").strip(), "", process, log, environment))
        return started[-1]

    yield start
    for node in started:
        node.process.terminate()
    for node in started:
        node.process.communicate(timeout=PATIENCE)


def postmaster(folder: Path) -> int:
    return int((folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])


def lines(node: Process, event: str) -> list[str]:
    records = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return [record["event"] for record in records if event in record["event"]]


async def stored(node: Process) -> bool:
    async with node.http() as client:
        with suppress(httpx2.TransportError):
            answer = await client.post("/v1/alerts", json={"title": "after the crash"})
            assert answer.status_code in {201, 503}
            return answer.status_code == 201
    return False


async def listed(node: Process) -> list[dict[str, Any]] | None:
    async with node.http("alice", "alerts:read") as client:
        answer = await client.get("/v1/alerts", params={"limit": 100})
    alerts: list[dict[str, Any]] | None = answer.json()["alerts"] if answer.is_success else None
    return alerts


@pytest.mark.parametrize("options", [("--dev",), pytest.param(("--workers", "2"), marks=pytest.mark.long)])
async def test_a_killed_postgres_is_started_again_and_what_was_answered_is_there(
    serve: Callable[..., Process], tmp_path: Path, options: tuple[str, ...]
) -> None:
    node = serve(*options)
    before = {(await node.post())["id"] for _ in range(20)}
    os.kill(postmaster(tmp_path), signal.SIGKILL)
    await eventually(lambda: stored(node))
    alerts = await eventually(partial(listed, node))
    assert before < {alert["id"] for alert in alerts}
    await eventually(lambda: lines(node, "the embedded PostgreSQL runs again"))
    assert lines(node, "the embedded PostgreSQL") == [
        "the embedded PostgreSQL was killed: starting it again",
        "the embedded PostgreSQL runs again",
    ]
    assert not lines(node, "worker ended")


@pytest.mark.long
async def test_of_several_nodes_that_share_it_one_starts_it_again(
    serve: Callable[..., Process], tmp_path: Path
) -> None:
    nodes = [serve("--dev"), serve("--dev")]
    os.kill(postmaster(tmp_path), signal.SIGKILL)
    for node in nodes:
        await eventually(partial(stored, node))
    assert len([line for node in nodes for line in lines(node, "starting it again")]) == 1
