"""The judge of the trials finds each kind of lie, and none where there is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.trials.judge import Claim, Evidence, judge
from tests.faults.trials.records import (
    Answer,
    Change,
    Connection,
    Event,
    Log,
    LostLine,
    Received,
    RecipientRecord,
    Subscription,
    digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit(process=True)

BEGAN = datetime(2026, 11, 30, tzinfo=UTC)
ALICE = Subscription("alice")
AGENT = "trial/alice/0"


def event(seq: int, title: str = "") -> Event:
    alert = {"title": title or f"alert {seq}"}
    kind = "alert.created"
    content = {"kind": kind, "alert": alert}
    proof, at = digest(content), BEGAN + timedelta(seconds=seq)
    return Event(seq, proof, proof, kind, str(seq), "search", "info", None, at, content)


def received(one: Event) -> Received:
    return Received(one.seq, one.id, one.digest)


def posted(one: Event) -> Change:
    title = one.content["alert"]["title"]
    answer = Answer(201, {"id": one.alert, "seq": one.seq})
    return Change(title, "alert.created", {"title": title}, answers=[answer])


def honest() -> Evidence:
    """Four alerts; the only client received them all over a connection that its node closed in the end."""
    log = Log(event(seq) for seq in range(1, 5))
    connection = Connection(AGENT, ALICE, "websocket", "0", "0", BEGAN, "the connection")
    connection.received = [received(one) for one in log]
    connection.acknowledged, connection.close, connection.read_to_end = 4, "shutting_down", True
    connection.ended = BEGAN + timedelta(seconds=9)
    record = RecipientRecord(ALICE, "websocket", 0, [connection], list(connection.received), is_settled=True)
    claims = [Claim(one.seq, "the connection", one.at, one.at) for one in log]
    return Evidence(log, 4, [posted(one) for one in log], [record], claims, {"the connection": AGENT})


def lost(seq: int, *, may_lose_answered: bool = True) -> Callable[[Evidence], None]:
    """A failover lost what the log had from ``seq`` on; afterwards other events were stored there."""

    def lose(evidence: Evidence) -> None:
        line = LostLine(Log(evidence.log), BEGAN + timedelta(seconds=20), may_lose_answered)
        evidence.lost_lines.append(line)
        evidence.log[seq - 1 :] = [event(one.seq, f"later {one.seq}") for one in evidence.log[seq - 1 :]]
        evidence.changes += [posted(one) for one in evidence.log[seq - 1 :]]

    return lose


def reset(evidence: Evidence, after: int) -> None:
    """The client came back after the failover, and was sent a reset."""
    begin = evidence.log.at(after)
    assert begin is not None
    had = evidence.connections[0].received[-1]
    cursor = f"{had.seq}-{had.id[:8]}"
    later = Connection("trial/alice/1", ALICE, "websocket", cursor, cursor, BEGAN + timedelta(seconds=30))
    later.id, later.after, later.reset_at = "another", after, BEGAN + timedelta(seconds=31)
    later.reset = {"type": "reset", "after": after, "cursor": begin.cursor}
    later.received = [received(one) for one in evidence.log[after:]]
    record = evidence.records[0]
    record.connections.append(later)
    record.held = [received(one) for one in evidence.log]
    evidence.claims = [claim for claim in evidence.claims if claim.seq <= after]
    evidence.agents["another"] = later.agent


def the(evidence: Evidence) -> Connection:
    return evidence.connections[0]


def store_twice(evidence: Evidence) -> None:
    evidence.log.append(event(5, "alert 1"))
    evidence.head = 5
    for held in (the(evidence).received, evidence.records[0].held):
        held.append(received(evidence.log[-1]))


def lose_without_leave(evidence: Evidence) -> None:
    lost(4, may_lose_answered=False)(evidence)
    reset(evidence, 3)


def refuse_what_is_stored(evidence: Evidence) -> None:
    evidence.changes[1].answers = [Answer(503, {"code": "database_unavailable"})]


def answer(status: int) -> Callable[[Evidence], None]:
    return lambda evidence: evidence.changes[1].answers.insert(0, Answer(status, {}, "Internal error"))


def change_content(evidence: Evidence) -> None:
    evidence.changes[2].expected["topic"] = "payments"


def keep_what_is_void(evidence: Evidence) -> None:
    lost(3)(evidence)


def reset_without_need(evidence: Evidence) -> None:
    reset(evidence, 3)


def reset_to_nowhere(evidence: Evidence) -> None:
    lost(3)(evidence)
    reset(evidence, 2)
    evidence.connections[1].reset = {"after": 2, "cursor": "2-ffffffff"}


def leave_claims(evidence: Evidence) -> None:
    lost(3)(evidence)
    claims = list(evidence.claims)
    reset(evidence, 2)
    evidence.claims = claims


def drop(seq: int) -> Callable[[Evidence], None]:
    def take_out(evidence: Evidence) -> None:
        for held in (the(evidence).received, evidence.records[0].held):
            del held[seq - 1]

    return take_out


def swap(evidence: Evidence) -> None:
    for held in (the(evidence).received, evidence.records[0].held):
        held[1], held[2] = held[2], held[1]


def repeat(evidence: Evidence) -> None:
    for held in (the(evidence).received, evidence.records[0].held):
        held.insert(2, held[1])


def receive_unacknowledged(evidence: Evidence) -> None:
    the(evidence).acknowledged = 3


def claim_nothing(evidence: Evidence) -> None:
    evidence.claims = evidence.claims[:2]


def keep_no_receipt(evidence: Evidence) -> None:
    evidence.claims = [claim._replace(received_at=None) for claim in evidence.claims]


def claim_after_the_end(evidence: Evidence) -> None:
    """The client left before the last event happened."""
    connection = the(evidence)
    del connection.received[3:]
    connection.close, connection.read_to_end, connection.acknowledged = "", False, 4
    connection.ended = evidence.log[3].at - timedelta(milliseconds=1)


def close_for_a_wrong_reason(evidence: Evidence) -> None:
    the(evidence).close = "token_expired"


def change_an_id(evidence: Evidence) -> None:
    the(evidence).received[1] = the(evidence).received[1]._replace(id="f" * 16)


def tear(evidence: Evidence) -> None:
    del evidence.log[2]


LIES: list[tuple[Callable[[Evidence], Any], str]] = [
    (store_twice, "is stored 2 times"),
    (lose_without_leave, "alert 4 was answered 201 and is not stored"),
    (refuse_what_is_stored, "database_unavailable and is stored"),
    (answer(500), "was answered 500"),
    (change_content, "and is stored as 3"),
    (lambda evidence: evidence.changes.pop(), "nobody asked for it"),
    (keep_what_is_void, "holds 2 events that the log lacks"),
    (reset_without_need, "without need"),
    (reset_to_nowhere, "which the log does not hold"),
    (leave_claims, "it brought others at their seqs: [3, 4]"),
    (drop(3), "misses 1 events: [3]"),
    (drop(3), "it cannot have brought them: [3]"),
    (swap, "in another order"),
    (repeat, "1 events twice"),
    (repeat, "brought after 0"),
    (receive_unacknowledged, "are said to be received"),
    (claim_nothing, "the ledger lacks 2 events"),
    (keep_no_receipt, "the ledger lacks 4 of its receipts"),
    (claim_after_the_end, "it cannot have brought them: [4]"),
    (close_for_a_wrong_reason, "(token_expired) was closed"),
    (change_an_id, "another id"),
    (tear, "the log has gaps"),
    (lambda evidence: evidence.sightings.append(("alice", "1")), "are said to be seen"),
    (lambda evidence: evidence.agents.update(other="curl"), "nobody made the connection of curl"),
]


def test_there_is_nothing_to_say_about_an_honest_trial() -> None:
    assert judge(honest()) == []


@pytest.mark.parametrize(("lie", "complaint"), LIES, ids=[complaint for _, complaint in LIES])
def test_each_lie_is_found(lie: Callable[[Evidence], Any], complaint: str) -> None:
    evidence = honest()
    lie(evidence)
    assert any(complaint in found for found in judge(evidence)), judge(evidence)


def test_a_failover_with_a_reset_is_honest_too() -> None:
    evidence = honest()
    lost(3)(evidence)
    reset(evidence, 2)
    assert judge(evidence) == []


def test_what_was_on_its_way_when_a_client_left_may_be_in_the_ledger() -> None:
    evidence = honest()
    connection = the(evidence)
    del connection.received[3:]
    connection.close, connection.read_to_end = "", False
    another = replace(connection, id="another", after=3, received=[received(evidence.log[3])])
    evidence.records[0].connections.append(another)
    assert judge(evidence) == []


def test_a_client_without_a_cursor_may_be_sent_an_event_twice_but_misses_none() -> None:
    evidence = honest()
    record = evidence.records[0]
    record.keeps_cursor = False
    record.held.append(record.held[2])
    assert judge(evidence) == []
    record.held = record.held[:3]
    assert judge(evidence) == ["alice (websocket) misses 1 events: [4]"]


def test_an_unknown_outcome_may_be_either() -> None:
    evidence = honest()
    evidence.changes[1].answers = [Answer(503, {"code": "outcome_unknown"}), Answer(None, {})]
    evidence.changes.append(Change("another", "alert.created", {}, answers=[Answer(None, {})]))
    assert judge(evidence) == []


def test_the_trials_share_no_code_with_the_service() -> None:
    code = "import sys, tests.faults.trials.trial; print([name for name in sys.modules if name.startswith('service')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
