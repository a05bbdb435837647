"""The invariants, decided from what clients wrote down, the log, and the ledger."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.faults.trials.nodes import errors_of, verify
from tests.faults.trials.records import STORED, Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tests.faults.trials.records import Change, Connection, Event, LostLine, Received, RecipientRecord
    from tests.faults.trials.world import World

DELIVERIES = "SELECT seq, connection::text, sent_at, received_at FROM audit.deliveries ORDER BY connection, seq"
SIGHTINGS = "SELECT recipient, alert_id::text FROM audit.sightings"
CONNECTIONS = "SELECT id::text, user_agent FROM connections"
REFUSALS = (404, 409, 503)
"""Statuses that a client may get: a lost line had the alert, its status does not allow it, or it is to come back."""
CLOSES = ("", "history_changed", "shutting_down", "overloaded", "slow_consumer", "heartbeat_timeout", "poll_timeout")
"""Reasons for which a node may close a connection of these clients."""
HISTORY_CHANGED = "the history of the log changed"
"""What a node logs when it finds that events were lost."""
MOST = 5


class Claim(NamedTuple):
    """What the ledger says about an event and a connection."""

    seq: int
    connection: str
    sent_at: datetime | None
    received_at: datetime | None


@dataclass
class Evidence:
    """Everything that a trial leaves behind."""

    log: Log
    head: int
    """The seq of the last event that clients waited for."""
    changes: list[Change]
    records: list[RecipientRecord]
    claims: list[Claim]
    agents: dict[str, str]
    """The user agent of each connection in the ledger, by its id."""
    sightings: list[tuple[str, str]] = field(default_factory=list)
    """Recipients and alerts that they saw, as the ledger says."""
    lost_lines: list[LostLine] = field(default_factory=list)
    clocks_are_true: bool = True

    @property
    def lines(self) -> list[Log]:
        """All lines of history, in their order; the last one is the log."""
        return [*(line.log for line in self.lost_lines), self.log]

    @property
    def connections(self) -> list[Connection]:
        """The connections of all clients."""
        return [connection for record in self.records for connection in record.connections]

    def lost(self, line: LostLine) -> bool:
        """Say whether the log lacks something of a line."""
        return line.log != self.log[: len(line.log)]

    def lines_between(self, began: datetime, ended: datetime) -> list[Log]:
        """Return the lines of history that were in force at some moment between two."""
        found, since = [], None
        for line in self.lost_lines:
            if line.ended >= began and (since is None or since <= ended):
                found.append(line.log)
            since = line.ended
        return found if since is not None and since > ended else [*found, self.log]


async def complaints_of(world: World) -> list[str]:
    """Return everything that is wrong with a trial."""
    evidence = Evidence(
        log=await Log().read(world.primary.url),
        head=world.head or 0,
        changes=world.changes,
        records=[recipient.record for recipient in world.recipients],
        claims=[Claim(*row) for row in await world.sql(DELIVERIES)],
        agents=dict(map(tuple, await world.sql(CONNECTIONS))),
        sightings=[tuple(row) for row in await world.sql(SIGHTINGS)],
        lost_lines=world.lost_lines,
        clocks_are_true=world.clocks_are_true,
    )
    allowed = HISTORY_CHANGED if any(evidence.lost(line) for line in world.lost_lines) else None
    found = world.complaints + judge(evidence) + errors_of(world.nodes, allowed)
    return found + await verify({"TOCSIN_DATABASE_URL": world.primary.url, "TOCSIN_DATA_DIR": str(world.folder)})


def judge(evidence: Evidence) -> list[str]:
    """Return each contradiction in the evidence."""
    checks = (_check_log, _check_changes, _check_records, _check_connections, _check_resets, _check_ledger)
    return [complaint for check in checks for complaint in check(evidence)]


def _check_log(evidence: Evidence) -> Iterator[str]:
    """The log has no gaps, and holds nothing twice."""
    if [event.seq for event in evidence.log] != list(range(1, len(evidence.log) + 1)):
        yield "the log has gaps"
    if len({event.digest for event in evidence.log}) != len(evidence.log):
        yield "the log holds an event twice"


# What was answered.


def _check_changes(evidence: Evidence) -> Iterator[str]:
    """What was answered as stored is in the log once, as it was asked for; what was refused is not."""
    by_name = _by_name(evidence.log)
    names = {change.name for change in evidence.changes}
    yield from (f"{name} is stored, and nobody asked for it" for name in by_name if name not in names)
    lost = {name for line in evidence.lost_lines if line.may_lose_answered for name in _by_name(line.log)}
    for change in evidence.changes:
        events = by_name.get(change.name, [])
        for answer in change.answers:
            if answer.status is not None and answer.status not in (*STORED, *REFUSALS):
                yield f"{change.name} was answered {answer.status} {answer.text[:300]}"
        if len(events) > 1:
            yield f"{change} and is stored {len(events)} times"
        elif not events and change.stored and change.name not in lost and not _repeats(change, evidence):
            yield f"{change} and is not stored"
        elif events and not change.stored and not change.may_be_stored:
            yield f"{change} and is stored"
        if events and not _is_as_expected(change, events[0]):
            yield f"{change} and is stored as {events[0].seq}: {events[0].content}"


def _by_name(log: Log) -> dict[str, list[Event]]:
    """Return the events that changes became."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in log:
        if event.kind == "alert.created":
            found[event.content["alert"]["title"]].append(event)
        elif event.kind == "alert.commented":
            found[event.content["comment"]["text"]].append(event)
    return found


def _repeats(change: Change, evidence: Evidence) -> bool:
    """Say whether a change repeated an alert with the same dedup key, of whichever line of history."""
    if change.repeats is None or change.stored is None or change.stored.status != 200:
        return False
    alert = change.stored.document.get("id")
    return any(event.alert == alert for line in evidence.lines for event in line)


def _is_as_expected(change: Change, event: Event) -> bool:
    alert, answer = event.content["alert"], change.stored
    if any(alert.get(name) != value for name, value in change.expected.items()):
        return False
    if answer is None or answer.status != 201 or change.kind != "alert.created":
        return True
    # After a failover that lost the first, the same alert may be stored again, where a client insisted.
    return (answer.document["id"], answer.document["seq"]) == (event.alert, event.seq)


# What came.


def _check_records(evidence: Evidence) -> Iterator[str]:
    """In the end each client holds what the log has for it, from where it began."""
    for record in evidence.records:
        if record.start is None:
            yield f"{record} was never welcomed"
            continue
        last = max([evidence.head, *(received.seq for received in record.held)])
        held = [(received.seq, received.digest) for received in record.held]
        theirs = _part(evidence.log, record.subscription, record.start, last)
        if missed := [one[0] for one in theirs if one not in set(held)]:
            yield f"{record} misses {len(missed)} events: {missed[:MOST]}"
        if not record.keeps_cursor:
            continue
        if twice := len(held) - len(set(held)):
            yield f"{record} holds {twice} events twice"
        if extra := [one[0] for one in held if one not in set(theirs)]:
            yield f"{record} holds {len(extra)} events that the log lacks: {extra[:MOST]}"
        if held != theirs and set(held) == set(theirs) and not twice:
            yield f"{record} holds its events in another order"


def _part(log: Log, subscription: Any, after: int, last: int) -> list[tuple[int, str]]:
    """Return what a subscription is to receive of a part of a log."""
    return [(event.seq, event.digest) for event in log[after:last] if subscription.sees(event)]


def _check_connections(evidence: Evidence) -> Iterator[str]:
    """Over one connection comes a part of one line of history: in order, without a hole, none twice."""
    for connection in evidence.connections:
        if connection.close not in CLOSES:
            yield f"{connection} was closed"
        received = [(one.seq, one.digest) for one in connection.received]
        if not received:
            continue
        parts = [_part(line, connection.subscription, connection.after, received[-1][0]) for line in evidence.lines]
        if received not in parts:
            expected = parts[-1]
            at = next((i for i, one in enumerate(received) if [one] != expected[i : i + 1]), len(received))
            yield f"{connection} brought after {connection.after}: {received[at : at + 3]} for {expected[at : at + 3]}"
        if any(one.id != event.id for one in connection.received for event in _same(one, evidence.lines)):
            yield f"{connection} brought an event with another id than it has"


def _same(received: Received, lines: list[Log]) -> Iterator[Event]:
    """Yield an event that was received, as each line of history has it."""
    for line in lines:
        event = line.at(received.seq)
        if event is not None and event.digest == received.digest:
            yield event


def _check_resets(evidence: Evidence) -> Iterator[str]:
    """A client is reset only if the log lost what it has, and to a position that the log holds."""
    for connection in evidence.connections:
        if connection.reset is None or connection.reset_at is None:
            continue
        lines = evidence.lines_between(connection.began, connection.reset_at)
        if connection.asked is not None and all(line.holds(connection.asked) for line in lines):
            yield f"{connection} was reset to {connection.reset['after']} without need"
        if not any(line.holds(connection.reset["cursor"]) for line in lines):
            yield f"{connection} was reset to {connection.reset['cursor']}, which the log does not hold"


# What the ledger says.


def _check_ledger(evidence: Evidence) -> Iterator[str]:
    """The ledger claims nothing that a client's record contradicts."""
    known = {connection.agent for connection in evidence.connections}
    yield from (f"nobody made the connection of {agent}" for agent in evidence.agents.values() if agent not in known)
    claims: dict[str, list[Claim]] = defaultdict(list)
    for claim in evidence.claims:
        claims[claim.connection].append(claim)
    for connection in evidence.connections:
        if connection.id is not None:
            own = claims[connection.id]
            complaints = [*_check_sent(connection, own, evidence), *_check_received(connection, own)]
            yield from (f"{connection}, in the ledger: {complaint}" for complaint in complaints)
    for record in evidence.records:
        yield from _check_last(record, claims)
    seen = {(record.subscription.recipient, alert) for record in evidence.records for alert in record.seen}
    if invented := [one for one in evidence.sightings if one not in seen]:
        yield f"{len(invented)} alerts are said to be seen, and nobody said so: {invented[:MOST]}"


def _check_sent(connection: Connection, claims: list[Claim], evidence: Evidence) -> Iterator[str]:
    """What is said to be sent came, or may have been on its way when the client stopped reading."""
    received = {one.seq: one.digest for one in connection.received}
    last = max(received, default=0)
    others, unread = [], []
    for claim in claims:
        event = evidence.log.at(claim.seq)
        if event is None or received.get(claim.seq, event.digest) != event.digest:
            others.append(claim.seq)
        elif claim.seq in received:
            continue
        elif connection.read_to_end or claim.seq < last or _is_newer(event, connection, evidence):
            unread.append(claim.seq)
    if others:
        yield f"{len(others)} events are said to be sent, and it brought others at their seqs: {others[:MOST]}"
    if unread:
        yield f"{len(unread)} events are said to be sent, and it cannot have brought them: {unread[:MOST]}"


def _is_newer(event: Event, connection: Connection, evidence: Evidence) -> bool:
    """Say whether an event is newer than the end of a connection."""
    return evidence.clocks_are_true and connection.ended is not None and event.at > connection.ended


def _check_received(connection: Connection, claims: list[Claim]) -> Iterator[str]:
    """What is said to be received was acknowledged."""
    seqs = [claim.seq for claim in claims if claim.received_at is not None]
    if early := [seq for seq in seqs if seq > connection.acknowledged]:
        yield f"{len(early)} are said to be received, and it acknowledged {connection.acknowledged}: {early[:MOST]}"


def _check_last(record: RecipientRecord, claims: dict[str, list[Claim]]) -> Iterator[str]:
    """The last connection, which the end of its node closed, is in the ledger wholly: sent and received."""
    connection = next((one for one in reversed(record.connections) if one.received), None)
    if connection is None or connection.close != "shutting_down" or not record.is_settled:
        return
    own = {claim.seq: claim for claim in claims[connection.id or ""]}
    if lacking := [one.seq for one in connection.received if one.seq not in own]:
        yield f"{connection}: the ledger lacks {len(lacking)} events that it brought: {lacking[:MOST]}"
    acknowledged = [one.seq for one in connection.received if one.seq <= connection.acknowledged and one.seq in own]
    if lacking := [seq for seq in acknowledged if own[seq].received_at is None]:
        yield f"{connection}: the ledger lacks {len(lacking)} of its receipts: {lacking[:MOST]}"
