"""Processes of the ``tocsin`` command that are forked from one in which the service is already imported.

Starting Python and importing the service takes most of a second of processor time; a fork takes a hundredth. A forked
command has its own arguments, environment, working folder and standard streams, gets every signal, and ends as any
Python process does. Linux only: the parent waits for its children with pidfds.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from service.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parent.parent
PRELOADED = ("service.cli.serve", "service.cli.audit")
REQUEST_MAX_BYTES = 128 * 1024
STREAMS = 3
"""Standard input, output and error."""
_lock = threading.Lock()


class ForkedProcess(subprocess.Popen[str]):
    """A command that another process forked, which therefore knows its exit code first."""

    def __init__(self, arguments: Sequence[str], pid: int, stdout: IO[str], status: socket.socket) -> None:
        self.args = arguments
        self.pid = pid
        self.stdin = self.stderr = None
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status
        self._communication_started = False

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended after ``timeout`` seconds.

        """
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._status.recv(REQUEST_MAX_BYTES))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._status.close()
        return self.returncode


def start(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stderr: IO[str]) -> ForkedProcess:
    """Start a command without input, and with its output in a pipe."""
    request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd)}).encode()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    empty = os.open(os.devnull, os.O_RDONLY)
    read, write = os.pipe()
    with _lock:
        server = _server()
    socket.send_fds(server, [request], [empty, write, stderr.fileno(), theirs.fileno()])
    theirs.close()
    os.close(empty)
    os.close(write)
    return ForkedProcess(arguments, int(ours.recv(REQUEST_MAX_BYTES)), os.fdopen(read), ours)


@cache
def _server() -> socket.socket:
    """Start the process that forks; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.prefork", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(control: socket.socket) -> None:
    """Fork for each request, and return in the child. Whoever asked is sent its pid, and its exit code in the end."""
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    _reap(selector, key)
                    continue
                request, descriptors, _, _ = socket.recv_fds(control, REQUEST_MAX_BYTES, STREAMS + 1)
                if not request:
                    sys.exit()
                *streams, status = descriptors
                if not (pid := os.fork()):
                    _become(json.loads(request), streams)
                    for other in selector.get_map().values():
                        os.close(other.fd)
                    os.close(status)
                    return
                for descriptor in streams:
                    os.close(descriptor)
                os.write(status, str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))


def _reap(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, status = key.data
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    selector.unregister(key.fileobj)
    os.close(key.fd)
    with suppress(BrokenPipeError):
        os.write(status, str(code).encode())
    os.close(status)


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Make this process what a new one of the command would be."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["tocsin", *request["arguments"]]


if __name__ == "__main__":
    for module in PRELOADED:
        import_module(module)
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    main()
