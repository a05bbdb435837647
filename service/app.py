"""The composition root: makes the parts of a node, starts them in order, stops them in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from service import __version__
from service.admin import recipient_routes
from service.admin import routes as admin_routes
from service.admin.revoker import Revoker
from service.alerts import action_routes, resolve_routes
from service.alerts import routes as alert_routes
from service.alerts.alert_record import Status
from service.alerts.committer import Committer
from service.alerts.dedup import DedupGroups
from service.alerts.due_alerts import DueAlerts
from service.alerts.lifecycle import EventKind
from service.alerts.post_warnings import RecipientDirectory
from service.alerts.search_index import SearchIndexer
from service.audit import receipt_routes
from service.audit import routes as audit_routes
from service.auth.revocation_feed import RevocationFeed
from service.auth.revocations import REVOCATIONS_CHANNEL
from service.auth.tokens import TokenVerifier
from service.dashboard import routes as dashboard_routes
from service.dashboard.node_stats import REQUEST_CHANNEL, NodeStatsReporter
from service.dashboard.subscribers import Dashboard
from service.database.engine import Database
from service.database.message_key import MessageKey
from service.database.notifications import NotificationListener
from service.database.privileges import revoke_from_public
from service.errors import CloseReason, TocsinError
from service.events.log import EVENTS_CHANNEL, read_head
from service.http import health, openapi, problems, static_console, swagger_ui
from service.http.authentication import StillValid
from service.http.body_budget import BodyBudget
from service.http.provided import Parts, provide
from service.http.rate_limits import ConnectionLimits, RestLimits
from service.http.request_bounds import RequestBounds, count_unmatched
from service.http.source_requests import SourceCounter
from service.integrations import routes as integration_routes
from service.ledger import name_routes
from service.ledger import routes as ledger_routes
from service.ledger.flusher import LedgerFlusher
from service.ledger.recipient_directory import SeenRecipients
from service.ledger.recorder import LedgerRecorder
from service.ledger.statements import FLUSHES_CHANNEL, PRESENCE_CHANNEL
from service.logs import get_logger
from service.maintenance.abandoned_transactions import AbandonedTransactions
from service.maintenance.housekeeping import Housekeeping
from service.retention.runner import Retention
from service.severity import SEVERITIES
from service.stream import routes as stream_routes
from service.stream.admission import Admission
from service.stream.cursor_check import CursorCheck
from service.stream.fanout import Fanout
from service.stream.hub import Hub
from service.stream.presence import PresenceAnnouncer
from service.stream.ticks import ConnectionTicks
from service.stream.transports.http_endpoint import HttpEndpoint
from service.stream.transports.http_rejections import HttpRejections
from service.stream.transports.websocket_handshake import PATH, WebSocketEndpoint

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

ENUMERATIONS = {"Severity": SEVERITIES, "AlertStatus": get_args(Status), "EventKind": get_args(EventKind)}
"""The enumerations of the OpenAPI document that several fields share."""


def create_app(settings: Settings, url: URL, keyring: Keyring) -> FastAPI:
    """Make the application of one node, on the migrated database at ``url``."""
    node = Node(settings, url, keyring)
    app = FastAPI(
        title="Tocsin",
        version=__version__,
        summary="Alerts, stored before answered and pushed at once.",
        description=DESCRIPTION,
        lifespan=lambda _app: node.lifespan(),
        openapi_url=None,  # openapi.py serves it
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would redirect to whatever Host the client names
        servers=[{"url": settings.server.root_path or "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        generate_unique_id_function=openapi.operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics has them; a span would hold ?token=
    )
    app.add_middleware(StillValid, verifier=node.verifier)
    app.add_middleware(RequestBounds, limits=node.limits)
    app.add_middleware(HttpRejections, admission=node.admission)
    provide(app, node.parts())
    problems.install(app, lambda request: count_unmatched(node.limits, request.scope))
    openapi.install(app, ENUMERATIONS)
    _add_routes(app)
    app.router.routes.append(
        WebSocketRoute(PATH, WebSocketEndpoint(node.admission, node.hub, node.verifier, node.limits, settings.stream))
    )
    swagger_ui.install(app)
    static_console.install(app, CONSOLE, settings.console)
    _prepare(app)
    return app


def _add_routes(app: FastAPI) -> None:
    app.router.routes.extend(alert_routes.fast_routes)
    app.router.routes.extend(integration_routes.fast_routes)
    for router in (
        alert_routes.router,
        action_routes.router,
        resolve_routes.router,
        ledger_routes.router,
        name_routes.router,
        audit_routes.router,
        receipt_routes.router,
        stream_routes.router,
        dashboard_routes.router,
        admin_routes.router,
        recipient_routes.router,
        health.router,
    ):
        app.include_router(router)


def _prepare(app: FastAPI) -> None:
    """Prepare the routes now: at the first request, an alert, it would take FastAPI 25 ms."""
    for route in app.routes:
        route.matches({"type": "http", "method": "GET", "path": "/", "headers": []})


class Node:
    """The parts of one node, each made after those that it needs."""

    def __init__(self, settings: Settings, url: URL, keyring: Keyring) -> None:
        self._settings = settings
        self._keyring = keyring
        self.tasks = NodeTasks()

        self.database = database = Database(url, settings.storage)
        self.revocations = revocations = RevocationFeed(
            database, self._close_revoked, registered_as=self._registered_as, settled=self._commits_settled
        )
        self.verifier = TokenVerifier(keyring, settings.auth, revocations)
        self.limits = RestLimits(settings.limits)

        connection_limits = ConnectionLimits(settings.stream)
        self.ledger = ledger = LedgerRecorder(database, settings.ledger)
        self.verifier.on_named = ledger.record_name
        self.flusher = LedgerFlusher(database, ledger, settings.ledger)
        self.hub = hub = Hub(ledger, settings.stream, revocations)
        self.fanout = Fanout(database, hub, self.flusher, settings.stream, revocations)
        self.ticks = ConnectionTicks(hub)
        self.presence = PresenceAnnouncer(database, hub, settings)
        self.admission = Admission(
            hub=hub,
            fanout=self.fanout,
            cursor_check=CursorCheck(database, hub, self.fanout),
            ledger=ledger,
            verifier=self.verifier,
            rest_limits=self.limits,
            limits=connection_limits,
            settings=settings.stream,
            event_max_bytes=settings.storage.event_max_bytes,
        )
        self.streams = HttpEndpoint(self.admission, hub, ledger, connection_limits, settings.stream)
        self.node_stats = NodeStatsReporter(database, hub, ledger, MessageKey())
        self.dashboard = Dashboard(database, self.node_stats, self.verifier, settings.stream)

        self.dedup_groups = DedupGroups(settings.alerts.dedup_groups)
        self.committer = Committer(
            database,
            settings.storage,
            self.fanout.enqueue_committed,
            ledger.source_stats,
            revocations,
            self.dedup_groups,
        )
        self.recipients = SeenRecipients(database, enabled=settings.alerts.warn_of_unknown_recipients)
        self.due_alerts = DueAlerts(database, self.committer)
        self.search_indexer = SearchIndexer(database)
        self.housekeeping = Housekeeping(database, self.flusher, settings)
        self.abandoned = AbandonedTransactions(
            database, min(settings.storage.database_timeout_seconds, settings.ledger.node_lease_seconds / 2)
        )
        self.retention = Retention(database, settings.retention, self.fanout.replays.drop)
        self.notifications = self._notifications()

    def _notifications(self) -> NotificationListener:
        """Return the LISTEN connection, with a callback for each channel."""
        listener = NotificationListener(self.database)
        revocations, presence = self.revocations, self.presence
        listener.listen(REQUEST_CHANNEL, self.node_stats.handle_request)
        listener.listen(EVENTS_CHANNEL, self.fanout.hint)
        listener.listen(REVOCATIONS_CHANNEL, lambda _payload: revocations.wake(), on_connect=revocations.connected)
        listener.listen(FLUSHES_CHANNEL, self.flusher.requested)
        listener.listen(PRESENCE_CHANNEL, lambda _payload: presence.wake(), on_connect=presence.wake)
        return listener

    def _close_revoked(self, kicked: Collection[UUID]) -> None:
        self.hub.close_revoked(kicked)
        self.dashboard.close_revoked()

    def _registered_as(self) -> UUID | None:
        return self.ledger.node_id if self.ledger.lease.is_held else None

    async def _commits_settled(self) -> None:
        await self.committer.batch_concluded()

    def parts(self) -> Parts:
        """Return the parts that routes look up."""
        parts = Parts(
            self.tasks,
            self.database,
            self.verifier,
            self.limits,
            self.committer,
            self.dedup_groups,
            self.hub,
            self.streams,
            self.dashboard,
            BodyBudget(self._settings.server),
            Revoker(self.database, self.revocations),
            *(getattr(self._settings, group) for group in type(self._settings).model_fields),
        )
        parts.add(SourceCounter, self.ledger.source_stats)
        parts.add(RecipientDirectory, self.recipients)
        return parts

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run the node, and keep why it failed to start."""
        try:
            async with self.running():
                yield
        except Exception as error:
            self.tasks.fail(error)
            raise

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the parts, and stop them at the end of the block."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            async with self.database.transaction() as tx:
                head = await read_head(tx)
            if self.database.unsafe_in_a_crash:
                log.warning("PostgreSQL may lose answered alerts in a crash", off=self.database.unsafe_in_a_crash)
            await self.node_stats.key.load(self.database)
            await revoke_from_public(self.database)
            await self._keyring.load()
            self.fanout.start_at(head)
            await self.flusher.register(head)
            await self.revocations.read()  # from here on, whoever revokes waits for this node
            stack.push_async_callback(self.flusher.sign_off)
            stack.push_async_callback(self.streams.close)
            stack.push_async_callback(self.dashboard.close)
            stack.push_async_callback(self.abandoned.close)
            stack.callback(self._shut_down)  # also those without a socket, between two polls
            for work in (
                self.flusher.task(self._shut_down, self.fanout.check_history).run(),
                self.committer.run(),
                self.due_alerts.task.run(),
                self.fanout.task.run(),
                self.notifications.run(),
                self.revocations.task.run(),
                self.revocations.confirmations.run(),
                self._keyring.run(),
                self.ticks.task.run(),
                self.presence.task.run(),
                self.housekeeping.task.run(),
                self.abandoned.task.run(),
                self.retention.task.run(),
                self.search_indexer.task.run(),
            ):
                await stack.enter_async_context(self.tasks.running(work))
            log.info("node serves", node=str(self.ledger.node_id), head=head.seq)
            yield

    def _shut_down(self) -> None:
        self.hub.close_all(CloseReason.SHUTTING_DOWN)


class NodeTasks:
    """Tasks that run beside the requests. If one fails, the whole node stops, to be restarted."""

    def __init__(self) -> None:
        self.failure: str | None = None
        """Why the node did not start, or why it stops, in one line."""

    def fail(self, error: BaseException) -> None:
        """Keep the first error."""
        if self.failure is None:
            reason = str(error) if isinstance(error, TocsinError) else f"{type(error).__name__}: {error}"
            self.failure = reason.partition("\n")[0]

    @asynccontextmanager
    async def running(self, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Run ``work`` until the end of the block."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a part of the node failed; stopping", exc_info=error)
            self.fail(error)
            os.kill(os.getpid(), signal.SIGTERM)
