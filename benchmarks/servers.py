"""A server under test: how it is started and stopped, how one posts to it and opens streams on it."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import wire
from tests.harness import READ, WRITE, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.load import Address

PATIENCE = 20.0


@dataclass
class Server:
    """A server and its process.

    ``ready`` is what a stream receives when it is open; ``posts`` is the body that makes it send the frame.
    """

    name: str
    address: Address
    process: subprocess.Popen[str]
    post_path: str
    stream_path: str = ""
    ready: bytes = b"\r\n\r\n"
    wants_token: bool = False
    posts: bytes | None = None
    database: str = ""

    @property
    def pid(self) -> int:
        """The process; its descendants count as its own."""
        return self.process.pid

    def post(self, body: bytes | None = None, path: str | None = None) -> bytes:
        """Return the request that posts an alert, or ``body``."""
        bearer = token("bench", WRITE) if self.wants_token else None
        return wire.post(path or self.post_path, body or self.posts or wire.alert_json(), bearer)

    def handshakes(self, count: int, query: str = "after=latest") -> list[bytes]:
        """Return the requests of ``count`` streams, each of another subject that was never seen before."""
        if not self.wants_token:
            return [wire.handshake(self.stream_path)] * count
        run = uuid.uuid4().hex[:8]
        path = f"{self.stream_path}?{query}"
        return [wire.handshake(path, token(f"admin-{run}-{number}", READ)) for number in range(count)]

    def metric(self, name: str) -> float:
        """Return a figure of ``/metrics``."""
        with urllib.request.urlopen(f"http://{self.address[0]}:{self.address[1]}/metrics", timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextmanager
def stopping(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stop a process at the end of the block."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_listener(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until a process listens.

    Raises:
        RuntimeError: it ended, or took too long.

    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not start")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
