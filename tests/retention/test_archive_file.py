from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from service.errors import ArchiveDamaged
from service.events.hash_chain import NO_HASH, link
from service.retention.archive_file import (
    ArchivedEvent,
    ArchivedLink,
    ArchiveHeader,
    ArchiveWriter,
    file_name,
    find_archives,
    open_archive,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.unit

AT = datetime(2026, 11, 21, 9, 41, 7, 123456, UTC)
FIRST, LAST = 100, 111
LINK_SIZE = 4


def event(seq: int, details: str | None = None, recipients: list[str] | None = None) -> ArchivedEvent:
    body = {
        "id": str(UUID(int=seq)),
        "topic": "default",
        "severity": "info",
        "recipients": recipients,
        "title": 'It happened: "Ümläute" \\ \u2028',
    }
    return ArchivedEvent(
        seq=seq,
        id=-seq,
        alert_id=UUID(int=seq),
        kind="alert.created",
        topic="default",
        severity="info",
        recipients=recipients,
        actor="billing",
        occurred_at=AT,
        body=json.dumps(body, ensure_ascii=False),
        details=details,
    )


def items(events: Sequence[ArchivedEvent], previous: bytes = NO_HASH) -> list[ArchivedEvent | ArchivedLink]:
    """Return the events, and a link after every four."""
    whole: list[ArchivedEvent | ArchivedLink] = []
    for start in range(0, len(events), LINK_SIZE):
        batch = events[start : start + LINK_SIZE]
        at = AT + timedelta(microseconds=start)
        previous = link(previous, batch[0].seq, at, [one.digest() for one in batch])
        whole += [*batch, ArchivedLink(batch[-1].seq, batch[0].seq, batch[-1].id, at, previous)]
    return whole


EVENTS = [
    event(FIRST),
    event(FIRST + 1, recipients=["bob", "alice"]),
    event(FIRST + 2, '{"comment": {"text": "I have \\"it\\"\\n"}}'),
    *(event(seq) for seq in range(FIRST + 3, LAST + 1)),
]
ITEMS = items(EVENTS)


def written(content: Sequence[ArchivedEvent | ArchivedLink], previous: bytes = NO_HASH) -> bytes:
    file = io.BytesIO()
    with ArchiveWriter(file, ArchiveHeader(FIRST, LAST, previous)) as writer:
        for one in content:
            if isinstance(one, ArchivedEvent):
                writer.write_event(one)
            else:
                writer.write_link(one)
        writer.finish()
    return file.getvalue()


def read(path: Path) -> list[ArchivedEvent | ArchivedLink]:
    with open_archive(path) as archive:
        return list(archive.items())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / file_name(FIRST, LAST)


def test_what_was_written_is_read(path: Path) -> None:
    path.write_bytes(written(ITEMS))
    with open_archive(path) as archive:
        assert list(archive.items()) == ITEMS
        assert archive.header == ArchiveHeader(FIRST, LAST, NO_HASH)
        assert [archive.last_hash] == [one.hash for one in ITEMS[-1:] if isinstance(one, ArchivedLink)]


def test_an_archive_is_the_same_each_time() -> None:
    assert written(ITEMS) == written(ITEMS)


def test_archives_are_found_by_their_names_in_the_order_of_the_log(tmp_path: Path) -> None:
    for name in (file_name(10_000, 19_999), file_name(1, 9_999), "notes.txt", f".{file_name(1, 9_999)}.tmp"):
        (tmp_path / name).touch()
    assert [(first, last) for first, last, _ in find_archives(tmp_path)] == [(1, 9_999), (10_000, 19_999)]


# The writer.


@pytest.mark.parametrize(
    ("number", "altered"),
    [
        (0, {"topic": "shop"}),
        (0, {"severity": "critical"}),
        (1, {"recipients": ["carol"]}),
        (0, {"alert_id": UUID(int=1)}),
        (0, {"actor": "mallory"}),
        (0, {"body": "[5]"}),
        (0, {"kind": "alert.resolved"}),
        (0, {"occurred_at": AT + timedelta(microseconds=1)}),
        (2, {"details": None}),
        (0, {"seq": FIRST + 1}),
    ],
)
def test_an_altered_event_is_not_written(number: int, altered: dict[str, Any]) -> None:
    content = [*ITEMS[:number], EVENTS[number]._replace(**altered), *ITEMS[number + 1 :]]
    with pytest.raises(ArchiveDamaged):
        written(content)


@pytest.mark.parametrize("left_out", [0, LINK_SIZE, len(ITEMS) - 2, len(ITEMS) - 1])
def test_an_archive_from_which_something_is_missing_is_not_written(left_out: int) -> None:
    with pytest.raises(ArchiveDamaged):
        written(ITEMS[:left_out] + ITEMS[left_out + 1 :])


def test_an_archive_that_follows_another_hash_is_not_written() -> None:
    with pytest.raises(ArchiveDamaged):
        written(ITEMS, b"1" * 32)


# The reader.

LINES = gzip.decompress(written(ITEMS)).splitlines(keepends=True)
LINKS = [number for number, line in enumerate(LINES) if line.startswith(b'{"link"')]
A, B, LAST_LINE = 1, 2, LINKS[-1] - 1


def changed(number: int, old: bytes, new: bytes) -> bytes:
    assert old in LINES[number]
    return b"".join([*LINES[:number], LINES[number].replace(old, new, 1), *LINES[number + 1 :]])


DAMAGED = {
    "a title": changed(LAST_LINE, b"It happened", b"It happenes"),
    "a time": changed(LAST_LINE, b"41:07.123456", b"41:07.123457"),
    "a topic": changed(LAST_LINE, b'"topic":"default"', b'"topic":"defaults"'),
    "the recipients": changed(LAST_LINE, b'"recipients":null', b'"recipients":["bob"]'),
    "an actor": changed(LAST_LINE, b'"actor":"billing"', b'"actor":"nobody_"'),
    "a comment": changed(3, b"I have", b"I had "),
    "two in another order": b"".join([*LINES[:A], LINES[B], LINES[A], *LINES[B + 1 :]]),
    "one left out": b"".join([*LINES[:A], *LINES[B:]]),
    "one twice": b"".join([*LINES[:B], LINES[A], *LINES[B:]]),
    "the time of a link": changed(LINKS[-1], b'"linked_at":"2', b'"linked_at":"1'),
    "the beginning of a link": changed(LINKS[-1], b'"first_seq":108', b'"first_seq":107'),
    "a link left out": b"".join([*LINES[: LINKS[0]], *LINES[LINKS[0] + 1 :]]),
    "the last link": b"".join(LINES[: LINKS[-1]]),
    "cut off": b"".join(LINES[: LINKS[0] + 1]),
    "the hash before it": changed(0, b'"previous_hash":"00', b'"previous_hash":"01'),
    "fewer events than there are": changed(0, b'"last_seq":111', b'"last_seq":110'),
    "another version": changed(0, b'"version":1', b'"version":2'),
    "no JSON": changed(LAST_LINE, b"{", b""),
    "a member": changed(LAST_LINE, b'"kind"', b'"kine"'),
    "nothing": b"",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_whatever_is_changed_in_an_archive_is_found(path: Path, what: str) -> None:
    path.write_bytes(gzip.compress(DAMAGED[what]))
    with pytest.raises(ArchiveDamaged):
        read(path)


def test_a_flipped_byte_or_a_cut_of_the_file_is_found(path: Path) -> None:
    whole = written(ITEMS)
    for place in (0, 11, len(whole) // 3, len(whole) // 2, len(whole) - 6):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArchiveDamaged):
            read(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArchiveDamaged):
        read(path)
