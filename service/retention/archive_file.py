"""An archive: the events of a partition and the links over them, in one compressed file that proves itself.

JSON lines, compressed with gzip::

    {"archive":"tocsin","version":1,"first_seq":1,"last_seq":9999,"previous_hash":"00…"}
    {"seq":1,"alert_id":"…","kind":"alert.created","topic":"…",…,"body":"{…}","details":null}      an event
    {"link":"9f…","first_seq":1,"last_seq":1,"linked_at":"2026-11-21T09:41:07.123456Z"}       the link over those above

``body`` and ``details`` are JSON in a string, so that they stay as they are to the byte, as the links need them.
Reading an archive computes each link again from the events, so that what it yields is what was appended: the last hash
is that of ``audit.retention_runs``. Nothing here holds more than the events of one link's digests in memory.
"""

from __future__ import annotations

import gzip
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

import orjson

from service.errors import ArchiveDamaged
from service.events.hash_chain import digest, event_line, link
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

VERSION = 1
_NAME = re.compile(r"events-(\d{15})-(\d{15})\.jsonl\.gz")
_UNREADABLE = (OSError, EOFError, zlib.error, ArithmeticError, ValueError, TypeError, KeyError, AttributeError)
"""What decompressing and decoding may raise; ``OSError`` is also that of a file that cannot be read."""


class Link(NamedTuple):
    """A link of the log's chain."""

    last_seq: int
    first_seq: int
    linked_at: datetime
    hash: bytes


class Row(NamedTuple):
    """An event as the table ``events`` holds it; ``body`` and ``details`` are JSON text."""

    seq: int
    alert_id: UUID
    kind: str
    topic: str
    severity: str
    recipients: list[str] | None
    actor: str
    occurred_at: datetime
    body: str
    details: str | None

    def digest(self) -> bytes:
        """Return the digest that the event's link covers."""
        details = self.details.encode() if self.details is not None else None
        return digest(event_line(self.kind, self.occurred_at, self.actor, self.body.encode(), details))

    def is_as_shown(self) -> bool:
        """Say whether the columns that its link does not cover are as in the body, which it covers."""
        alert = orjson.loads(self.body)
        recipients = set(self.recipients) if self.recipients is not None else None
        shown = set(alert["recipients"]) if alert["recipients"] is not None else None
        return (str(self.alert_id), self.topic, self.severity, recipients) == (
            alert["id"],
            alert["topic"],
            alert["severity"],
            shown,
        )


class Header(NamedTuple):
    """What an archive holds, and the hash that its first link follows."""

    first_seq: int
    last_seq: int
    previous_hash: bytes


def file_name(first_seq: int, last_seq: int) -> str:
    """Return the name of the archive of these events; names sort in the order of the log."""
    return f"events-{first_seq:015}-{last_seq:015}.jsonl.gz"


def find_archives(folder: Path) -> list[tuple[int, int, Path]]:
    """Return the archives in a folder: the first and the last ``seq`` of each, by its name, and its path."""
    named = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return [(int(match[1]), int(match[2]), path) for match, path in named if match]


@dataclass(slots=True)
class _Chain:
    """Follows the links over events, one by one."""

    hash: bytes
    seq: int
    digests: list[bytes]

    def event(self, row: Row) -> None:
        if row.seq != self.seq + 1:
            raise ArchiveDamaged(f"event {row.seq} follows event {self.seq}")
        if not row.is_as_shown():
            raise ArchiveDamaged(f"event {row.seq} is stored with another topic, severity or recipients than it has")
        self.seq = row.seq
        self.digests.append(row.digest())

    def close(self, found: Link) -> None:
        first_seq = self.seq - len(self.digests) + 1
        computed = link(self.hash, first_seq, found.linked_at, self.digests)
        if (found.first_seq, found.last_seq, found.hash) != (first_seq, self.seq, computed):
            raise ArchiveDamaged(
                f"the link of the chain over the events {found.first_seq} to {found.last_seq} does not fit them"
            )
        self.hash = computed
        self.digests = []


class ArchiveWriter:
    """Writes an archive. It checks every link as it goes: what was altered is not archived as if it were the log.

    Raises:
        ArchiveDamaged: a link does not fit the events.

    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
        self._chain = _Chain(header.previous_hash, header.first_seq - 1, [])
        self._last_seq = header.last_seq
        self._write(
            {
                "archive": "tocsin",
                "version": VERSION,
                "first_seq": header.first_seq,
                "last_seq": header.last_seq,
                "previous_hash": header.previous_hash.hex(),
            }
        )

    def event(self, row: Row) -> None:
        """Write the next event."""
        self._chain.event(row)
        self._write(row._asdict() | {"alert_id": str(row.alert_id), "occurred_at": rfc3339(row.occurred_at)})

    def link(self, found: Link) -> None:
        """Write the link over the events since the last one."""
        self._chain.close(found)
        self._write(
            {
                "link": found.hash.hex(),
                "first_seq": found.first_seq,
                "last_seq": found.last_seq,
                "linked_at": rfc3339(found.linked_at),
            }
        )

    def finish(self) -> None:
        """Make sure that nothing is missing."""
        if self._chain.seq != self._last_seq or self._chain.digests:
            raise ArchiveDamaged(f"the events after {self._chain.seq} are missing, up to {self._last_seq}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(line) + b"\n")


class ArchiveReader:
    """Reads an archive, and proves it on the way: ``items`` raises where it does not fit, at the latest at its end."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        with _damage():
            first = orjson.loads(file.readline())
            if first["archive"] != "tocsin" or first["version"] != VERSION:
                raise ArchiveDamaged("it is of another version")
            self.header = Header(first["first_seq"], first["last_seq"], bytes.fromhex(first["previous_hash"]))
        self._chain = _Chain(self.header.previous_hash, self.header.first_seq - 1, [])

    @property
    def last_hash(self) -> bytes:
        """The hash of the last link that was read."""
        return self._chain.hash

    def items(self) -> Iterator[Row | Link]:
        """Yield each event, and each link after the events that it covers.

        Raises:
            ArchiveDamaged: something was altered, left out, added or cut off.

        """
        with _damage():
            for line in self._file:
                fields = orjson.loads(line)
                if "link" in fields:
                    self._chain.close(found := _link(fields))
                    yield found
                else:
                    self._chain.event(row := _row(fields))
                    yield row
            if self._chain.seq != self.header.last_seq or self._chain.digests:
                raise ArchiveDamaged(f"it ends after event {self._chain.seq}, not after {self.header.last_seq}")


@contextmanager
def read_archive(path: Path) -> Iterator[ArchiveReader]:
    """Open an archive.

    Raises:
        ArchiveDamaged: it is none.
        OSError: it cannot be read.

    """
    with gzip.open(path) as file:
        yield ArchiveReader(file)


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise ArchiveDamaged(f"it is no archive of Tocsin, or was damaged ({type(error).__name__})") from error


def _link(fields: dict[str, Any]) -> Link:
    at = datetime.fromisoformat(fields["linked_at"])
    return Link(fields["last_seq"], fields["first_seq"], at, bytes.fromhex(fields["link"]))


def _row(fields: dict[str, Any]) -> Row:
    return Row(
        **fields | {"alert_id": UUID(fields["alert_id"]), "occurred_at": datetime.fromisoformat(fields["occurred_at"])}
    )
