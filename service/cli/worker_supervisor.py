"""Several nodes on one machine: a worker process for each, and their supervisor.

::

                     ┌ starting ──── listens ────► serving ─── ends ┐
    start ──────────►┤                                              ├──► pause ──► start again
                     └─ ends before it listens ─────────────────────┘
                          └ not all have listened yet, or none has for ATTEMPTS: all stop, the command fails

- All stop when this process gets SIGTERM, SIGINT or SIGHUP (a closed terminal), each worker as a
  single node does. A worker that takes too long is killed.
- A worker that ends unexpectedly is started again at once; if it soon ends again, after a pause
  that doubles each time. So an outage in which all end is survived if it is short; after a longer
  one the command fails, and whoever started it starts it again.
- The log says why a worker ended: what it raised, or the signal that killed it.
- A worker stops by itself when its parent has ended. A thread watches for that, so that it works
  with a blocked event loop too.

``uvicorn.supervisors.Multiprocess`` is not used, because it restarts a worker whose application
cannot be created twice a second without end, says neither when all listen nor whether they failed,
takes SIGHUP for a reload, handles signals only after an answer to its health check, leaves workers
behind when it is killed, and gives all of them one socket (``serve.py`` says why that is uneven).
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import structlog

from service.errors import CommandFailed, TocsinError
from service.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from typing import Any

log = get_logger(__name__)

STEADY_SECONDS = 10
"""A worker that listened and ran for this long is started again without a pause."""
PAUSE_MIN_SECONDS = 1
PAUSE_MAX_SECONDS = 30
ATTEMPTS = 5
"""How often a worker may end before it listens while no other listens."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_spawn = multiprocessing.get_context("spawn")


class Workers:
    """Worker processes that run ``target(listening, *arguments)`` and call ``listening()`` when ready.

    ``on_listening`` is called when all listen for the first time, ``on_ended`` with the name of
    each worker that ended. A stop may take ``stop_seconds``.
    """

    def __init__(
        self,
        target: Callable[..., object],
        arguments: tuple[Any, ...],
        *,
        on_listening: Callable[[], None],
        on_ended: Callable[[str], None],
        stop_seconds: float,
    ) -> None:
        self._target = target
        self._arguments = arguments
        self._on_listening = on_listening
        self._on_ended = on_ended
        self._stop_seconds = stop_seconds
        self._processes: dict[str, SpawnProcess] = {}
        self._listening: set[str] = set()
        self._complete = False
        self._failed = False
        self._stopping = asyncio.Event()

    def run(self, count: int) -> None:
        """Run ``count`` workers until they are asked to stop.

        Raises:
            CommandFailed: a worker did not start.

        """
        asyncio.run(self._run(count))
        if self._failed:
            raise CommandFailed("a worker did not start: its log says why")

    async def _run(self, count: int) -> None:
        with _on_signals(self._stop):
            await asyncio.gather(*(self._supervise(f"worker-{number}", count) for number in range(1, count + 1)))

    async def _supervise(self, name: str, count: int) -> None:
        """Run a worker, and start it again whenever it ends, until all are to stop."""
        pause = attempts = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            listened, why = await self._run_once(name, count)
            if self._stopping.is_set():
                return
            attempts = 0 if listened or self._listening else attempts + 1
            if not listened and (not self._complete or attempts == ATTEMPTS):
                log.error("worker did not start", worker=name, why=why)
                self._failed = True
                self._stop()
                return
            if listened and time.monotonic() - began >= STEADY_SECONDS:
                pause = 0
            log.warning("worker ended; starting it again", worker=name, after_seconds=pause, why=why)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(max(PAUSE_MIN_SECONDS, 2 * pause), PAUSE_MAX_SECONDS)

    async def _run_once(self, name: str, count: int) -> tuple[bool, str]:
        """Run a worker to its end, and return whether it ever listened, and why it ended."""
        # The worker sends None when it listens, and the text of the error by which it ends.
        reader, writer = _spawn.Pipe(duplex=False)
        arguments = (self._target, self._arguments, writer, self._stop_seconds)
        process = _spawn.Process(target=_work, name=name, args=arguments, daemon=True)
        with _stop_signals_blocked():
            process.start()
        self._processes[name] = process
        writer.close()
        with reader:
            why = await _message(reader)
            listened = why is None
            if listened:
                self._listening.add(name)
                if len(self._listening) == count and not self._complete:
                    self._complete = True
                    self._on_listening()
                why = await _message(reader)
        await _readable(process.sentinel)
        process.join()
        self._listening.discard(name)
        del self._processes[name]
        self._on_ended(name)
        return listened, why or _exit(process.exitcode)

    def _stop(self) -> None:
        """Send SIGTERM to all workers, and SIGKILL to those left after ``stop_seconds``."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for process in self._processes.values():
            process.terminate()
        asyncio.get_running_loop().call_later(self._stop_seconds, self._kill)

    def _kill(self) -> None:
        for name, process in self._processes.items():
            log.error("worker does not stop; killing it", worker=name)
            process.kill()


async def _message(reader: Connection) -> str | None:
    """Return the next message of a worker, or an empty one once it has ended."""
    await _readable(reader.fileno())
    try:
        message: str | None = reader.recv()
    except EOFError:
        return ""
    return message


def _exit(code: int | None) -> str:
    """Return in words how a process ended."""
    return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"


async def _readable(file: int) -> None:
    """Wait until the file can be read, or its other end is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(file, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(file)


@contextlib.contextmanager
def _on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` on a stop signal; restore the handlers in the end."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block the stop signals in a process that is started meanwhile, until it can handle them."""
    resource_tracker.ensure_running()  # the first worker would start it, and that unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What runs in the process of a worker.


def _work(target: Callable[..., object], arguments: tuple[Any, ...], writer: Connection, stop_seconds: float) -> None:
    threading.Thread(target=_end_with_parent, args=(stop_seconds,), daemon=True).start()
    structlog.contextvars.bind_contextvars(worker=multiprocessing.current_process().name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent gets it too, and stops all workers
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        target(lambda: writer.send(None), *arguments)
    except KeyboardInterrupt:
        pass  # the terminal's Ctrl-C, which the parent gets too
    except TocsinError as error:
        log.critical("worker failed", why=str(error))
        writer.send(str(error))
        sys.exit(1)
    except Exception as error:
        writer.send(f"{type(error).__name__}: {error}")
        raise


def _end_with_parent(stop_seconds: float) -> None:
    """Stop when the parent has ended, at the latest ``stop_seconds`` later."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in a worker
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(stop_seconds)
    os._exit(1)
