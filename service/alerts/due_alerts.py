"""Due alerts: process those whose expiry, escalation or repeat event is due, every second.

Any node may do it. The query takes no lock and reads one index entry; due alerts are read again
under the log's lock, so each escalation, expiry and repeat event is in the log exactly once,
however many nodes ask, and an alert that became due while no node ran is processed by the first
that starts.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from service.alerts.commands import ProcessDue
from service.alerts.lifecycle import SERVICE
from service.alerts.queue_items import DueProcessed
from service.alerts.statements import DUE_MAX
from service.alerts.tables import alerts
from service.auth.principal import Principal
from service.errors import RequestRefused
from service.logs import get_logger
from service.periodic import PeriodicTask
from service.topics import EVERY_TOPIC

if TYPE_CHECKING:
    from service.alerts.committer import Committer
    from service.database.engine import Database

log = get_logger(__name__)

DUE_INTERVAL_SECONDS = 1
_SERVICE = Principal(SERVICE, frozenset(), EVERY_TOPIC, math.inf)


class DueAlerts:
    """Processes due alerts."""

    def __init__(self, database: Database, committer: Committer) -> None:
        self._database = database
        self._committer = committer
        self.task = PeriodicTask("due_alerts", self._process, DUE_INTERVAL_SECONDS)

    async def _process(self) -> None:
        while await self._is_due() and await self._process_some() == DUE_MAX:
            pass

    async def _is_due(self) -> bool:
        due = exists().where(alerts.c.due_at <= datetime.now(UTC))
        async with self._database.transaction() as tx:
            return bool(await tx.scalar(select(due)))

    async def _process_some(self) -> int:
        [outcome] = await self._committer.store_all([ProcessDue(_SERVICE, datetime.now(UTC))])
        if isinstance(outcome, RequestRefused):
            log.warning("due alerts could not be committed", error=outcome.code)
        return outcome.alerts if isinstance(outcome, DueProcessed) else 0
