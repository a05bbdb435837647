"""What Tocsin is compared with, each started in a process of its own.

(a) the tutorial's server, (b) a bare send loop, (c) one transaction a request, (noop) a POST that does nothing, and
(d) nginx with nchan where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import wire
from benchmarks.peers import nchan as nginx
from benchmarks.servers import Server, await_listener, free_port, stopping
from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.nodes import Bench

NOT_INSTALLED = "not installed: make bench-peers"
NO_COMPILER = "not measured: there is no C compiler (cc)"


@contextmanager
def tutorial(bench: Bench) -> Iterator[Server]:
    """Run baseline (a)."""
    with _uvicorn(bench, "tutorial") as server:
        server.post_path, server.stream_path = "/alerts", "/ws"
        yield server


@contextmanager
def noop(bench: Bench) -> Iterator[Server]:
    """Run the noop baseline."""
    with _uvicorn(bench, "noop") as server:
        server.post_path = "/noop"
        yield server


@contextmanager
def one_transaction(bench: Bench) -> Iterator[Server]:
    """Run baseline (c)."""
    database = bench.new_database(migrated=False)
    with _uvicorn(bench, "one_transaction", BENCH_URL=database, BENCH_SECRET=SECRET) as server:
        server.post_path, server.wants_token = "/alerts", True
        yield server


@contextmanager
def _uvicorn(bench: Bench, module: str, **environment: str) -> Iterator[Server]:
    port = free_port()
    arguments = ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--backlog", "2048"]
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.peers.{module}:app", *arguments]
    process = bench.start([*command, "--no-access-log", "--log-level", "warning"], environment)
    with stopping(process):
        await_listener(port, process)
        yield Server(module, ("127.0.0.1", port), process, "")


@contextmanager
def send_loop(bench: Bench, name: str = "send_loop") -> Iterator[Server | None]:
    """Run baseline (b), or yield None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        yield None
        return
    path, program = bench.folder / "frame", bench.folder / "send_loop"
    path.write_bytes(bench.frame)
    source = Path(__file__).parent / "peers" / "send_loop.c"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    port = free_port()
    process = bench.start([str(program), str(port), str(path)], {})
    with stopping(process):
        await_listener(port, process)
        yield Server(name, ("127.0.0.1", port), process, "", ready=b"+")


@contextmanager
def nchan(bench: Bench) -> Iterator[Server | None]:
    """Run baseline (d), or yield None where it is not installed. It sends on what it is posted: the frame's text."""
    program = nginx.program()
    if program is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="nchan-", dir=bench.folder))
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(nginx.configuration(folder, port, as_root=os.geteuid() == 0))
    process = bench.start([program, "-p", str(folder), "-c", str(path), "-e", str(folder / "nginx.log")], {})
    with stopping(process):
        await_listener(port, process)
        text = bench.frame[wire.HEADER_BYTES :]
        yield Server("nchan", ("127.0.0.1", port), process, "/publish", "/subscribe", posts=text)
