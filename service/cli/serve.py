"""``tocsin serve``: run a node."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvicorn

from service import logs
from service.app import create_app
from service.auth.keys import load_keyring
from service.auth.tokens import mint
from service.cli.place import database_url, signing_secret
from service.database.migrate import is_current, migrate
from service.errors import CommandFailed
from service.realtime.transport import StreamTransport
from service.settings import load, unknown_variables
from service.web.transport import HttpTransport, ServerConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.settings import ServerSettings, Settings

DEV_TOKEN_SECONDS = 12 * 3600


def serve(
    *,
    dev: Annotated[
        bool, typer.Option("--dev", help="Make and keep a development key, and print ready tokens.")
    ] = False,
) -> None:
    """Serve the REST API, the stream and the console."""
    settings = load()
    logs.configure(settings.server.log_level, settings.server.log_format)
    for variable, similar in unknown_variables():
        hint = f"; did you mean {similar}?" if similar else ""
        print(f"tocsin: {variable} is no setting{hint}", file=sys.stderr)
    keyring = load_keyring(settings.auth, signing_secret(settings, dev=True) if dev else None)
    # uvicorn raises the signal again once it has stopped; without a handler that would end us before PostgreSQL stops.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # the terminal was closed
    with _listener(settings.server) as listener, database_url(settings) as url:
        if settings.storage.database_url is None:
            migrate(url)
        elif not is_current(url):
            raise CommandFailed("the database has another schema than this version needs: run tocsin migrate")
        app = create_app(settings, url, keyring)
        server = _Server(server_config(settings, app), settings, dev=dev)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            server.run(sockets=[listener])
    if not server.started:
        raise CommandFailed("the node did not start: its log says why")
    if app.state.failed:
        raise CommandFailed("a part of the node failed: its log says why")


def _listener(settings: ServerSettings) -> socket.socket:
    """Take the address before anything is started for it."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        why = (error.strerror or "no such address").partition(" (")[0]
        raise CommandFailed(
            f"cannot listen on {settings.host}:{settings.port} ({why}): set TOCSIN_HOST or TOCSIN_PORT"
        ) from None


def server_config(settings: Settings, app: FastAPI) -> ServerConfig:
    """Configure uvicorn with our protocol classes."""
    server, stream = settings.server, settings.stream
    config = ServerConfig(
        app,
        host=server.host,
        port=server.port,
        http=HttpTransport,
        ws=StreamTransport,
        ws_max_size=stream.message_max_bytes,
        ws_ping_interval=stream.ping_interval_seconds,
        ws_ping_timeout=stream.ping_timeout_seconds,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=server.access_log,
        server_header=False,
        forwarded_allow_ips=server.forwarded_allow_ips,
        timeout_graceful_shutdown=server.shutdown_seconds,
    )
    config.request_timeout = server.request_timeout_seconds
    config.request_max_bytes = server.request_max_bytes
    return config


class _Server(uvicorn.Server):
    """uvicorn, which says where it is once it listens."""

    def __init__(self, config: ServerConfig, settings: Settings, *, dev: bool) -> None:
        super().__init__(config)
        self._settings = settings
        self._dev = dev

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print what to do next."""
        await super().startup(sockets)
        if self.started and sockets:
            host = self._settings.server.host
            base = f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}"
            print(_dev_greeting(self._settings, base) if self._dev else f"Tocsin serves {base}", flush=True)


def _dev_greeting(settings: Settings, base: str) -> str:
    secret = signing_secret(settings, dev=True)

    def token(subject: str, scope: str) -> str:
        return mint(secret, settings.auth, subject=subject, scope=scope, ttl_seconds=DEV_TOKEN_SECONDS)

    admin = token("alice", "alerts:read alerts:manage audit:read admin")
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
