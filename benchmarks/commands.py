"""How long a command of ``tocsin`` takes to start, and how much memory, against a Python that does nothing."""

from __future__ import annotations

import os
import secrets
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.report import Row, median_ratio

if TYPE_CHECKING:
    from benchmarks.nodes import Bench

TRIALS = 7
BARE = ("-c", "pass")
COMMANDS = {
    "tocsin --help": ("--help",),
    "tocsin token": ("token", "--sub", "billing", "--scope", "alerts:write"),
    "tocsin send --help": ("send", "--help"),
}
SECONDS_MAX = {"tocsin --help": 0.43, "tocsin token": 0.2}
HELP_MIB_MAX = 38


class Cost(NamedTuple):
    """What one run took: seconds by the clock, and the most MiB that were resident."""

    seconds: float
    mib: float


def commands(_bench: Bench) -> list[Row]:
    """Run each command in turns with a Python that does nothing."""
    costs: dict[str, list[Cost]] = {name: [] for name in ("python", *COMMANDS)}
    for _ in range(TRIALS):
        costs["python"].append(_run(*BARE))
        for name, arguments in COMMANDS.items():
            costs[name].append(_run("-m", "service", *arguments))
    bare = costs.pop("python")
    return [_row(name, runs, bare) for name, runs in costs.items()]


def _row(name: str, runs: list[Cost], bare: list[Cost]) -> Row:
    seconds, mib = (statistics.median(values) for values in zip(*runs, strict=True))
    idle_seconds, idle_mib = (statistics.median(values) for values in zip(*bare, strict=True))
    ratio = median_ratio([run.seconds for run in runs], [run.seconds for run in bare])
    targets: list[tuple[str, bool | None]] = []
    if name in SECONDS_MAX:
        targets.append((f"<= {SECONDS_MAX[name]} s", seconds <= SECONDS_MAX[name]))
    if name == "tocsin --help":
        targets.append((f"<= {HELP_MIB_MAX} MiB", mib <= HELP_MIB_MAX))
    return Row(
        name,
        f"{seconds:.3f} s, {mib:.0f} MiB",
        [f"{ratio:.1f} x python -c pass, {idle_seconds:.3f} s, {idle_mib:.0f} MiB"],
        targets,
        data={"seconds": [run.seconds for run in runs], "mib": mib},
    )


def _run(*arguments: str) -> Cost:
    environment = {**os.environ, "TOCSIN_JWT_SECRET": secrets.token_urlsafe(48)}
    output = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    begun = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], environment, file_actions=[output])
    _, status, used = os.wait4(pid, 0)
    assert status == 0, arguments
    return Cost(time.perf_counter() - begun, used.ru_maxrss / 1024)
