from __future__ import annotations

import re

from service.auth.revocations import REVOCATIONS_CHANNEL
from service.dashboard.node_stats import ANSWER_CHANNEL, REQUEST_CHANNEL
from service.database.locks import AdvisoryLock
from service.events.log import EVENTS_CHANNEL
from service.ledger.statements import PRESENCE_CHANNEL
from tests.harness import ROOT

SQL = {file.stem: file.read_text() for file in (ROOT / "alembic" / "sql").glob("*.sql")}


def found(pattern: str) -> dict[str, list[str]]:
    """Return what a pattern finds in the SQL files, by file."""
    return {name: matches for name, text in SQL.items() if (matches := re.findall(pattern, text))}


def test_the_functions_take_the_locks_of_these_numbers() -> None:
    locks = {
        "commit_attempts": AdvisoryLock.LOG,
        "event_partitions": AdvisoryLock.PARTITIONS,
        "write_ledger": AdvisoryLock.LEDGER,
    }
    assert found(r"advisory\w*\((\d+)\)") == {name: [str(lock.value)] for name, lock in locks.items()}


def test_no_other_module_knows_the_number_of_a_lock() -> None:
    modules = [*(ROOT / "service").rglob("*.py"), *(ROOT / "alembic").rglob("*.py")]
    numbers = re.compile("|".join(f"{lock:d}|{lock:_d}" for lock in AdvisoryLock))
    assert [path.name for path in modules if numbers.search(path.read_text())] == ["locks.py"]


def test_the_functions_notify_the_channels_that_are_listened_to() -> None:
    assert found(r"pg_notify\('(\w+)'") == {"append_alerts": [EVENTS_CHANNEL]}


def test_each_channel_has_a_name_of_its_own() -> None:
    channels = [EVENTS_CHANNEL, REVOCATIONS_CHANNEL, PRESENCE_CHANNEL, REQUEST_CHANNEL, ANSWER_CHANNEL]
    assert len(set(channels)) == len(channels)
