"""The nodes of a trial: processes of ``tocsin serve``, with short leases and timeouts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from tests.faults.trials.records import SECRET
from tests.fixtures.fake_clock import forget
from tests.fixtures.postgres_cluster import HOST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fixtures.fake_clock import FakeClock

ROOT = Path(__file__).parent.parent.parent.parent
STOP_SECONDS = 40.0
LEASE_SECONDS = 3
EVERY = "1000000/second"
VARIABLES = {
    "TOCSIN_JWT_SECRET": SECRET,
    "TOCSIN_LOG_FORMAT": "json",
    "TOCSIN_ACCESS_LOG": "false",
    "TOCSIN_WRITE_LIMIT": EVERY,
    "TOCSIN_READ_LIMIT": EVERY,
    "TOCSIN_AUTH_FAILURE_LIMIT": EVERY,
    "TOCSIN_CONNECT_LIMIT": EVERY,
    "TOCSIN_NODE_LEASE_SECONDS": str(LEASE_SECONDS),
    "TOCSIN_HOUSEKEEPING_INTERVAL_SECONDS": "0.3",
    "TOCSIN_HEARTBEAT_SECONDS": "1",
    "TOCSIN_LONGPOLL_IDLE_TIMEOUT_SECONDS": "4",
    "TOCSIN_SHUTDOWN_TIMEOUT_SECONDS": "3",
    "TOCSIN_DATABASE_TIMEOUT_SECONDS": "2",
    "TOCSIN_DATABASE_CONNECT_TIMEOUT_SECONDS": "1",
    "TOCSIN_COMMIT_RECOVERY_TIMEOUT_SECONDS": "3",
    "TOCSIN_DATABASE_READ_CONNECTIONS": "3",
}


@dataclass
class Node:
    """A port on which one process serves at a time. ``variables`` are its own settings."""

    port: int
    log: Path
    variables: dict[str, str]
    clock: FakeClock | None = None
    process: subprocess.Popen[bytes] | None = None
    is_serving: bool = False
    """Whether clients may choose it, and it may not end by itself."""

    @property
    def address(self) -> str:
        """The host and the port."""
        return f"{HOST}:{self.port}"

    @property
    def base(self) -> str:
        """The address for HTTP."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        await asyncio.to_thread(self._start)
        self.is_serving = True

    def _start(self) -> None:
        self.kill()
        environment = environment_of({**self.variables, "TOCSIN_PORT": str(self.port)})
        if self.clock is not None:
            environment |= self.clock.environment
        command = [sys.executable, "-m", "service", "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(b"Tocsin serves"), f"a node did not start: {self.log.read_text()[-2000:]}"

    def kill(self) -> None:
        """End it at once."""
        self.is_serving = False
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            forget(self.process.pid)
            self.process = None

    async def stop(self) -> str | None:
        """Ask it to stop, wait until it has, and return what was wrong with that."""
        if complaint := self.ended_by_itself():
            return complaint
        self.is_serving = False
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self.process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return "a node does not stop"
        return f"a node that was asked to stop ended with {code}: {self.last_words()}" if code else None

    def ended_by_itself(self) -> str | None:
        """Return a complaint if it has ended and nobody ended it."""
        if not self.is_serving or self.process is None or self.process.poll() is None:
            return None
        self.is_serving = False
        return f"a node ended by itself with {self.process.returncode}: {self.last_words()}"

    def freeze(self) -> None:
        """Let it do nothing."""
        self.is_serving = False
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)
        self.is_serving = True

    async def readiness(self) -> int | None:
        """Return the status of ``/readyz``."""
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
                return (await http.get(f"{self.base}/readyz")).status_code
        except httpx2.HTTPError:
            return None

    def last_words(self) -> str:
        """Return what it logged last that is more than information."""
        lines = [line for line in self.log.read_text().splitlines() if '"level": "info"' not in line]
        return " | ".join(line[:700] for line in lines[-3:])


def environment_of(variables: dict[str, str]) -> dict[str, str]:
    """Return the environment of a command of the service with these settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    return others | VARIABLES | variables


def errors_of(nodes: Iterable[Node], allowed: str | None) -> list[str]:
    """Return what nodes logged as errors, each kind once. A fault may cause none but the ``allowed`` one."""
    found: dict[str, str] = {}
    for line in (line for node in nodes for line in node.log.read_text().splitlines()):
        if '"level": "error"' in line or '"level": "critical"' in line:
            document = json.loads(line)
            if document.get("logger") != "uvicorn.error" and document["event"] != allowed:
                found.setdefault(document["event"], f"a node logged an error: {line[-700:]}")
    return list(found.values())


async def verify(variables: dict[str, str]) -> list[str]:
    """Let ``tocsin audit verify`` check the hash chains of the log and the ledger, and return what is wrong."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "audit", "verify"],
        env=environment_of(variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if done.returncode == 0 else [f"audit verify: {done.stdout.strip()} {done.stderr.strip()[-500:]}"]
