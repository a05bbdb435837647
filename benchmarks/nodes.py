"""Where everything runs: a temporary folder, a PostgreSQL of its own, and nodes on databases of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from benchmarks import cpu, wire
from benchmarks.servers import PATIENCE, Server, stopping
from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from service.database.migrate import migrate
from tests.harness import ROOT, SECRET, with_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

TEMPLATE = "template_bench"
RAISED_LIMITS = {"TOCSIN_WRITE_LIMIT": "100000000/second; 1000000000/minute"}
"""They count every request and refuse none."""
NO_LOG = {"TOCSIN_ACCESS_LOG": "false", "TOCSIN_LOG_LEVEL": "warning"}
"""No line for each request: the baselines write none either."""


@dataclass
class Bench:
    """What the scenarios share. ``frame`` is an event as Tocsin sends it, ``offered`` deliveries/s end to end."""

    folder: Path
    server_url: str
    postgres: int
    offered: float
    frame: bytes = b""
    databases: int = 0

    def new_database(self, *, migrated: bool = True) -> str:
        """Make a database and return its address."""
        self.databases += 1
        name = f"bench_{self.databases}"
        sql(self.server_url, f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE if migrated else "template1"}"')
        return with_database(self.server_url, name)

    @contextmanager
    def node(
        self,
        database: str | None = None,
        *,
        name: str = "tocsin",
        workers: int = 1,
        module: str = "service",
        variables: dict[str, str] | None = None,
    ) -> Iterator[Server]:
        """Run Tocsin, on a new database where none is given, with further ``variables`` of the environment."""
        database = database or self.new_database()
        environment = {
            "TOCSIN_DATABASE_URL": database,
            "TOCSIN_JWT_SECRET": SECRET,
            "TOCSIN_DATA_DIR": str(self.folder),
            "TOCSIN_PORT": "0",
            **RAISED_LIMITS,
            **NO_LOG,
            **(variables or {}),
        }
        arguments = ["serve", *(["--workers", str(workers)] if workers > 1 else [])]
        process = self.start([sys.executable, "-m", module, *arguments], environment, stdout=subprocess.PIPE)
        with stopping(process):
            assert process.stdout is not None
            greeting = process.stdout.readline()
            if not greeting.startswith("Tocsin serves "):
                raise RuntimeError(f"the node did not start: {(self.folder / 'errors.log').read_text()[-2000:]}")
            port = int(greeting.strip().rpartition(":")[2])
            ready = b'{"type":"caught_up"'
            yield Server(
                name,
                ("127.0.0.1", port),
                process,
                "/v1/alerts",
                "/v1/ws",
                ready,
                wants_token=True,
                database=database,
            )

    def start(self, command: list[str], environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:
        """Start a process whose errors go into the folder."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        with (self.folder / "errors.log").open("a") as errors:
            return subprocess.Popen(command, cwd=ROOT, env=inherited | environment, text=True, stderr=errors, **options)

    def cpu(self, server: Server, readers: int | None = None) -> AbstractContextManager[cpu.Cpu]:
        """Account for the CPU of a trial."""
        parts = {"server": server.pid, "postgres": self.postgres}
        return cpu.account(parts | ({"readers": readers} if readers is not None else {}))


def sql(url: str, query: str, *arguments: Any) -> list[Any]:
    """Run a statement and return its rows."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[Any] = await connection.fetch(query, *arguments)
        finally:
            await connection.close()
        return rows

    return asyncio.run(run())


@contextmanager
def bench(offered: float) -> Iterator[Bench]:
    """Start PostgreSQL with a migrated template, and stop it in the end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tocsin-bench-"))
        # Not before the process ends: the embedded server's own farewell puts its lock there once more.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        url = stack.enter_context(embedded_postgres(folder)).render_as_string(hide_password=False)
        sql(url, f"CREATE DATABASE {TEMPLATE}")
        migrate(parse_url(with_database(url, TEMPLATE)))
        postgres = int((folder / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
        made = Bench(folder, url, postgres, offered)
        made.frame = _sample_frame(made)
        yield made


def _sample_frame(made: Bench) -> bytes:
    """Return the frame that Tocsin sends for the alert of the benchmark."""
    with made.node() as node, socket.create_connection(node.address, PATIENCE) as stream:
        stream.sendall(node.handshakes(1)[0])
        received = b""
        while node.ready not in received:
            received += stream.recv(65536)
        with socket.create_connection(node.address, PATIENCE) as source:
            source.sendall(node.post())
            while wire.EVENT not in received or not received.endswith(b"}}"):
                received += stream.recv(65536)
    return wire.text_message(next(text for text in wire.payloads(received)[0] if text.startswith(wire.EVENT)))
