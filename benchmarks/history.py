"""Ask a long history what operators ask: ``python -m benchmarks.history``.

A month is made and streamed in with COPY (what it is like: ``history_rows.py``), into a server of its own with the
settings that PostgreSQL comes with; then each question is put to the views of the schema ``audit`` with
EXPLAIN (ANALYZE, BUFFERS), and the median is printed beside the target. It takes some ten minutes and 15 GB of disk,
which are given back, and is no part of ``make bench``.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from benchmarks import history_rows
from benchmarks.fill import loading, session, take_off_indexes
from benchmarks.history_questions import ask
from benchmarks.history_rows import Month
from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from service.database.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CONNECTIONS = 20_000
AHEAD = timedelta(minutes=6)
"""The month ends so long after it is begun to be made, so that its last hour is a whole one when it is asked about."""
_COLUMNS = {
    "events": "seq id alert_id kind topic severity recipients actor occurred_at body",
    "alerts": "id seq source topic severity title attributes links recipients status status_by status_at occurrences"
    " created_at updated_at",
    "recipients": "id topics first_seen_at last_seen_at",
    "connections": "id node_id recipient transport topics min_severity remote_addr user_agent jti"
    " token_expires_at opened_at after_seq sent_seq closed_at close_code close_reason live_seq",
    "dispatches": "node_id connection_id after_seq up_to_seq at ledger_link_id",
    "receipts": "connection_id seq received_at ledger_link_id",
}
_INDEXED = ("events", "alerts", "dispatches", "receipts")
"""The tables whose indexes are built in the end."""


async def _copy(url: str, table: str, rows: Iterator[bytes]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in rows:
            yield chunk

    connection = await session(url)
    try:
        await connection.copy_to_table(table, source=chunks(), columns=_COLUMNS[table].split(), format="text")
    finally:
        await connection.close()


def _copy_events(url: str, month: Month, first: int, last: int) -> None:
    asyncio.run(_copy(url, "events", history_rows.events(month, first, last)))


def _copy_alerts(url: str, month: Month) -> None:
    asyncio.run(_copy(url, "alerts", history_rows.alerts(month)))


def _copy_passes(url: str, month: Month, node: int) -> None:
    asyncio.run(_copy(url, "dispatches", history_rows.passes(month, node)))


def _copy_ledger(url: str, month: Month, connections: int) -> None:
    made = history_rows.ledger(month, connections)
    for table in ("recipients", "connections", "dispatches", "receipts"):
        rows: list[str] = getattr(made, table)
        chunks = ("".join(rows[at : at + 5_000]).encode() for at in range(0, len(rows), 5_000))
        asyncio.run(_copy(url, table, chunks))


async def _make(url: str, month: Month, connections: int) -> None:
    """Make the month, in two processes."""
    loop = asyncio.get_running_loop()
    async with loading(url, month.events, "3GB") as admin:
        for node in history_rows.NODES:
            await admin.execute(
                "INSERT INTO nodes (id, host, pid, started_at, seen_at, sent_seq) VALUES ($1, $2, 1, $3, $4, $5)",
                *(node, f"node-{node.int & 3}", month.start, month.end + timedelta(days=1), month.events),
            )
        restore = [statement for table in _INDEXED for statement in await take_off_indexes(admin, table)]
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            half = month.events // 2
            await asyncio.gather(
                loop.run_in_executor(pool, _copy_events, url, month, 1, half),
                loop.run_in_executor(pool, _copy_events, url, month, half + 1, month.events),
                loop.run_in_executor(pool, _copy_alerts, url, month),
                *(loop.run_in_executor(pool, _copy_passes, url, month, node) for node in range(2)),
                loop.run_in_executor(pool, _copy_ledger, url, month, connections),
            )
        await asyncio.gather(*(_build(url, restore[turn::2]) for turn in range(2)))
        # The chains are of no account to the views; the head of the log is read from its last link.
        await admin.execute("INSERT INTO log_chain VALUES ($1, 1, $1, now(), '')", month.events)
        await admin.execute("VACUUM (ANALYZE)")  # which would have happened in the course of a month


async def _build(url: str, statements: list[str]) -> None:
    connection = await session(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _size(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        size: str = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
    finally:
        await connection.close()
    return size


def main() -> int:
    """Make the month, ask, and say whether every target was met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description="Ask a long history.")
    parser.add_argument("--events", type=int, default=10_000_000, help="how many the log holds")
    parser.add_argument("--folder", type=Path, help="keep the month here, and do not make it again where it is")
    parser.add_argument("--plans", action="store_true", help="print the plans too")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="tocsin-history-"))
    made = (folder / "made").exists()
    try:
        with embedded_postgres(folder) as url:
            address = url.render_as_string(hide_password=False)
            migrate(parse_url(address))
            if not made:
                begun = time.perf_counter()
                month = Month(arguments.events, datetime.now(UTC) + AHEAD)
                asyncio.run(_make(address, month, CONNECTIONS))
                (folder / "made").touch()
                took = time.perf_counter() - begun
                print(f"made {month.events:,} events in {took:.0f} s: {asyncio.run(_size(address))}")
            met = asyncio.run(ask(address, plans=arguments.plans))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
