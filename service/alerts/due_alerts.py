"""The sweeper: looks every second whether an alert has fallen due, and has the committer bring it up to date.

Any node may do it. The look takes no lock and reads one index entry; what is due is read again under the log's lock,
so each escalation, expiry and count of repetitions is in the log exactly once, however many nodes look, and one that
fell due while no node ran is brought up to date by the first that does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from service.alerts.commands import ProcessDue
from service.alerts.lifecycle import SERVICE, UNRESOLVED
from service.alerts.queue_items import DueProcessed
from service.alerts.tables import alerts
from service.alerts.unit_of_work import SWEEP_MAX
from service.errors import RequestRefused
from service.logs import get_logger
from service.periodic import PeriodicTask

if TYPE_CHECKING:
    from service.alerts.committer import Committer
    from service.database.engine import Database

log = get_logger(__name__)

SWEEP_SECONDS = 1


class DueAlerts:
    """The passing of time."""

    def __init__(self, database: Database, committer: Committer) -> None:
        self._database = database
        self._committer = committer
        self.task = PeriodicTask("due_alerts", self._process, SWEEP_SECONDS)

    async def _process(self) -> None:
        while await self._is_due() and await self._sweep() == SWEEP_MAX:
            pass

    async def _is_due(self) -> bool:
        due = exists().where(alerts.c.status.in_(UNRESOLVED), alerts.c.due_at <= datetime.now(UTC))
        async with self._database.transaction() as tx:
            return bool(await tx.scalar(select(due)))

    async def _sweep(self) -> int:
        [outcome] = await self._committer.store_all([ProcessDue(SERVICE, datetime.now(UTC))])
        if isinstance(outcome, RequestRefused):
            log.warning("what is due could not be committed", error=outcome.code)
        return outcome.alerts if isinstance(outcome, DueProcessed) else 0
