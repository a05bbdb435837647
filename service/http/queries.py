"""The database as a request queries it: in its budget, for its subject, while the client waits for the answer.

A route asks for the budget by type, ``Reads``, ``Audit`` or ``Report``::

    async def get_alert(queries: Reads, principal: MayRead, …) -> Response:
        async with queries.transaction() as tx: …
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of a nested
# function's annotations.

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import ClientDisconnect

from service.database.budgets import Budget
from service.database.engine import Database
from service.database.failures import driver_error, is_of_the_data, query_timeout
from service.errors import InvalidRequest
from service.http.authentication import verified_principal
from service.http.provided import part
from service.logs import get_logger
from service.settings import StorageSettings

log = get_logger(__name__)


class RequestQueries:
    """The queries of one request."""

    def __init__(self, request: Request, budget: Budget, timeout_seconds: float) -> None:
        self._request = request
        self._budget = budget
        self._timeout_seconds = timeout_seconds

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[AsyncConnection]:
        """Run a transaction (``Budget.transaction``).

        Raises:
            TooManyQueries: no connection was free in time.
            QueryTimeout: it took longer than it may.
            DatabaseUnavailable: another failure that passes.
            InvalidRequest: PostgreSQL cannot hold or parse a value that it asks for.
            ClientDisconnect: nobody waits for the answer any more.

        """
        principal = verified_principal(self._request)
        subject = principal.subject if principal is not None else None
        try:
            async with (
                while_connected(self._request),
                asyncio.timeout(self._timeout_seconds),
                self._budget.transaction(snapshot=snapshot, subject=subject) as tx,
            ):
                yield tx
        except TimeoutError:
            raise query_timeout(self._timeout_seconds) from None
        except Exception as error:
            if not is_of_the_data(error):
                raise
            log.warning(
                "a query cannot be answered", path=self._request.url.path, error=repr(driver_error(error))[:200]
            )
            raise InvalidRequest("The query: PostgreSQL cannot hold or parse one of its values.") from None


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client of ``request``, whose body has been read, disconnects.

    Raises:
        ClientDisconnect: it did.

    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - narrows: this is a coroutine
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not is_gone or task.uncancel():
            raise
        raise ClientDisconnect from None
    finally:
        watching.cancel()


def _queries(
    budget: Callable[[Database], Budget], timeout_seconds: Callable[[StorageSettings], float]
) -> Callable[[Request], Awaitable[RequestQueries]]:
    async def dependency(request: Request) -> RequestQueries:  # a plain function would be called in a thread
        seconds = timeout_seconds(part(request, StorageSettings))
        return RequestQueries(request, budget(part(request, Database)), seconds)

    return dependency


Reads = Annotated[
    RequestQueries,
    Depends(_queries(lambda database: database.reads, lambda settings: settings.database_timeout_seconds)),
]
"""The queries of a request that lists alerts."""
Audit = Annotated[
    RequestQueries,
    Depends(_queries(lambda database: database.audit, lambda settings: settings.database_timeout_seconds)),
]
"""The queries of a request that asks who was sent what."""
Report = Annotated[
    RequestQueries, Depends(_queries(lambda database: database.audit, lambda settings: settings.report_timeout_seconds))
]
"""The queries of the report of a period, which take longer."""
