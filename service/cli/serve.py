"""``tocsin serve``: run a node, or with ``--workers N`` several of them.

A single node is this process. Each of several is a process of its own (``workers.py``), and listens on a socket of its
own: all are bound to one address with ``SO_REUSEPORT``, and Linux spreads the connections by a hash of their addresses.
Of 200 connections that came one by one, one shared socket gave four workers 23, 29, 3 and 145, for whoever is idle
first takes the next; with a socket each they were 45, 51, 52 and 52 (200 streams of this service: 46, 46, 45 and 63). A
worker listens when it is ready, and no longer when it ends, so that no connection waits for one that does not serve.
(Other systems may give all connections to one of the sockets.)
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvicorn

from service import logs
from service.app import NodeTasks, create_app
from service.auth.issuers import load_keyring
from service.auth.shared_secret import mint
from service.cli.environment import database_url
from service.cli.signing_secret import signing_secret
from service.cli.worker_supervisor import Workers
from service.database.migrate import is_current, migrate
from service.errors import CommandFailed
from service.http.provided import parts_of
from service.http.server_protocol import HttpServerProtocol, ServerConfig
from service.metrics import forget_worker, shared_by_workers
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
"""What a worker may take to stop beyond ``TOCSIN_SHUTDOWN_TIMEOUT_SECONDS``: to flush the ledger, and
wait for PostgreSQL."""


def serve(
    *,
    dev: Annotated[
        bool, typer.Option("--dev", help="Make and keep a development key, and print ready tokens.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Run so many nodes, a process each.")] = 1,
) -> None:
    """Serve the REST API, the stream and the console."""
    settings = load()
    logs.configure(settings.server.log_level, settings.server.log_format)
    for variable, similar in unknown_variables():
        hint = f"; did you mean {similar}?" if similar else ""
        print(f"tocsin: {variable} is no setting{hint}", file=sys.stderr)
    keyring = _keyring(settings, dev=dev)
    # uvicorn raises the signal again once it has stopped; without a handler that would end us before PostgreSQL stops.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # the terminal was closed
    take = _listener if workers == 1 else _reservation
    with take(settings.server) as address, database_url(settings) as url:
        if settings.storage.database_url is None:
            migrate(url)
        elif not is_current(url):
            raise CommandFailed("the database has another schema than this version needs: run tocsin migrate")

        def greet() -> None:
            print(_greeting(settings, address.getsockname()[1], dev=dev), flush=True)

        if workers == 1:
            _run_node(settings, url, keyring, address, greet)
        else:
            nodes = Workers(
                _run_worker,
                (settings, url, address.getsockname(), dev),
                on_listening=greet,
                on_ended=forget_worker,
                patience=settings.server.shutdown_timeout_seconds + STOP_SLACK_SECONDS,
            )
            with shared_by_workers():
                nodes.run(workers)


def _run_worker(listens: Callable[[], None], settings: Settings, url: URL, address: Any, dev: bool) -> None:  # noqa: FBT001 - pickled
    """Run one of several nodes, with the settings that were read once for all."""
    logs.configure(settings.server.log_level, settings.server.log_format)
    with _bound(settings.server, address) as listener:
        _run_node(settings, url, _keyring(settings, dev=dev), listener, listens)


def _run_node(
    settings: Settings, url: URL, keyring: Keyring, listener: socket.socket, on_listening: Callable[[], None]
) -> None:
    """Run a node in this process until it is asked to stop.

    Raises:
        CommandFailed: it did not start, or a part of it failed.

    """
    app = create_app(settings, url, keyring)
    server = _Server(server_config(settings, app), on_listening)
    # What was imported stays, and streams live long: with Python's defaults, looking through all of them again and
    # again took a quarter of the time of 3,000 handshakes.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run(sockets=[listener])
    if not server.started:
        raise CommandFailed("the node did not start: its log says why")
    if parts_of(app).find(NodeTasks).failed:
        raise CommandFailed("a part of the node failed: its log says why")


def _keyring(settings: Settings, *, dev: bool) -> Keyring:
    return load_keyring(settings.auth, signing_secret(settings, dev=True) if dev else None)


def _listener(settings: ServerSettings) -> socket.socket:
    """Take the address before anything is started for it."""
    try:
        return socket.create_server((settings.host, settings.port), family=_family(settings), backlog=2048)
    except OSError as error:
        raise _not_free(settings, error) from None


def _reservation(settings: ServerSettings) -> socket.socket:
    """Take the address for workers that will each listen on it, without listening.

    It is taken alone first: another service of the same user could share it otherwise, and half of the connections.
    """
    with _listener(settings) as alone:
        address = alone.getsockname()
    return _bound(settings, address)


def _bound(settings: ServerSettings, address: Any) -> socket.socket:
    """Return a socket at an address that others of this user are bound to as well."""
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
        app,
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
        forwarded_allow_ips=server.forwarded_allow_ips,
        timeout_graceful_shutdown=server.shutdown_timeout_seconds,
    )
    config.request_timeout = server.request_timeout_seconds
    config.request_max_bytes = max(server.request_max_bytes, server.batch_max_bytes)
    return config


class _Server(uvicorn.Server):
    """uvicorn, which tells once it listens."""

    def __init__(self, config: ServerConfig, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        if self.started:
            self._on_listening()


def _greeting(settings: Settings, port: int, *, dev: bool) -> str:
    """Say where the service is, and with ``dev`` what to do next."""
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

3. Ask who got it: {Path(sys.argv[0]).name} sql -c 'SELECT * FROM audit.deliveries'
"""  # noqa: S608
