"""The reader process: carries out the commands of ``readers.py``, one at a time, while ``reading.py`` reads.

A command that waits for something is answered when it has happened, or with what went wrong.
"""

from __future__ import annotations

import json
import select
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import wire
from benchmarks.load import PATIENCE, Address, Source
from benchmarks.reading import Client, Group, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection as Pipe

PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


@dataclass
class Target:
    """A total that is waited for; ``partial`` says that less is an answer, too, once time is up."""

    group: Group
    total: int
    partial: bool


@dataclass
class Rounds:
    """The strict row: a round is one POST, and begins when the last one has arrived on every connection.

    ``window`` rounds are under way at most; each brings ``frames`` to every connection.
    """

    group: Group
    source: Source
    answers: bool
    deadline: float
    frames: int
    window: int
    begun: float
    sent: int = 0
    answered: int = 0
    arrived: int = 0

    @property
    def done(self) -> int:
        """Rounds that are over."""
        return min(self.arrived, self.answered) if self.answers else self.arrived


class Loop(Reading):
    """The command under way, and what it waits for."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe
        self._running = True
        self._groups: dict[str, Group] = {}
        self._deadline: float | None = None
        self._opening: Group | None = None
        self._target: Target | None = None
        self._rounds: Rounds | None = None

    def run(self) -> None:
        """Read until asked to end."""
        self.handlers[self._pipe.fileno()] = self._command
        self.epoll.register(self._pipe.fileno(), select.EPOLLIN)
        while self._running:
            try:
                self.turn(0.1)
            except Exception as error:
                if self._deadline is None:
                    raise
                self._answer(error)
            if self._deadline is not None and time.perf_counter() > self._deadline:
                self._expired()

    def _command(self) -> None:
        try:
            name, arguments = self._pipe.recv()
        except EOFError:
            self._running = False
            return
        try:
            getattr(self, f"do_{name}")(**arguments)
        except Exception as error:  # noqa: BLE001 - it is the answer
            self._answer(error)

    def _answer(self, value: object = None) -> None:
        self._deadline = self._opening = self._target = self._rounds = None
        if isinstance(value, Exception):
            value.add_note(traceback.format_exc())
        self._pipe.send(value)

    def _expired(self) -> None:
        if self._target is not None and self._target.partial:
            self._answer(self._target.group.last)
        elif self._opening is not None:
            some, all_of_them = self._opening.opened, len(self._opening.requests)
            self._answer(TimeoutError(f"{some} of {all_of_them} connections opened in time"))
        else:
            totals = {name: group.total for name, group in self._groups.items()}
            self._answer(TimeoutError(f"the frames did not arrive in time; so far: {totals}"))

    # Commands; ``readers.py`` says what each does.

    def do_open(self, name: str, address: Address, requests: list[bytes], ready: bytes, at_once: int) -> None:
        """Open a group."""
        self._opening = group = self._groups[name] = Group(address, requests, ready)
        group.begun = time.perf_counter()
        self._deadline = group.begun + 2 * PATIENCE
        for _ in range(min(at_once, len(requests))):
            self.connect(group)

    def do_begin(self, name: str, **options: bool) -> None:
        """Count from zero."""
        self._groups[name].begin(**options)
        self._answer()

    def do_wait(self, name: str, each: int, seconds: float, *, partial: bool) -> None:
        """Wait for a number of frames on every connection."""
        group = self._groups[name]
        self._deadline = time.perf_counter() + seconds
        self._target = Target(group, each * len(group.clients), partial)
        self.on_frames(group)

    def do_rounds(self, name: str, address: Address, request: bytes, seconds: float, **options: Any) -> None:
        """Post and wait, again and again."""
        source = Source(address, request)
        begun = time.perf_counter()
        group = self._groups[name]
        group.total = 0
        self._rounds = Rounds(group, source, deadline=begun + seconds, begun=begun, **options)
        self._deadline = begun + seconds + PATIENCE
        if self._rounds.answers:
            self.watch(source.socket, self._read_answer)
        self._advance(self._rounds)

    def do_total(self, name: str) -> None:
        """Say how many frames have arrived."""
        self._answer(self._groups[name].total)

    def do_verify(self, name: str, *, numbered: bool) -> None:
        """Compare the connections, and parse those that were kept."""
        clients = self._groups[name].clients
        counts = {client.count for client in clients}
        if len(counts) != 1:
            raise RuntimeError(f"connections of {name} have between {min(counts)} and {max(counts)} frames")
        for client in clients:
            if numbered and client.kept is not None:
                seqs = self._seqs(client.kept)
                if len(seqs) < client.count or seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else ()):
                    raise RuntimeError(f"a connection of {name} has a hole in its seqs")
        self._answer(counts.pop())

    def _seqs(self, kept: list[bytes]) -> list[int]:
        """Return the seqs of the events of a kept connection; the end of the last may still be under way."""
        texts, whole = wire.payloads(b"".join(kept))
        deadline = time.perf_counter() + PATIENCE
        while not whole and time.perf_counter() < deadline:
            self.turn(0.1)
            texts, whole = wire.payloads(b"".join(kept))
        frames = [json.loads(text) for text in texts]
        return [frame["seq"] for frame in frames if frame["type"] == "event"]

    def do_latencies(self, name: str, due: list[float]) -> None:
        """Say how long frames took; frames of one chunk with one due time are one sample that weighs as many."""
        group = self._groups[name]
        samples: list[tuple[float, int]] = []
        for at, first, count in zip(group.times, group.firsts, group.counts, strict=True):
            start, stop = first, first + count
            while start < stop:
                end = start + 1
                while end < stop and due[end] == due[start]:
                    end += 1
                samples.append((at - due[start], end - start))
                start = end
        self._answer(_percentiles(sorted(samples)))

    def do_close(self, name: str) -> None:
        """Hang up on a server."""
        for client in self._groups.pop(name).clients:
            self.forget(client.socket)
        self._answer()

    # What is waited for.

    def on_open(self, group: Group, now: float) -> None:
        """Open the next, or answer."""
        if group is self._opening:
            if len(group.clients) < len(group.requests):
                self.connect(group)
            elif group.opened == len(group.requests):
                self._answer(now - group.begun)

    def on_frames(self, group: Group) -> None:
        """Begin the next round, or answer."""
        if self._rounds is not None and group is self._rounds.group:
            rounds = self._rounds
            if group.total >= (rounds.arrived + 1) * rounds.frames * len(group.clients):
                rounds.arrived += 1
                self._advance(rounds)
        elif self._target is not None and group is self._target.group and group.total >= self._target.total:
            self._answer(group.last)

    def on_lost(self, client: Client) -> None:
        """Answer with the loss what waits for something."""
        if self._deadline is not None:
            self._answer(RuntimeError(f"the server closed a connection: {client.carry!r}"))

    def _read_answer(self) -> None:
        rounds = self._rounds
        if rounds is not None and rounds.source.answer() is not None:
            rounds.answered += 1
            self._advance(rounds)

    def _advance(self, rounds: Rounds) -> None:
        now = time.perf_counter()
        if now < rounds.deadline:
            while rounds.sent - rounds.done < rounds.window:
                rounds.sent += 1
                rounds.source.post()
        elif rounds.done == rounds.sent:
            self.forget(rounds.source.socket)
            self._answer((rounds.done, now - rounds.begun))


def _percentiles(samples: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Return percentiles of sorted ``(seconds, weight)``."""
    total = sum(weight for _, weight in samples)
    answer = {"samples": float(total), "max": samples[-1][0]}
    missing = list(PERCENTILES.items())
    seen = 0
    for seconds, weight in samples:
        seen += weight
        while missing and seen >= missing[0][1] * total:
            answer[missing.pop(0)[0]] = seconds
    return answer


def main(pipe: Pipe) -> None:
    """Be the reader process."""
    Loop(pipe).run()
