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
PARTS = ("server", "postgres", "readers", "posters", "others")
LEGEND = """\
(a) the tutorial's server: FastAPI, a list of WebSockets, send_text to each in a loop, nothing stored
(b) the kernel's ceiling: a loop that sends the same bytes to as many plain sockets
(c) the tutorial's way to store: one SQLAlchemy transaction a request, asyncpg, a pool of 20
(noop) a POST of the same framework and server that does nothing
(d) nginx with nchan, one worker, memory store
Tocsin ran with durable storage, limits, heartbeats, access control and ledger on; all posted alerts of 250 bytes.
Baselines ran in turns with Tocsin: a ratio is the median over pairs of neighbouring trials, a figure that of trials."""


@dataclass
class Row:
    """One line of the table. ``ratios`` are sentences, ``targets`` are ``(text, met)``; ``data`` is for the JSON."""

    scenario: str
    figure: str
    ratios: list[str] = field(default_factory=list)
    targets: list[tuple[str, bool]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of trials that ran one after the other."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows, each as many lines as its longest column needs."""
    head = ("scenario", "figure", "against", "target", "met")
    lines: list[tuple[str, str, str, str, str]] = []
    for row in rows:
        targets = row.targets or [("", False)]
        for index in range(max(1, len(row.ratios), len(row.targets))):
            text, met = targets[index] if index < len(targets) else ("", False)
            lines.append(
                (
                    row.scenario if index == 0 else "",
                    row.figure if index == 0 else "",
                    row.ratios[index] if index < len(row.ratios) else "",
                    text,
                    ("yes" if met else "NO") if text else "",
                )
            )
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(5)]
    for line in (head, tuple("-" * width for width in widths), *lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_notes(rows: Sequence[Row]) -> None:
    """Print what the letters mean, who used how much of a core, how long each row took, and what kept whom busy."""
    print(
        f"\n{LEGEND}\n\nCores used while Tocsin was measured, and seconds that the scenario took with all its servers:"
    )
    width = max(len(row.scenario) for row in rows)
    for row in rows:
        used = "  ".join(f"{part} {row.cpu[part]:.2f}" for part in PARTS if part in row.cpu)
        took = f"{row.seconds:.0f} s" if row.seconds else ""
        print(f"  {row.scenario:{width}s}  {used:75s}  {took}".rstrip())
    readers = [row.cpu["readers"] for row in rows if "readers" in row.cpu]
    if readers:
        print(
            f"The readers never used more than {max(readers):.2f} of their core, so they were not what limited a row."
        )


def write_json(rows: Sequence[Row], root: Path, postgres: str) -> Path:
    """Keep everything, with what the machine is."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(
        json.dumps(
            {"at": now.isoformat(), "machine": machine(root, postgres), "rows": list(map(asdict, rows))}, indent=1
        )
    )
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
