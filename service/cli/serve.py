"""``tocsin serve``: run one node, or several with ``--workers N``.

A single node runs in this process. Each of several runs in a process of its own
(``worker_supervisor.py``) and listens on sockets of its own. They are bound to the same addresses
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
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
import uvicorn

from service import logs
from service.app import NodeTasks, create_app
from service.auth.issuers import load_keyring
from service.auth.shared_secret import mint
from service.cli.environment import check_schema, database_url, migrate_schema, serving_url
from service.cli.invocation import suggest
from service.cli.signing_secret import signing_secret
from service.cli.worker_supervisor import Workers
from service.errors import CommandFailed
from service.http.edge import Edge
from service.http.fast_route import FastRoutes
from service.http.provided import parts_of
from service.http.proxies import TrustedProxies
from service.http.root_path import RootPath
from service.http.server_config import ServerConfig
from service.http.server_protocol import HttpServerProtocol
from service.http.sockets import Sockets, raise_file_limit, sockets_max
from service.metrics import drop_worker, shared_by_workers
from service.settings import load, unknown_variables
from service.stream.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI
    from sqlalchemy import URL
    from starlette.types import ASGIApp

    from service.auth.issuers import Keyring
    from service.settings import ServerSettings, Settings

_Address: TypeAlias = tuple[Any, ...]
"""A host and a port, and of an IPv6 address what ``getsockname`` adds to them."""

_EVERY_ADDRESS = ("::", "0.0.0.0")  # noqa: S104 - where the operator asks for it

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
    reserve = _listeners if workers == 1 else _reservation
    with reserve(settings.server) as sockets, database_url(settings, create=True, restart=True) as direct_url:
        if settings.storage.database_url is None:
            migrate_schema(direct_url)
        else:
            check_schema(direct_url)
        url = serving_url(settings, direct_url)

        def greet() -> None:
            print(_greeting(settings, sockets[0].getsockname()[1], dev=dev), flush=True)

        if workers == 1:
            _run_node(settings, url, keyring, sockets, greet)
        else:
            nodes = Workers(
                _run_worker,
                (settings, url, [one.getsockname() for one in sockets], dev),
                on_listening=greet,
                on_ended=drop_worker,
                stop_seconds=settings.server.shutdown_timeout_seconds + STOP_SLACK_SECONDS,
            )
            with shared_by_workers():
                nodes.run(workers)


def _run_worker(
    on_listening: Callable[[], None],
    settings: Settings,
    url: URL,
    addresses: list[_Address],
    dev: bool,  # noqa: FBT001 - pickled
) -> None:
    """Run one of several nodes in a worker process."""
    logs.configure(settings.server.log_level, settings.server.log_format)
    with _each(addresses, _bound) as listeners:
        _run_node(settings, url, _keyring(settings, dev=dev), listeners, on_listening)


def _run_node(
    settings: Settings, url: URL, keyring: Keyring, listeners: list[socket.socket], on_listening: Callable[[], None]
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
        server.run(sockets=listeners)
    failure = parts_of(app).find(NodeTasks).failure
    if not server.started:
        raise CommandFailed(f"the node did not start: {failure or 'its log says why'}")
    if failure is not None:
        raise CommandFailed(f"a part of the node failed: {failure}")


def _keyring(settings: Settings, *, dev: bool) -> Keyring:
    return load_keyring(settings.auth, signing_secret(settings, dev=True) if dev else None)


@contextmanager
def _listeners(settings: ServerSettings) -> Iterator[list[socket.socket]]:
    """Listen on the addresses before anything else is started."""
    with _each(_addresses(settings), _listener) as sockets:
        yield sockets


@contextmanager
def _reservation(settings: ServerSettings) -> Iterator[list[socket.socket]]:
    """Bind the addresses for the workers, without listening.

    Listening on them alone first makes sure that no other service of this user is bound to them,
    which would receive half of the connections.
    """
    with _listeners(settings) as alone:
        addresses = [one.getsockname() for one in alone]
    with _each(addresses, _bound) as sockets:
        yield sockets


@contextmanager
def _each(addresses: list[_Address], opened: Callable[[_Address], socket.socket]) -> Iterator[list[socket.socket]]:
    """Open a socket for each address; the port 0 is the one that the first was given.

    Raises:
        CommandFailed: one is not free.

    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for host, port, *scope in addresses:
            taken = port or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(stack.enter_context(opened((host, taken, *scope))))
            except OSError as error:
                why = (error.strerror or "no such address").partition(" (")[0]
                raise CommandFailed(
                    f"cannot listen on {_netloc(host, taken)} ({why}): set TOCSIN_HOST or TOCSIN_PORT"
                ) from None
        yield sockets


def _addresses(settings: ServerSettings) -> list[_Address]:
    """Return the addresses to listen on, of both protocols for ``::``.

    Each protocol has a socket of its own, so that a client with an IPv4 address is known by that
    address, and not by an IPv6 one that holds it.
    """
    hosts = [host for named in settings.host.split(",") for host in (_EVERY_ADDRESS if named == "::" else (named,))]
    return [(host, settings.port) for host in dict.fromkeys(hosts)]


def _listener(address: _Address) -> socket.socket:
    return socket.create_server(address, family=_family(address), backlog=2048)


def _bound(address: _Address) -> socket.socket:
    """Return a socket that is bound to an address that it shares with others of this user."""
    sock = socket.socket(_family(address))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as create_server() does
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _family(address: _Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_config(settings: Settings, app: FastAPI) -> ServerConfig:
    """Configure uvicorn with our protocol classes."""
    server, stream = settings.server, settings.stream
    config = ServerConfig(
        Edge(_under_path(FastRoutes(app), server), TrustedProxies(server.forwarded_allow_ips)),
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
        timeout_keep_alive=server.keep_alive_seconds,
        timeout_graceful_shutdown=server.shutdown_timeout_seconds,
    )
    config.request_timeout = server.request_timeout_seconds
    config.request_max_bytes = max(server.request_max_bytes, server.batch_max_bytes)
    config.sockets = Sockets(sockets_max(stream.connections_max))
    return config


def _under_path(app: ASGIApp, settings: ServerSettings) -> ASGIApp:
    return RootPath(app, settings.root_path) if settings.root_path else app


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
    base = f"http://{_netloc(_addresses(settings.server)[0][0], port)}"
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
