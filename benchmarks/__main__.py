"""``python -m benchmarks``: run the scenarios, print the table, keep the JSON."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from typing import TYPE_CHECKING

from benchmarks import (
    commands,
    connections,
    fanout,
    growth,
    hostile,
    latency,
    ledger,
    page,
    publish,
    report,
    search,
    workers,
)
from benchmarks.nodes import bench, sql
from tests.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.nodes import Bench

SCENARIOS: dict[str, Callable[[Bench], list[report.Row]]] = {
    "single": publish.single,
    "batches": publish.batches,
    "fanout": fanout.fanout,
    "end_to_end": latency.end_to_end,
    "post_to_frame": latency.post_to_frame,
    "connections": connections.connections,
    "ledger": ledger.ledger,
    "workers": workers.workers,
    "delivery": growth.delivery,
    "replay": growth.replay,
    "long_log": growth.long_log,
    "page": page.page,
    "commands": commands.commands,
    "hostile": hostile.hostile,
    "search": search.search,
}


def main() -> int:
    """Run what was asked for; 1 where a scenario could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Tocsin beside its baselines.")
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated: {', '.join(SCENARIOS)}")
    parser.add_argument("--offered", type=float, default=1_600_000, help="deliveries/s offered end to end")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name}; there are {', '.join(SCENARIOS)}")
    rows: list[report.Row] = []
    failed = []
    with bench(arguments.offered) as made:
        postgres = sql(made.server_url, "SHOW server_version")[0][0]
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            begun = time.perf_counter()
            try:
                measured = SCENARIOS[name](made)
            except Exception:  # noqa: BLE001 - the others still run
                traceback.print_exc()
                failed.append(name)
                continue
            measured[0].seconds = time.perf_counter() - begun
            rows += measured
    report.print_table(rows)
    report.print_notes(rows)
    print(f"\nKept in {report.write_json(rows, ROOT, postgres).relative_to(ROOT)}")
    for name in failed:
        print(f"{name} could not run: see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
