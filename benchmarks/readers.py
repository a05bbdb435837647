"""The handle on the reader process (``reader_process.py``): connections by the hundred, in groups by name."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any, Self

from benchmarks import reader_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.load import Address


class Readers:
    """A reader process; as a context manager it ends with the block."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=reader_process.main, args=(theirs,), name="readers", daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()

    def _call(self, command: str, **arguments: Any) -> Any:
        self._pipe.send((command, arguments))
        value = self._pipe.recv()
        if isinstance(value, Exception):
            raise value
        return value

    def open(self, name: str, address: Address, requests: Sequence[bytes], ready: bytes, at_once: int = 64) -> float:
        """Open a connection for each request and return the seconds until all have received ``ready``."""
        seconds: float = self._call("open", name=name, address=address, requests=requests, ready=ready, at_once=at_once)
        return seconds

    def begin(self, name: str, *, record: bool = False, acks: bool = False) -> None:
        """Count from zero; note when each frame arrives; acknowledge, four times a second."""
        self._call("begin", name=name, record=record, acks=acks)

    def wait(self, name: str, each: int, seconds: float = 30.0, *, partial: bool = False) -> float:
        """Wait until every connection has ``each`` frames and return when the last arrived, on ``perf_counter``.

        Raises:
            TimeoutError: they have not, unless ``partial`` says that this is an answer, too.

        """
        at: float = self._call("wait", name=name, each=each, seconds=seconds, partial=partial)
        return at

    def rounds(  # noqa: PLR0913 - what a round is made of
        self,
        name: str,
        address: Address,
        request: bytes,
        seconds: float,
        *,
        answers: bool = True,
        frames: int = 1,
        window: int = 1,
    ) -> tuple[int, float]:
        """Post from the reader process, the next when every connection has the last; return rounds and seconds."""
        rounds, took = self._call(
            "rounds",
            name=name,
            address=address,
            request=request,
            answers=answers,
            seconds=seconds,
            frames=frames,
            window=window,
        )
        return rounds, took

    def total(self, name: str) -> int:
        """Return how many frames have arrived."""
        total: int = self._call("total", name=name)
        return total

    def verify(self, name: str, *, numbered: bool = True) -> int:
        """Return how many frames every connection has.

        Raises:
            RuntimeError: they differ, or a connection that was kept has a hole where frames are ``numbered`` by seq.

        """
        each: int = self._call("verify", name=name, numbered=numbered)
        return each

    def latencies(self, name: str, due: list[float]) -> dict[str, Any]:
        """Return ``p50``, ``p99``, ``p999`` and ``max`` seconds from when a frame's POST was due to its arrival."""
        percentiles: dict[str, Any] = self._call("latencies", name=name, due=due)
        return percentiles

    def close(self, name: str) -> None:
        """Hang up."""
        self._call("close", name=name)
