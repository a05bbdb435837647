"""``tocsin demo``: the whole path on a throwaway instance, checked against the ledger.

Two admins connect with different topics, a source posts alerts, and one admin's connection is cut
and resumes. Then the events that each client received are compared with ``audit.deliveries``, row
by row; the exit code is 0 only if they agree.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import uvicorn
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from service import logs
from service.app import create_app
from service.auth.issuers import load_keyring
from service.auth.shared_secret import mint
from service.cli.serve import server_config
from service.database.embedded import BINARIES, embedded_postgres
from service.database.engine import address_of, parse_url
from service.database.libpq import connect_session
from service.database.migrate import migrate
from service.errors import CommandFailed
from service.settings import AuthSettings, ServerSettings, Settings, StorageSettings
from service.stream.frames import SUBPROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL
    from websockets.asyncio.client import ClientConnection

TIMEOUT_SECONDS = 10

ALERTS: tuple[dict[str, Any], ...] = (
    {"topic": "payments.eu", "severity": "critical", "title": "Card acceptance below 80 %"},
    {"topic": "search", "severity": "warning", "title": "Index is 10 minutes behind"},
    {"topic": "payments.us", "severity": "error", "title": "Settlement file is late"},
    {"topic": "payments.eu", "severity": "info", "title": "Acquirer X is back"},
    {"topic": "search", "severity": "info", "title": "Index has caught up", "recipients": ["bob"]},
)
DROP_AFTER = 2
"""After so many alerts the first admin's connection is cut; she reconnects after one more."""
DELIVERIES = "SELECT seq, recipient, sent_at, received_at, latency FROM audit.deliveries ORDER BY seq, recipient"


@dataclass
class Admin:
    """An admin with a stream: what they may see, what they received, and their cursor."""

    name: str
    topics: list[str]
    token: str
    cursor: str = "0"
    received: list[int] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    connection: ClientConnection | None = None

    def may_see(self, alert: dict[str, Any]) -> bool:
        """Return whether an alert of the demo is for this admin."""
        addressed = self.name in alert.get("recipients", [self.name])
        return addressed and any(alert["topic"].startswith(topic.removesuffix("*")) for topic in self.topics)

    async def open(self, base: str) -> None:
        """Connect as a browser does, from the cursor on."""
        address = f"{base.replace('http', 'ws', 1)}/v1/ws?after={self.cursor}"
        subprotocols = [Subprotocol(SUBPROTOCOL), Subprotocol(f"bearer.{self.token}")]
        self.connection = await connect(address, subprotocols=subprotocols, proxy=None)

    async def receive(self, count: int) -> None:
        """Read and acknowledge until ``count`` events were received in total."""
        assert self.connection is not None  # noqa: S101 - opened before
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(self.received) < count:
                frame = json.loads(await self.connection.recv())
                if frame["type"] == "event":
                    self.cursor = frame["cursor"]
                    self.received.append(frame["seq"])
                    self.titles.append(frame["alert"]["title"])
                    await self.connection.send(json.dumps({"type": "ack", "seq": frame["seq"]}))

    def cut(self) -> None:
        """Lose the network: no close frame is sent."""
        assert self.connection is not None  # noqa: S101 - opened before
        self.connection.transport.abort()


def demo() -> None:
    """Show the whole path on a throwaway instance.

    Two admins, a source, a lost connection, and the ledger.
    """
    logs.configure("error", "auto")
    secret = secrets.token_urlsafe(48)
    settings = Settings(
        server=ServerSettings(host="127.0.0.1", port=0, access_log=False),
        storage=StorageSettings(database_url=None),
        auth=AuthSettings(jwt_secret=secret, jwt_public_key_file=None, jwt_algorithm=None),
    )
    with tempfile.TemporaryDirectory(prefix="tocsin-demo-", ignore_cleanup_errors=True) as folder:
        print("Starting a throwaway PostgreSQL and a node …")
        with embedded_postgres(Path(folder)) as address:
            url = parse_url(address.render_as_string(hide_password=False))
            migrate(url)
            with _serving(settings, url) as base:
                agreed = asyncio.run(_play(settings, secret.encode(), base, url))
    if not agreed:
        raise CommandFailed("the clients and the ledger disagree; please report this bug")
    print("The clients and the ledger agree.")


@contextmanager
def _serving(settings: Settings, url: URL) -> Iterator[str]:
    config = server_config(settings, create_app(settings, url, load_keyring(settings.auth)))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise CommandFailed("the node did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


async def _play(settings: Settings, secret: bytes, base: str, url: URL) -> bool:
    def token(subject: str, scope: str, topics: list[str] | None = None) -> str:
        return mint(secret, settings.auth, subject=subject, scope=scope, topics=topics)

    admins = [
        Admin(name, topics, token(name, "alerts:read", topics))
        for name, topics in (("alice", ["payments.*"]), ("bob", ["*"]))
    ]
    alice, bob = admins
    for admin in admins:
        await admin.open(base)
        print(f"  {admin.name} is connected and may see {', '.join(admin.topics)}")
    posted: list[dict[str, Any]] = []
    headers = {"Authorization": f"Bearer {token('shop', 'alerts:write')}"}
    async with httpx2.AsyncClient(base_url=base, headers=headers, trust_env=False) as source:
        for number, alert in enumerate(ALERTS, 1):
            response = await source.post("/v1/alerts", json=alert)
            response.raise_for_status()
            posted.append(alert)
            print(f"  shop posts {response.json()['seq']}: [{alert['severity']}] {alert['topic']}: {alert['title']}")
            await bob.receive(sum(map(bob.may_see, posted)))
            if number <= DROP_AFTER:
                await alice.receive(sum(map(alice.may_see, posted)))
            if number == DROP_AFTER:
                alice.cut()
                print("  alice's network breaks …")
            if number == DROP_AFTER + 1:
                await alice.open(base)
                print(f"  … and comes back; she resumes after {alice.cursor}")
    await alice.receive(sum(map(alice.may_see, posted)))
    print()
    for admin in admins:
        print(f"{admin.name} received {admin.received}: {'; '.join(admin.titles)}")
    return await _compare(admins, posted, url)


async def _compare(admins: list[Admin], posted: list[dict[str, Any]], url: URL) -> bool:
    """Print ``audit.deliveries``, and return whether it agrees with what the clients received."""
    received = {(seq, admin.name) for admin in admins for seq in admin.received}
    expected = {(seq, a.name) for seq, alert in enumerate(posted, 1) for a in admins if a.may_see(alert)}
    connection = await connect_session(url)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            rows = await connection.fetch("SELECT seq, recipient FROM audit.deliveries WHERE received_at IS NOT NULL")
            claimed = [(row["seq"], row["recipient"]) for row in rows]
            if set(claimed) == received or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    print(f"\n{DELIVERIES};", flush=True)
    psql = (BINARIES / "psql", "-X", "-c", DELIVERIES, address_of(url))
    await asyncio.to_thread(subprocess.run, psql, check=False)
    in_order = all(admin.received == sorted(set(admin.received)) for admin in admins)
    return in_order and received == expected and sorted(claimed) == sorted(received)
