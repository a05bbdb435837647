"""Several nodes on one machine: one process each, and one that looks after them.

::

                     ┌ starting ──── listens ────► serving ─── ends ┐
    start ──────────►┤                                              ├──► pause ──► start again
                     └─ ends before it listens ─────────────────────┘
                          └ nobody else listens, or not all have listened yet: all stop, the command fails

- All stop when this process is asked to (SIGTERM, Ctrl-C, a closed terminal): each worker as a single node does. One
  that takes too long is killed.
- A worker that ends unasked is started again at once; one that does so again soon after, after a pause that doubles.
- A worker whose parent has gone stops by itself, and cannot stay behind: a thread watches, so that not even a blocked
  event loop keeps it.

This is not ``uvicorn.supervisors.Multiprocess``. That one restarts a worker whose application cannot be made, twice a
second, for ever, does not say when all listen, nor whether they failed; it takes SIGHUP for a reload, waits for an
answer to its health check before it looks at a signal, leaves workers behind when it is killed, and gives all of them
one socket (``serve.py`` says why that is not even).
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
"""A worker that ran for this long is started again without a pause."""
PAUSE_MIN_SECONDS = 1
PAUSE_MAX_SECONDS = 30

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_spawn = multiprocessing.get_context("spawn")


class Workers:
    """Worker processes that run ``target(listens, *arguments)`` and call ``listens()`` when they do.

    ``on_listening`` is called when all of them listen for the first time, ``on_ended`` with the name of each that has
    ended. A stop may take ``patience`` seconds.
    """

    def __init__(
        self,
        target: Callable[..., object],
        arguments: tuple[Any, ...],
        *,
        on_listening: Callable[[], None],
        on_ended: Callable[[str], None],
        patience: float,
    ) -> None:
        self._target = target
        self._arguments = arguments
        self._on_listening = on_listening
        self._on_ended = on_ended
        self._patience = patience
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
            await asyncio.gather(*(self._keep(f"worker-{number}", count) for number in range(1, count + 1)))

    async def _keep(self, name: str, count: int) -> None:
        """Start a worker again and again until all are to stop."""
        pause = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            listened = await self._run_once(name, count)
            if self._stopping.is_set():
                return
            if not listened and not (self._complete and self._listening):
                self._failed = True
                self._stop()
                return
            if time.monotonic() - began >= STEADY_SECONDS:
                pause = 0
            log.warning("worker ended; starting it again", worker=name, after_seconds=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(max(PAUSE_MIN_SECONDS, 2 * pause), PAUSE_MAX_SECONDS)

    async def _run_once(self, name: str, count: int) -> bool:
        """Run a worker to its end, and say whether it came to listen."""
        told, tells = _spawn.Pipe(duplex=False)
        arguments = (self._target, self._arguments, tells, self._patience)
        process = _spawn.Process(target=_work, name=name, args=arguments, daemon=True)
        with _signals_held():
            process.start()
        self._processes[name] = process
        tells.close()
        with told:
            await _readable(told.fileno())
            with contextlib.suppress(EOFError):
                told.recv()
                self._listening.add(name)
        listened = name in self._listening
        if len(self._listening) == count and not self._complete:
            self._complete = True
            self._on_listening()
        await _readable(process.sentinel)
        process.join()
        self._listening.discard(name)
        del self._processes[name]
        self._on_ended(name)
        return listened

    def _stop(self) -> None:
        """Ask all workers to stop."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for process in self._processes.values():
            process.terminate()
        asyncio.get_running_loop().call_later(self._patience, self._kill)

    def _kill(self) -> None:
        for name, process in self._processes.items():
            log.error("worker does not stop; killing it", worker=name)
            process.kill()


async def _readable(file: int) -> None:
    """Wait until there is something to read, or the other end is closed."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(file, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(file)


@contextlib.contextmanager
def _on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` when this process is asked to stop; whoever was asked before is asked again afterwards."""
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
def _signals_held() -> Iterator[None]:
    """Start a process that is asked to stop only when it can: what it is sent before waits for it."""
    resource_tracker.ensure_running()  # it would end the hold when it is started by the first worker
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What runs in the process of a worker.


def _work(target: Callable[..., object], arguments: tuple[Any, ...], tells: Connection, patience: float) -> None:
    threading.Thread(target=_end_with_parent, args=(patience,), daemon=True).start()
    structlog.contextvars.bind_contextvars(worker=multiprocessing.current_process().name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent was sent it too, and asks all to stop
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        target(lambda: tells.send(None), *arguments)
    except KeyboardInterrupt:
        pass  # the terminal's Ctrl-C, which the parent was sent too
    except TocsinError as error:
        log.critical("worker failed", why=str(error))
        sys.exit(1)


def _end_with_parent(patience: float) -> None:
    """Stop when the parent has gone, at the latest after ``patience`` seconds."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in a worker
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience)
    os._exit(1)
