"""What starting a command of ``tocsin`` costs, against a Python that does nothing."""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import sys
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
RUN = """
import os, sys
output = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ, file_actions=[output])
_, status, used = os.wait4(pid, 0)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs in a small process of its own, because the peak memory of a child begins with its parent's."""


class Cost(NamedTuple):
    """What one run took: seconds of a core, and the most MiB that were resident."""

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
        f"{seconds:.3f} s of a core, {mib:.0f} MiB",
        [f"{ratio:.1f} x python -c pass, {idle_seconds:.3f} s, {idle_mib:.0f} MiB"],
        targets,
        data={"seconds": [run.seconds for run in runs], "mib": [run.mib for run in runs]},
    )


def _run(*arguments: str) -> Cost:
    environment = {**os.environ, "TOCSIN_JWT_SECRET": secrets.token_urlsafe(48)}
    run = subprocess.run(
        [sys.executable, "-S", "-c", RUN, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return Cost(*map(float, run.stdout.split()))
