"""``tocsin serve``: run one node, or several with ``--workers N``.

A single node runs in this process. Each of several runs in a process of its own
(``worker_supervisor.py``) and listens on a socket of its own. All sockets are bound to one address
with ``SO_REUSEPORT``, and Linux spreads the connections by a hash of their addresses. Of 200
connections that came one by one, one shared socket gave four workers 23, 29, 3 and 145, because an
idle worker takes the next; with a socket each it was 45, 51, 52 and 52 (200 streams of this
service: 46, 46, 45 and 63). A worker listens only while it serves, so that no connection waits for
one that does not. (Other systems may give all connections to one of the sockets.)
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvicorn

from service import logs
from service.app import NodeTasks, create_app
from service.auth.issuers import load_keyring
from service.auth.shared_secret import mint
from service.cli.environment import check_schema, database_url, serving_url
from service.cli.invocation import suggest
from service.cli.signing_secret import signing_secret
from service.cli.worker_supervisor import Workers
from service.database.migrate import migrate
from service.errors import CommandFailed
from service.http.edge import Edge
from service.http.fast_route import FastRoutes
from service.http.provided import parts_of
from service.http.proxies import TrustedProxies
from service.http.server_protocol import HttpServerProtocol, ServerConfig
from service.http.sockets import Sockets, raise_file_limit, sockets_max
from service.metrics import drop_worker, shared_by_workers
from service.settings import load, unknown_variables
from service.stream.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from sqlalchemy import URL

    from service.auth.issuers import Keyring
    from service.settings import ServerSettings, Settings

DEV_TOKEN_SECONDS = 12 * 3600
STOP_SLACK_SECONDS = 15
"""The time beyond ``TOCSIN_SHUTDOWN_TIMEOUT_SECONDS`` in which a worker stops: it flushes the ledger
and waits for PostgreSQL."""


def serve(
    *,
    dev: Annotated[bool, typer.Option("--dev", help="Make and keep a development key, and print tokens.")] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Run so many nodes, each in a process.")] = 1,
) -> None:
    """Serve the REST API, the stream and the console."""
    settings = load()
    logs.configure(settings.server.log_level, settings.server.log_format)
    for variable, similar in unknown_variables():
        hint = f"; did you mean {similar}?" if similar else ""
        print(f"tocsin: {variable} is no setting{hint}", file=sys.stderr)
    keyring = _keyring(settings, dev=dev)
    raise_file_limit()
    # uvicorn raises the signal again once it has stopped; without a handler the process would end before PostgreSQL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # the terminal was closed
    reserve = _listener if workers == 1 else _reservation
    with reserve(settings.server) as address, database_url(settings, restart=True) as direct_url:
        if settings.storage.database_url is None:
            migrate(direct_url)
        else:
            check_schema(direct_url)
        url = serving_url(settings, direct_url)

        def greet() -> None:
            print(_greeting(settings, address.getsockname()[1], dev=dev), flush=True)

        if workers == 1:
            _run_node(settings, url, keyring, address, greet)
        else:
            nodes = Workers(
                _run_worker,
                (settings, url, address.getsockname(), dev),
                on_listening=greet,
                on_ended=drop_worker,
                stop_seconds=settings.server.shutdown_timeout_seconds + STOP_SLACK_SECONDS,
            )
            with shared_by_workers():
                nodes.run(workers)


def _run_worker(on_listening: Callable[[], None], settings: Settings, url: URL, address: Any, dev: bool) -> None:  # noqa: FBT001 - pickled
    """Run one of several nodes in a worker process."""
    logs.configure(settings.server.log_level, settings.server.log_format)
    with _bound(settings.server, address) as listener:
        _run_node(settings, url, _keyring(settings, dev=dev), listener, on_listening)


def _run_node(
    settings: Settings, url: URL, keyring: Keyring, listener: socket.socket, on_listening: Callable[[], None]
) -> None:
    """Run a node in this process until it is asked to stop.

    Raises:
        CommandFailed: it did not start, or one of its tasks failed.

    """
    app = create_app(settings, url, keyring)
    server = _Server(server_config(settings, app), on_listening)
    # Modules stay, and streams live long: with Python's default thresholds the garbage collector took a quarter of the
    # time of 3,000 handshakes.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=[listener])
    failure = parts_of(app).find(NodeTasks).failure
    if not server.started:
        raise CommandFailed(f"the node did not start: {failure or 'its log says why'}")
    if failure is not None:
        raise CommandFailed(f"a part of the node failed: {failure}")


def _keyring(settings: Settings, *, dev: bool) -> Keyring:
    return load_keyring(settings.auth, signing_secret(settings, dev=True) if dev else None)


def _listener(settings: ServerSettings) -> socket.socket:
    """Listen on the address before anything else is started."""
    try:
        return socket.create_server((settings.host, settings.port), family=_family(settings), backlog=2048)
    except OSError as error:
        raise _not_free(settings, error) from None


def _reservation(settings: ServerSettings) -> socket.socket:
    """Bind the address for the workers, without listening.

    Listening on it alone first makes sure that no other service of this user is bound to it, which
    would receive half of the connections.
    """
    with _listener(settings) as alone:
        address = alone.getsockname()
    return _bound(settings, address)


def _bound(settings: ServerSettings, address: Any) -> socket.socket:
    """Return a socket that is bound to an address that it shares with others of this user."""
    sock = socket.socket(_family(settings))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as create_server() does
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _not_free(settings, error) from None
    return sock


def _family(settings: ServerSettings) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in settings.host else socket.AF_INET


def _not_free(settings: ServerSettings, error: OSError) -> CommandFailed:
    why = (error.strerror or "no such address").partition(" (")[0]
    return CommandFailed(f"cannot listen on {settings.host}:{settings.port} ({why}): set TOCSIN_HOST or TOCSIN_PORT")


def server_config(settings: Settings, app: FastAPI) -> ServerConfig:
    """Configure uvicorn with our protocol classes."""
    server, stream = settings.server, settings.stream
    config = ServerConfig(
        Edge(FastRoutes(app), TrustedProxies(server.forwarded_allow_ips)),
        host=server.host,
        port=server.port,
        http=HttpServerProtocol,
        ws=WebSocketTransport,
        ws_max_size=stream.message_max_bytes,
        ws_ping_interval=stream.ping_interval_seconds,
        ws_ping_timeout=stream.ping_timeout_seconds,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=server.access_log,
        server_header=False,
        proxy_headers=False,  # the edge reads them
        timeout_graceful_shutdown=server.shutdown_timeout_seconds,
    )
    config.request_timeout = server.request_timeout_seconds
    config.request_max_bytes = max(server.request_max_bytes, server.batch_max_bytes)
    config.sockets = Sockets(sockets_max(stream.connections_max))
    return config


class _Server(uvicorn.Server):
    """A uvicorn server that calls ``on_listening`` when it listens."""

    def __init__(self, config: ServerConfig, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call ``on_listening``."""
        await super().startup(sockets)
        if self.started:
            self._on_listening()


def _greeting(settings: Settings, port: int, *, dev: bool) -> str:
    """Return the address of the service, and with ``dev`` what to do next."""
    host = settings.server.host
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return _dev_greeting(settings, base) if dev else f"Tocsin serves {base}"


def _dev_greeting(settings: Settings, base: str) -> str:
    secret = signing_secret(settings, dev=True)

    def token(subject: str, scope: str) -> str:
        return mint(secret, settings.auth, subject=subject, scope=scope, ttl_seconds=DEV_TOKEN_SECONDS)

    admin = token("alice", "alerts:read alerts:write alerts:manage audit:read admin")
    backend = token("billing", "alerts:write")
    curl = (
        f"curl -sS {base}/v1/alerts -H 'Authorization: Bearer {backend}' -H 'Content-Type: application/json'"
        """ -d '{"title": "Hello, on-call", "severity": "warning"}'"""
    )
    # The SELECT is for the reader to paste.
    return f"""
Tocsin serves {base}

1. Open the console, signed in as alice for {DEV_TOKEN_SECONDS // 3600} hours:

   {base}/#token={admin}

2. Send an alert from a backend, as billing:

   {curl}

3. Ask who received it:

   {suggest("sql")} -c 'SELECT * FROM audit.deliveries'
"""  # noqa: S608
