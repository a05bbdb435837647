"""The records of the clients compared with ``audit.deliveries``, row for row.

A node that signed off or still serves has flushed everything, so the ledger must hold all that its clients can prove.
A node that was lost has flushed everything up to some moment, because a flush is one consistent snapshot: up to the
latest time that its ledger names, nothing may be missing. The ledger may never claim what did not happen.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.faults.history import Logged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tests.faults.history import ObservedConnection
    from tests.faults.history_runner import History

LEASE = timedelta(seconds=3)
CHUNK_BYTES = 256 * 1024 + 64 * 1024
"""More than is written to a connection at a time; nothing of a write is claimed before all of it was written."""

DELIVERIES = """
SELECT seq, recipient, connection::text, node::text, sent_at, received_at FROM audit.deliveries ORDER BY connection, seq
"""
EVENTS = "SELECT seq, topic, severity::text, recipients, occurred_at, octet_length(body::text) FROM events ORDER BY seq"
CONNECTIONS = """
SELECT c.id::text, c.node_id::text AS node, c.recipient, c.transport, c.user_agent, c.after_seq, c.opened_at,
       c.closed_at, c.close_reason, n.pid
FROM connections c JOIN nodes n ON n.id = c.node_id
"""
NODES = "SELECT id::text, pid, seen_at, ended_at FROM nodes"


class Case(NamedTuple):
    """One connection: what its client says, and what the ledger does."""

    observed: ObservedConnection
    matching: list[Logged]
    row: Any
    claims: list[Any]
    known: datetime | None
    """None: its node wrote everything; otherwise up to when it certainly did."""

    def must_know(self, at: datetime) -> bool:
        """Say whether the ledger has to hold what had happened by then."""
        return self.known is None or at <= self.known


async def complaints_of(history: History) -> list[str]:
    """Return everything in which the ledger and the records of a history disagree."""
    log = [Logged(*row) for row in await history.sql(EVENTS)]
    rows = await history.sql(DELIVERIES)
    connections = await history.sql(CONNECTIONS)
    nodes = await history.sql(NODES)
    found = list(_of_the_log(history, log))
    found += _of_nodes(history, nodes, connections)
    found += _of_resuming_clients(history, log)
    claims: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        claims[row["connection"]].append(row)
    by_agent = {row["user_agent"]: row for row in connections}
    written = _written_until(rows, connections)
    known_ids = {row["id"] for row in connections}
    if len(by_agent) != len(connections) or claims.keys() - known_ids:
        found.append("the ledger has connections that nobody made")
    agents = {observed.agent for observed in history.connections}
    found += [f"nobody made {dict(row)}" for agent, row in by_agent.items() if agent not in agents]
    lost = {node["id"] for node in nodes if _was_lost(node)}
    posted = {one.seq: one.at for one in history.posted}
    for observed in history.connections:
        row = by_agent.get(observed.agent)
        if row is None:
            found += _of_the_unknown(history, observed, nodes, written)
            continue
        matching = [event for event in log if event.seq > row["after_seq"] and observed.subscription.sees(event)]
        known = written.get(row["node"], row["opened_at"]) if row["node"] in lost else None
        case = Case(observed, matching, row, claims[row["id"]], known)
        for check in (_same_connection, _received, _claimed, _complete, _times, _receipts):
            found += [f"{observed}, {row['close_reason']}: {complaint}" for complaint in check(case, history)]
        found += [
            f"{observed}: {claim['seq']} was sent before it was posted"
            for claim in case.claims
            if claim["seq"] in posted and claim["sent_at"] is not None and claim["sent_at"] < posted[claim["seq"]]
        ]
    return found


def _was_lost(node: Any) -> bool:
    """Say whether a node was declared lost by another: one that signs off does so in the moment that it is seen."""
    return node["ended_at"] is not None and node["ended_at"] - node["seen_at"] > LEASE / 2


def _written_until(rows: list[Any], connections: list[Any]) -> dict[str, datetime]:
    """Return the latest time of a fact of each node's own: when it was flushed, everything older was."""
    facts = [(row["node"], row["sent_at"]) for row in rows if row["sent_at"] is not None]
    facts += [(row["node"], row["opened_at"]) for row in connections]
    facts += [(row["node"], row["closed_at"]) for row in connections if row["close_reason"] != "node_lost"]
    latest: dict[str, datetime] = {}
    for node, at in facts:
        if at is not None:
            latest[node] = max(at, latest.get(node, at))
    return latest


def _of_the_log(history: History, log: list[Logged]) -> Iterator[str]:
    if [event.seq for event in log] != list(range(1, len(log) + 1)):
        yield "the log has gaps"
    events = {event.seq: event for event in log}
    for seq, alert, _at in history.posted:
        event = events.get(seq)
        expected = (alert["topic"], alert["severity"], alert["recipients"])
        if event is None or (event.topic, event.severity, event.recipients) != expected:
            yield f"{seq} was answered as stored, and the log has {event}"
    for seq in history.frames.different:
        yield f"{seq} came with other bytes than before"


def _of_nodes(history: History, nodes: list[Any], connections: list[Any]) -> Iterator[str]:
    """Only a node that was killed or frozen is lost."""
    may_be_lost = history.killed.keys() | history.paused | history.stalled()
    lost = {node["id"] for node in nodes if _was_lost(node)}
    for row in connections:
        if row["closed_at"] is None:
            yield f"a connection was never closed: {dict(row)}"
        if row["close_reason"] == "node_lost" and row["node"] not in lost:
            yield f"its node was not lost: {dict(row)}"
    for node in nodes:
        if _was_lost(node) and node["pid"] not in may_be_lost:
            yield f"the node of {node['pid']} was not lost, and yet declared so"
        if node["ended_at"] is None:
            yield f"the node of {node['pid']} was never settled"


def _of_resuming_clients(history: History, log: list[Logged]) -> Iterator[str]:
    """A client that resumes from its own cursor misses nothing, whatever happens to the nodes."""
    for client in history.clients:
        welcomed = [observed for observed in client.connections if observed.welcomed is not None]
        if not client.resuming or not welcomed:
            continue
        first = min(welcomed, key=lambda observed: observed.began).after
        had = {seq for observed in welcomed for seq in observed.seqs}
        theirs = [event.seq for event in log if first < event.seq <= history.head and client.subscription.sees(event)]
        missed = [seq for seq in theirs if seq not in had]
        if missed:
            yield f"{client.subscription.recipient} ({client.transport}) missed {missed[:10]} after {first}"


def _of_the_unknown(
    history: History, observed: ObservedConnection, nodes: list[Any], written: dict[str, datetime]
) -> Iterator[str]:
    """A connection that was welcomed is in the ledger, unless its node was lost before the next flush."""
    if observed.welcomed is None:
        return
    times = [written.get(node["id"]) for node in nodes if node["pid"] == observed.pid]
    may_be_lost = observed.pid in history.killed.keys() | history.paused | history.stalled()
    if not may_be_lost or not any(at is None or at < observed.welcomed for at in times):
        yield f"{observed} of {observed.pid}, welcomed {observed.welcomed}, is not in the ledger, written until {times}"


def _same_connection(case: Case, _history: History) -> Iterator[str]:
    observed, row = case.observed, case.row
    if observed.id is not None and (observed.id, observed.after) != (row["id"], row["after_seq"]):
        yield f"it was welcomed after {observed.after}, the ledger has {dict(row)}"
    if (observed.subscription.recipient, observed.transport) != (row["recipient"], row["transport"]):
        yield f"the ledger has {dict(row)}"
    if isinstance(observed.asked, int) and row["after_seq"] != observed.asked:
        yield f"it asked for what comes after {observed.asked}, and began after {row['after_seq']}"
    if any(claim["recipient"] != observed.subscription.recipient for claim in case.claims):
        yield "its deliveries are another's"


def _received(case: Case, _history: History) -> Iterator[str]:
    """What came is all that matches from the start on, in order, each once."""
    expected = [event.seq for event in case.matching[: len(case.observed.seqs)]]
    if case.observed.seqs != expected:
        at = next(
            (i for i, both in enumerate(zip(case.observed.seqs, expected, strict=False)) if both[0] != both[1]), -1
        )
        yield f"received {case.observed.seqs[at : at + 5]} for {expected[at : at + 5]}, of {len(expected)}"


def _claimed(case: Case, history: History) -> Iterator[str]:
    """What is claimed matches, without a hole, and was received, or may have waited where it was never read."""
    claimed = [claim["seq"] for claim in case.claims]
    if claimed != [event.seq for event in case.matching[: len(claimed)]]:
        yield f"claimed {claimed[-5:]} ({len(claimed)}) of {[event.seq for event in case.matching[:5]]} …"
        return
    unread = list(zip(case.matching, case.claims, strict=False))[len(case.observed.seqs) :]
    surely = [event for event, claim in unread if not _may_be_unread(case.observed, event, claim["sent_at"])]
    size = sum(history.frames.size(event) for event in surely)
    room = sum(one.size for one in case.observed.unread)
    if size > room:
        seqs = [event.seq for event in surely]
        yield f"claims {seqs[:10]} ({len(seqs)}) were not received: {size} bytes, at most {room} were unread"


def _may_be_unread(observed: ObservedConnection, event: Logged, sent_at: datetime | None) -> bool:
    """Say whether it was written while nobody read any more, in the moment before the end."""
    return sent_at is not None and any(
        sent_at >= one.since and event.occurred_at <= one.until for one in observed.unread
    )


def _complete(case: Case, history: History) -> Iterator[str]:
    """What was proved to be sent is claimed; of a node that wrote everything, all but what was being written last."""
    last = case.claims[-1]["seq"] if case.claims else case.row["after_seq"]
    proved = max((proof.seq for proof in case.observed.proofs if case.must_know(proof.at)), default=0)
    if last < proved:
        yield f"it was sent {proved}, the ledger knows of {last} (written until {case.known})"
    tail = case.matching[len(case.claims) : len(case.observed.seqs)]
    if case.known is None and sum(history.frames.size(event) for event in tail) > CHUNK_BYTES:
        yield f"{[event.seq for event in tail][:10]} ({len(tail)}) were received and are not claimed"


def _times(case: Case, _history: History) -> Iterator[str]:
    """What is sent is sent after it happened, in order, before what was written after it came."""
    occurred = {event.seq: event.occurred_at for event in case.matching}
    proofs = iter(sorted(case.observed.proofs))
    proof = next(proofs, None)
    for claim in case.claims:
        seq, sent, received = claim["seq"], claim["sent_at"], claim["received_at"]
        if sent is None:
            yield f"{seq} was sent, and it is not known when"
            return
        if sent < max(occurred[seq], case.observed.began):
            yield f"{seq} was sent at {sent}, too early"
        while proof is not None and proof.seq < seq:
            proof = next(proofs, None)
        if proof is not None and sent > proof.at:
            yield f"{seq} was sent at {sent}, and what was written after it came at {proof.at}"
        if received is not None and received < sent:
            yield f"{seq} was received at {received}, before it was sent at {sent}"
        if case.row["closed_at"] is not None and sent > case.row["closed_at"]:
            yield f"{seq} was sent at {sent}, after the end"
    for one, other in pairwise(case.claims):
        if other["sent_at"] < one["sent_at"]:
            yield f"{other['seq']} was sent at {other['sent_at']}, before {one['seq']}"


def _receipts(case: Case, _history: History) -> Iterator[str]:
    """What is received was acknowledged before; an acknowledgement that the service confirmed is a receipt."""
    acks = case.observed.acks
    for claim in case.claims:
        received = claim["received_at"]
        if received is not None and not any(ack.seq >= claim["seq"] and ack.at <= received for ack in acks):
            yield f"{claim['seq']} was received at {received}, and the client did not say so"
    confirmed = (
        ack for ack in acks if ack.confirmed_at is not None and (ack.stored or case.must_know(ack.confirmed_at))
    )
    sure = max((min(ack.counts, ack.seq) for ack in confirmed), default=0)
    received_seqs = {claim["seq"] for claim in case.claims if claim["received_at"] is not None}
    missing = [event.seq for event in case.matching if event.seq <= sure and event.seq not in received_seqs]
    if missing:
        yield f"{missing[:10]} ({len(missing)}) were acknowledged up to {sure}, and the ledger does not say so"
