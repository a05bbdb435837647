"""Rows, and how they are printed and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
PARTS = ("server", "postgres", "readers", "sources", "others")
NEARLY_A_CORE = 0.75
BUSY_WITH_OTHERS = 0.25
LEGEND = """
(a) the tutorial's server: FastAPI, a list of WebSockets, send_text to each in a loop, nothing stored
(b) the kernel's ceiling: a loop in C that sends the same bytes to as many plain sockets
(c) the tutorial's way to store: one SQLAlchemy transaction a request, asyncpg, a pool of 20
(noop) a POST of the same framework and server that does nothing
(d) nginx with nchan, one worker, memory store
Tocsin ran with durable storage, limits, heartbeats, access control and ledger on; all posted alerts of 250 bytes.
Baselines ran in turns with Tocsin: a ratio is the median over pairs of neighbouring trials, a figure that of trials.
"""


@dataclass
class Row:
    """One line of the table.

    ``against`` are sentences. ``targets`` are ``(text, met)``, None where the baseline cannot be compared with.
    ``cpu`` is how much of a core each part used while Tocsin was measured, ``peers`` the same for baselines by name.
    ``data`` is for the JSON.
    """

    scenario: str
    figure: str
    against: list[str] = field(default_factory=list)
    targets: list[tuple[str, bool | None]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    peers: dict[str, dict[str, float]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of trials that ran one after the other."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, each as many lines as its longest column needs."""
    head = ("scenario", "figure", "against", "target", "met")
    verdicts = {True: "yes", False: "NO", None: "void"}
    lines: list[tuple[str, ...]] = []
    for row in rows:
        for index in range(max(1, len(row.against), len(row.targets))):
            first = (row.scenario, row.figure) if index == 0 else ("", "")
            against = row.against[index] if index < len(row.against) else ""
            target, met = row.targets[index] if index < len(row.targets) else ("", None)
            lines.append((*first, against, target, verdicts[met] if target else ""))
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    for line in (head, tuple("-" * width for width in widths), *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_notes(rows: Sequence[Row]) -> None:
    """Print what the letters mean, who used how much of a core, how long each scenario took, and the readers' part."""
    print(LEGEND)
    print(f"Cores used in the trials, of {os.cpu_count()}, and seconds that the scenario took with all its servers:")
    width = max((len(row.scenario) for row in rows), default=0)
    for row in rows:
        took = f"{row.seconds:.0f} s" if row.seconds else ""
        print(f"  {row.scenario:{width}s}  {_used(row.cpu):75s}  {took}".rstrip())
        for name, cpu in row.peers.items():
            print(f"    {name:>{width - 2}s}  {_used(cpu)}")
    print(_readers_part(rows))
    busy = [row.scenario for row in rows if row.cpu.get("others", 0.0) > BUSY_WITH_OTHERS]
    if busy:
        print(
            f"Other programs had more than {BUSY_WITH_OTHERS} of a core (others), and so a part in: {'; '.join(busy)}."
        )


def _used(cpu: dict[str, float]) -> str:
    return "  ".join(f"{part} {cpu[part]:.2f}" for part in PARTS if part in cpu)


def _readers_part(rows: Sequence[Row]) -> str:
    """Say where the readers had little of their core to spare, for there the client is a part of the limit."""
    of_tocsin = [row.cpu["readers"] for row in rows if "readers" in row.cpu]
    if not of_tocsin:
        return ""
    busy = [
        f"{row.scenario}, {name} ({cpu['readers']:.2f})"
        for row in rows
        for name, cpu in {"Tocsin": row.cpu, **row.peers}.items()
        if cpu.get("readers", 0.0) >= NEARLY_A_CORE
    ]
    text = f"The readers used at most {max(of_tocsin):.2f} of a core while Tocsin was measured."
    if busy:
        text += f"\nThey had little to spare, and may have been the limit, in: {'; '.join(busy)}."
        text += "\nA baseline that they held back makes Tocsin's ratio to it look better than it is."
    return text


def write_json(rows: Sequence[Row], root: Path, postgres: str) -> Path:
    """Keep everything, with what the machine is."""
    now = datetime.now(UTC)
    document = {"at": now.isoformat(), "machine": machine(root, postgres), "rows": [asdict(row) for row in rows]}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(document, indent=1))
    return path


def machine(root: Path, postgres: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in processors if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return {
        "cpu": next(iter(models), "?"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgres": postgres,
        "commit": commit.stdout.strip() or "?",
    }
