"""A database in memory whose history can change: the log, and as much of the ledger as claims something.

It runs the statements of the ledger's flush, and checks at each commit that the ledger claims nothing
that did not happen. ``Wrong`` is raised where it does.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from service.events.position import Cursor, Position
from service.ledger import statements
from tests.stream.fakes import FakeLog

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Sequence

    from service.events.log import Event
    from tests.stream.simulated_service import Socket


class Wrong(AssertionError):
    """A promise of the service is broken."""


async def turns(count: int) -> None:
    """Let the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


class NodeRow(NamedTuple):
    """A serving node: how far it has fanned out, and the number of its last flush."""

    sent_seq: int
    flush: int


@dataclass
class Tables:
    """What a failover takes back together: the log, and the ledger."""

    events: list[Event] = field(default_factory=list)
    nodes: dict[str, NodeRow] = field(default_factory=dict)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    dispatches: list[dict[str, Any]] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)

    def copy(self) -> Tables:
        return Tables(
            list(self.events), dict(self.nodes), dict(self.connections), list(self.dispatches), list(self.receipts)
        )


class Primary(FakeLog):
    """The database: the log in memory, and as much of the ledger as claims something."""

    def __init__(self, choose: random.Random, sockets: dict[str, Socket]) -> None:
        self._choose = choose
        self._sockets = sockets
        self.tables = Tables()
        super().__init__()

    @property
    def events(self) -> list[Event]:
        return self.tables.events

    @events.setter
    def events(self, events: list[Event]) -> None:
        self.tables.events = events

    @asynccontextmanager
    async def transaction(self, **_options: object) -> AsyncIterator[Primary]:
        await turns(self._choose.randint(0, 2))
        before = self.tables.copy()
        try:
            yield self
            self._check_claims()
        except BaseException:
            self.tables = before
            raise

    def holds(self, position: Position | None) -> bool:
        """Return whether the log holds a position."""
        return position is not None and (position.seq == 0 or position in {event.position for event in self.events})

    def matches(self, cursor: str) -> bool:
        """Return whether the log holds the position of a client."""
        parsed = Cursor.parse(cursor)
        assert parsed is not None
        return parsed.seq == 0 or any(parsed.matches(event.position) for event in self.events)

    # The statements of the ledger.

    async def scalar(self, statement: object, parameters: dict[str, Any]) -> Any:
        """Run a statement that returns one value."""
        if statement is statements.LOG_HOLDS:
            return self.holds(Position(parameters["seq"], parameters["id"]))
        node = str(parameters["id"])
        if statement is statements.RENEW_NODE:
            row = self.tables.nodes.get(node)
            if row is None or row.flush < parameters["confirmed_flush"]:
                return None
        else:
            assert statement is statements.REGISTER_NODE
        self.tables.nodes[node] = NodeRow(parameters["sent_seq"], parameters["flush"])
        return self.holds(Position(parameters["sent_seq"], parameters["sent_id"]))

    async def execute(self, statement: object, parameters: dict[str, Any] | None = None) -> None:
        """Run a statement that writes."""
        parameters = parameters or {}
        if statement is statements.UPSERTS["connections"]:
            self._write_connections(orjson.loads(parameters["rows"]))
        elif statement is statements.WRITE_LEDGER:
            self._write_connections(orjson.loads(parameters["closings"]))
            self.tables.dispatches += orjson.loads(parameters["dispatches"])
            self.tables.receipts += orjson.loads(parameters["receipts"])
        elif statement is statements.END_NODES:
            for node in map(str, parameters["ids"]):
                ended = {row["id"]: self._closed(row) for row in self._open_rows() if row["node_id"] == node}
                self.tables.connections |= ended
                self.tables.nodes.pop(node, None)

    def _write_connections(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            known = self.tables.connections.get(row["id"])
            if known is None or known["closed_at"] is None:
                self.tables.connections[row["id"]] = row

    def _open_rows(self) -> list[dict[str, Any]]:
        return [row for row in self.tables.connections.values() if row["closed_at"] is None]

    def _closed(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "sent_seq": self._sent_seq(row), "closed_at": "when its node ended"}

    def _sent_seq(self, row: dict[str, Any]) -> int:
        """Return how far a connection was sent: its own number, or its node's while it keeps up."""
        node = self.tables.nodes.get(row["node_id"], NodeRow(0, 0))
        return node.sent_seq if row["sent_seq"] is None else cast("int", row["sent_seq"])

    def _check_claims(self) -> None:
        """Check what the ledger says of every connection against what went through its socket."""
        rows = self.tables.connections
        for row in rows.values():
            self._check("sent", row["id"], row["after_seq"], self._sent_seq(row))
        for dispatch in self.tables.dispatches:
            if dispatch["connection_id"] is not None:
                self._check("sent", dispatch["connection_id"], dispatch["after_seq"], dispatch["up_to_seq"])
        for receipt in self.tables.receipts:
            if (confirmed := rows.get(receipt["connection_id"])) is not None:  # the failover may have lost the row
                self._check("received", confirmed["id"], confirmed["after_seq"], receipt["seq"])

    def _check(self, claim: str, connection: str, after: int, up_to: int) -> None:
        socket = self._sockets[connection]
        happened = socket.sent if claim == "sent" else socket.received
        for event in self.events[after:up_to]:
            if socket.filter.matches(event) and event.position not in happened:
                raise Wrong(f"the ledger says that {event.position.cursor} was {claim}, which never happened")
