"""Who used the processor during a trial: read from ``/proc``."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_IDLE = slice(3, 5)
"""``idle`` and ``iowait`` among the columns of ``/proc/stat``."""


@dataclass
class Cpu:
    """CPU seconds by part during a trial of ``seconds``. ``others`` is whatever else ran on the machine."""

    seconds: float = 0.0
    used: dict[str, float] = field(default_factory=dict)


@contextmanager
def account(parts: Mapping[str, int]) -> Iterator[Cpu]:
    """Account for the processes of ``parts``, their descendants included; the sources are this process."""
    cpu = Cpu()
    begun, sources, machine, before = time.perf_counter(), time.process_time(), _busy_seconds(), _seconds(parts)
    yield cpu
    after = _seconds(parts)
    cpu.seconds = time.perf_counter() - begun
    cpu.used = {part: after[part] - before[part] for part in parts}
    cpu.used["sources"] = time.process_time() - sources
    cpu.used["others"] = max(0.0, _busy_seconds() - machine - sum(cpu.used.values()))


def shares(trials: Sequence[Cpu]) -> dict[str, float]:
    """Return how much of a core each part used, over all trials."""
    seconds = sum(trial.seconds for trial in trials)
    parts = dict.fromkeys(part for trial in trials for part in trial.used)
    return {part: round(sum(trial.used.get(part, 0.0) for trial in trials) / seconds, 3) for part in parts}


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _busy_seconds() -> float:
    columns = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(columns) - sum(columns[_IDLE])) / _TICKS


def _seconds(parts: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU seconds of each part: its process, its descendants, and those of them that have ended."""
    used: dict[int, float] = {}
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            columns = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid] = int(columns[1])
        used[pid] = sum(map(int, columns[11:15])) / _TICKS
    part_of = {pid: part for part, pid in parts.items()}
    totals = dict.fromkeys(parts, 0.0)
    for pid, seconds in used.items():
        owner = pid
        while owner not in part_of and owner in parents:
            owner = parents[owner]
        if owner in part_of:
            totals[part_of[owner]] += seconds
    return totals
