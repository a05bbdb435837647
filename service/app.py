"""The composition root: the parts, put together, started in the order of the path and stopped against it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from service import __version__
from service.admin import routes as admin_routes
from service.alerts import action_routes
from service.alerts import routes as alert_routes
from service.alerts.committer import Committer
from service.alerts.due_alerts import DueAlerts
from service.alerts.search_index import SearchIndexer
from service.audit import routes as audit_routes
from service.auth.revocations import NOTIFY_CHANNEL as REVOCATIONS_CHANNEL
from service.auth.revocations import RevocationFeed, RevokedTokens
from service.auth.tokens import TokenVerifier
from service.dashboard import routes as dashboard_routes
from service.dashboard.node_stats import ASK_CHANNEL, Figures
from service.dashboard.subscribers import Dashboard
from service.database.engine import Database
from service.database.notifications import NotificationListener
from service.errors import CloseReason
from service.events.log import NOTIFY_CHANNEL as EVENTS_CHANNEL
from service.events.log import read_head
from service.http import health, openapi, problems, static_console, swagger_ui
from service.http.rate_limits import ConnectionLimits, RestLimits
from service.integrations import routes as integration_routes
from service.ledger import routes as ledger_routes
from service.ledger.recorder import Ledger
from service.ledger.statements import PRESENCE_CHANNEL
from service.logs import get_logger
from service.maintenance.housekeeping import Housekeeping
from service.retention.runner import Retention
from service.stream import routes as stream_routes
from service.stream.admission import Admission
from service.stream.fanout import Fanout
from service.stream.hub import Hub
from service.stream.presence import Presence
from service.stream.transports.http_streams import HttpStreams
from service.stream.transports.websocket_endpoint import PATH, WebSocketEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Coroutine
    from typing import Any
    from uuid import UUID

    from sqlalchemy import URL

    from service.auth.issuers import Keyring
    from service.settings import Settings

log = get_logger(__name__)

CONSOLE = Path(__file__).parent / "console"

DESCRIPTION = """\
A 2xx for an alert means that it is committed. Send an `Idempotency-Key`, and a retry stores nothing twice.

Every refusal is `application/problem+json` (RFC 9457) with a stable `code`. The stream at `/v1/ws` is described in
AsyncAPI, in `openapi/asyncapi.yaml`.
"""


def create_app(settings: Settings, url: URL, keyring: Keyring) -> FastAPI:  # noqa: PLR0915 - all parts are named
    """Make the application of one node, on the migrated database at ``url``."""
    database = Database(url, settings.storage)
    revoked = RevokedTokens()
    verifier = TokenVerifier(keyring, settings.auth, revoked)
    rest_limits = RestLimits(settings.limits)
    limits = ConnectionLimits(settings.stream)
    ledger = Ledger(database, settings.ledger)
    hub = Hub(ledger, settings.stream)
    fanout = Fanout(database, hub, settings.stream)
    admission = Admission(
        hub=hub,
        fanout=fanout,
        ledger=ledger,
        verifier=verifier,
        rest_limits=rest_limits,
        limits=limits,
        settings=settings.stream,
    )
    presence = Presence(database, hub, settings)
    committer = Committer(database, settings.storage, fanout.offer, ledger.callers.count)
    sweeper = DueAlerts(database, committer)
    indexer = SearchIndexer(database)
    janitor = Housekeeping(database, ledger, settings)
    retention = Retention(database, settings.retention, fanout.forget)
    figures = Figures(database, hub, ledger)
    dashboard = Dashboard(database, figures, verifier, settings.stream)

    def close_revoked(kicked: Collection[UUID]) -> None:
        hub.close_revoked(revoked, kicked)
        dashboard.close_revoked()

    revocations = RevocationFeed(database, revoked, close_revoked)
    notifications = NotificationListener(database)
    notifications.listen(ASK_CHANNEL, figures.asked)
    notifications.listen(EVENTS_CHANNEL, lambda seq: fanout.announce(int(seq)))
    notifications.listen(REVOCATIONS_CHANNEL, lambda _payload: revocations.announce(), on_connect=revocations.announce)
    notifications.listen(PRESENCE_CHANNEL, lambda _payload: presence.changed(), on_connect=presence.changed)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            async with database.transaction() as tx:
                head = await read_head(tx)
            await revocations.read()
            await keyring.load()
            fanout.start_at(head)
            await ledger.register(head)
            stack.push_async_callback(ledger.end)
            stack.push_async_callback(dashboard.close)
            stack.callback(hub.close_all, CloseReason.SHUTTING_DOWN)  # those that no socket holds: between two polls
            for part in (
                ledger.run(lambda: hub.close_all(CloseReason.SHUTTING_DOWN)),
                committer.run(),
                sweeper.run(),
                fanout.run(),
                notifications.run(),
                revocations.run(),
                keyring.run(),
                hub.run(),
                presence.run(),
                janitor.run(),
                retention.run(),
                indexer.run(),
            ):
                await stack.enter_async_context(_running(part, app))
            log.info("node serves", node=str(ledger.node_id), head=head)
            yield

    app = FastAPI(
        title="Tocsin",
        version=__version__,
        summary="Alerts, stored before answered and pushed at once.",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=openapi.operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics has them; a span would hold ?token=
    )
    app.state.failed = False
    app.state.settings = settings
    app.state.database = database
    app.state.verifier = verifier
    app.state.limits = rest_limits
    app.state.committer = committer
    app.state.called = ledger.callers.count
    app.state.hub = hub
    app.state.dashboard = dashboard
    app.state.streams = HttpStreams(admission, hub, ledger, limits, settings.stream)
    problems.install(app)
    openapi.install(app)
    app.router.routes.extend(alert_routes.fast_routes)
    app.router.routes.extend(integration_routes.fast_routes)
    for router in (
        alert_routes.router,
        action_routes.router,
        ledger_routes.router,
        audit_routes.router,
        stream_routes.router,
        dashboard_routes.router,
        admin_routes.router,
        health.router,
    ):
        app.include_router(router)
    app.router.routes.append(
        WebSocketRoute(PATH, WebSocketEndpoint(admission, verifier, rest_limits, settings.stream)),
    )
    swagger_ui.install(app)
    static_console.install(app, CONSOLE, settings.console)
    _prepare(app)
    return app


def _prepare(app: FastAPI) -> None:
    """Have FastAPI prepare the routes now. It would at the first request, which is somebody's alert, in 25 ms."""
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "headers": []})


@asynccontextmanager
async def _running(part: Coroutine[Any, Any, None], app: FastAPI) -> AsyncIterator[None]:
    """Run a part beside the requests. One that fails takes the node down: a restart is cleaner than half a node."""

    def stop_on_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the node failed; stopping", exc_info=error)
            app.state.failed = True
            os.kill(os.getpid(), signal.SIGTERM)

    task = asyncio.create_task(part)
    task.add_done_callback(stop_on_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
