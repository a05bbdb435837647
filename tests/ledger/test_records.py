from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from service.database.ids import uuid7
from service.events.filter import EventFilter
from service.ledger.records import ConnectionEntry, PendingRecords, Rejection, SubjectName, printable
from service.ledger.tables import connections, recipients, subject_names

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.unit

NODE = uuid7()
AT = datetime(2026, 11, 21, 9, 41, 7, tzinfo=UTC)
ALWAYS, NEVER = 3600.0, 0.0
"""Seconds within which receipts are merged."""


def entry(recipient: str = "alice", **fields: Any) -> ConnectionEntry:
    given = {"after_seq": 0, "sent_seq": None, "token_topics": ("*",), **fields}
    return ConnectionEntry(
        node_id=NODE,
        recipient=recipient,
        transport="websocket",
        filter=EventFilter(),
        remote_addr=None,
        user_agent=None,
        jti=None,
        token_expires_at=AT,
        **given,
    )


def rejection() -> Rejection:
    return Rejection(None, "/v1/ws", "token_missing", None, None, None)


def pending(limit: int = 10) -> PendingRecords:
    return PendingRecords(limit)


def ranges(records: PendingRecords) -> list[tuple[int, int]]:
    return [(dispatch.after_seq, dispatch.up_to_seq) for dispatch in records.dispatches]


# Receipts.


def test_receipts_that_follow_closely_are_one_with_the_time_of_the_last() -> None:
    records, alice = pending(), entry()
    records.add_receipt(alice, 3, ALWAYS)
    first = alice.receipt
    assert first is not None
    first.received_at = AT
    records.add_receipt(alice, 5, ALWAYS)
    assert [(receipt.seq, receipt.received_at > AT) for receipt in records.receipts] == [(5, True)]


def test_receipts_that_do_not_follow_closely_stay_apart() -> None:
    records, alice = pending(), entry()
    for seq in (3, 5):
        records.add_receipt(alice, seq, NEVER)
    assert [receipt.seq for receipt in records.receipts] == [3, 5]


def test_receipts_of_two_connections_stay_apart() -> None:
    records = pending()
    for seq, one in ((3, entry()), (5, entry("bob"))):
        records.add_receipt(one, seq, ALWAYS)
    assert [receipt.seq for receipt in records.receipts] == [3, 5]


def test_a_receipt_that_is_being_written_is_not_changed_any_more() -> None:
    written, later, alice = pending(), pending(), entry()
    written.add_receipt(alice, 3, ALWAYS)
    written.freeze()
    later.add_receipt(alice, 5, ALWAYS)
    assert [receipt.seq for receipt in (*written.receipts, *later.receipts)] == [3, 5]


# Limits.


def test_dispatches_beyond_the_limit_are_merged_into_the_last_one() -> None:
    records = pending(3)
    for seq in range(6):
        records.add_dispatch(NODE, seq, seq + 1)
    assert ranges(records) == [(0, 1), (1, 2), (2, 6)]


def test_a_merged_dispatch_has_the_time_of_the_last_pass() -> None:
    records = pending(1)
    records.add_dispatch(NODE, 0, 1)
    records.dispatches[0].at = AT
    records.add_dispatch(NODE, 1, 2)
    assert records.dispatches[0].at > AT


def test_rejections_beyond_the_limit_are_dropped() -> None:
    records = pending(2)
    for _ in range(3):
        records.add_rejection(rejection())
    assert (len(records.rejections), records.is_full) == (2, False)


def test_what_waits_counts_towards_the_limit_but_for_rejections_which_anybody_can_cause() -> None:
    records = pending(4)
    records.changed.add(entry())
    records.add_receipt(entry(), 1, NEVER)
    records.add_dispatch(NODE, 0, 1)
    assert (len(records), records.is_full) == (3, False)
    records.add_rejection(rejection())
    assert (len(records), records.is_full) == (4, False)
    records.changed.add(entry())
    assert (len(records), records.is_full) == (5, True)


# Putting back.


def test_records_that_are_put_back_come_before_the_later_ones() -> None:
    older, later, alice, bob = pending(), pending(), entry(), entry("bob")
    for records, seq, one in ((older, 1, alice), (later, 2, bob)):
        records.changed.add(one)
        records.add_receipt(one, seq, NEVER)
        records.add_dispatch(NODE, seq - 1, seq)
        records.add_rejection(rejection())
    older.presence_changed = True
    expected = [*older.rejections, *later.rejections]
    later.put_back(older)
    assert ranges(later) == [(0, 1), (1, 2)]
    assert [receipt.seq for receipt in later.receipts] == [1, 2]
    assert later.rejections == expected
    assert later.changed == later.confirmed == {alice, bob}
    assert later.presence_changed


# Another history of the log.


def test_records_are_cut_at_the_last_position_in_common() -> None:
    records = pending()
    before, across, after = (
        entry(name, after_seq=after_seq, sent_seq=sent_seq, received_seq=received_seq, closed_at=AT)
        for name, after_seq, sent_seq, received_seq in (("a", 1, 4, 3), ("b", 3, 9, 8), ("c", 7, 9, 9))
    )
    records.changed |= {before, across, after}
    for after_seq, up_to_seq in ((2, 5), (5, 8), (6, 9)):
        records.add_dispatch(NODE, after_seq, up_to_seq)
    for one, seq in ((before, 3), (across, 8), (after, 9)):
        records.add_receipt(one, seq, NEVER)
    records.cut(6)
    ranges_of = [(one.after_seq, one.sent_seq, one.received_seq) for one in (before, across, after)]
    assert ranges_of == [(1, 4, 3), (3, 6, 6), (6, 6, 6)]
    assert ranges(records) == [(2, 5), (5, 6)]
    assert [receipt.seq for receipt in records.receipts] == [3, 6, 6]


# Rows.


def test_only_a_closed_connection_is_final() -> None:
    records, is_open, closed = pending(), entry(), entry("bob", closed_at=AT, close_code=1000)
    records.changed |= {is_open, closed}
    assert [row["id"] for row in records.rows()["connections"]] == [is_open.id]
    assert [row["id"] for row in records.final_rows()["closings"]] == [closed.id]


def columns(rows: Sequence[dict[str, Any]]) -> set[str]:
    return {name for row in rows for name in row}


def test_rows_have_the_names_of_the_columns() -> None:
    records = pending()
    records.changed.add(entry())
    rows = records.rows()
    assert columns(rows["connections"]) == set(connections.c.keys()) - {"ledger_link_id"}
    assert columns(rows["recipients"]) == set(recipients.c.keys())


def test_a_recipient_is_one_row_with_the_newest_token() -> None:
    records = pending()
    for hour, topic in enumerate("abc"):
        records.changed.add(entry(token_topics=(topic,), opened_at=AT + timedelta(hours=hour)))
    records.confirmed.add(entry("bob"))
    rows = records.rows()["recipients"]
    assert [(row["id"], row["topics"]) for row in rows] == [("alice", ("c",)), ("bob", ("*",))]


def test_the_token_of_the_last_opening_counts_though_the_clock_was_set_back() -> None:
    records = pending()
    for hour, topic in ((1, "a"), (0, "b")):
        one = entry(token_topics=(topic,), opened_at=AT + timedelta(hours=hour))
        records.opened.append(one)
        records.changed.add(one)
    [row] = records.rows()["recipients"]
    assert (row["topics"], row["topics_at"]) == (("b",), AT)


def test_recipients_are_sorted_so_that_flushes_cannot_deadlock() -> None:
    records = pending()
    names = ["dave", "alice", "carol", "bob"]
    records.changed |= {entry(name) for name in names}
    assert [row["id"] for row in records.rows()["recipients"]] == sorted(names)


def test_names_are_one_row_each_and_bounded_without_keeping_streams_away() -> None:
    older, records = pending(), pending()
    for name, issued_at in (("Alice", AT), ("Alice Liddell", AT), ("Alice Maiden", AT - timedelta(seconds=1))):
        older.add_name(SubjectName("alice", name, issued_at))
    records.add_name(SubjectName("bob", "Bob", AT))
    records.add_name(SubjectName("alice", "Al", AT - timedelta(seconds=2)))
    records.put_back(older)
    assert [(row.subject, row.name) for row in records.rows()["subject_names"]] == [
        ("alice", "Alice Liddell"),
        ("bob", "Bob"),
    ]
    assert columns([asdict(row) for row in records.rows()["subject_names"]]) == set(subject_names.c.keys())
    small = PendingRecords(1)
    small.add_name(SubjectName("alice", "Alice", AT))
    small.add_name(SubjectName("bob", "Bob", AT))
    small.add_name(SubjectName("alice", "Al", AT))
    assert (len(small), small.is_full, small.names["alice"].name) == (1, False, "Al")


@pytest.mark.parametrize(
    ("text", "stored"), [(None, None), ("curl/8", "curl/8"), ("a\0b\nc\x1b[31m", "abc[31m"), ("x" * 400, "x" * 300)]
)
def test_what_a_client_says_of_itself_is_stored_printable_and_bounded(text: str | None, stored: str | None) -> None:
    assert printable(text) == stored
