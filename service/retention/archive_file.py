"""The archive file: the events of a partition and their links, which can be verified alone.

JSON lines, compressed with gzip::

    {"archive":"tocsin","version":1,"first_seq":1,"last_seq":9999,"previous_hash":"00…"}
    {"seq":1,"id":"9f…","alert_id":"…","kind":"alert.created","topic":"…",…,"body":"{…}","details":null}
    {"link":"5e…","first_seq":1,"last_seq":1,"last_id":"9f…","linked_at":"2026-11-21T09:41:07.123456Z"}

The second line is an event, the third the link that covers the events above it. ``body`` and
``details`` are JSON in a string, because the links cover their exact bytes. Writing
and reading compute each link again from the events, so that what is read is what was appended; the
last hash is the one in ``audit.retention_runs``. At most the digests of one link are in memory.
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
from service.events.body_columns import differing_column
from service.events.hash_chain import digest, event_line, link
from service.events.position import event_id_from_hex, event_id_hex
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

VERSION = 1
_NAME = re.compile(r"events-(\d{15})-(\d{15})\.jsonl\.gz")
_UNREADABLE = (OSError, EOFError, zlib.error, ArithmeticError, ValueError, TypeError, KeyError, AttributeError)
"""What decompressing and decoding may raise; gzip raises ``OSError`` too."""


class ArchivedLink(NamedTuple):
    """A link of the log's chain. The fields are columns of ``log_chain``."""

    last_seq: int
    first_seq: int
    last_id: int
    linked_at: datetime
    hash: bytes


class ArchivedEvent(NamedTuple):
    """An event. The fields are columns of ``events``; ``body`` and ``details`` are JSON text."""

    seq: int
    id: int
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
        return digest(event_line(self.id, self.kind, self.occurred_at, self.actor, self.body.encode(), details=details))

    def differing_column(self) -> str | None:
        """Return a column that disagrees with the body; the event's link covers only the body."""
        body = self.body.encode()
        return differing_column(body, str(self.alert_id), self.topic, self.severity, self.recipients)


class ArchiveHeader(NamedTuple):
    """The events that an archive holds, and the hash that its first link follows."""

    first_seq: int
    last_seq: int
    previous_hash: bytes


def file_name(first_seq: int, last_seq: int) -> str:
    """Return the name of the archive of these events; names sort in the order of the log."""
    return f"events-{first_seq:015}-{last_seq:015}.jsonl.gz"


def find_archives(folder: Path) -> list[tuple[int, int, Path]]:
    """Return the first and last ``seq`` (by its name) and the path of each archive in a folder."""
    named = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return [(int(match[1]), int(match[2]), path) for match, path in named if match]


@dataclass(slots=True)
class _LinkCheck:
    """Checks events and links in the order of the log."""

    hash: bytes
    seq: int
    id: int
    digests: list[bytes]

    def event(self, event: ArchivedEvent) -> None:
        if event.seq != self.seq + 1:
            raise ArchiveDamaged(f"event {event.seq} follows event {self.seq}")
        if column := event.differing_column():
            raise ArchiveDamaged(f"event {event.seq}: its {column} is not what its body says")
        self.seq, self.id = event.seq, event.id
        self.digests.append(event.digest())

    def link(self, found: ArchivedLink) -> None:
        first_seq = self.seq - len(self.digests) + 1
        computed = link(self.hash, first_seq, found.linked_at, self.digests)
        if found != (self.seq, first_seq, self.id, found.linked_at, computed):
            raise ArchiveDamaged(
                f"the link of the chain over the events {found.first_seq} to {found.last_seq} does not fit them"
            )
        self.hash = computed
        self.digests = []


class ArchiveWriter:
    """Writes an archive, and checks every link on the way, so that an altered log is not archived.

    Raises:
        ArchiveDamaged: a link does not fit the events.

    """

    def __init__(self, file: BinaryIO, header: ArchiveHeader) -> None:
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
        self._check = _LinkCheck(header.previous_hash, header.first_seq - 1, 0, [])
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

    def write_event(self, event: ArchivedEvent) -> None:
        """Write the next event."""
        self._check.event(event)
        self._write(
            event._asdict()
            | {
                "id": event_id_hex(event.id),
                "alert_id": str(event.alert_id),
                "occurred_at": rfc3339(event.occurred_at),
            }
        )

    def write_link(self, found: ArchivedLink) -> None:
        """Write the link that covers the events since the last one."""
        self._check.link(found)
        self._write(
            {
                "link": found.hash.hex(),
                "first_seq": found.first_seq,
                "last_seq": found.last_seq,
                "last_id": event_id_hex(found.last_id),
                "linked_at": rfc3339(found.linked_at),
            }
        )

    def finish(self) -> None:
        """Check that nothing is missing."""
        if self._check.seq != self._last_seq or self._check.digests:
            raise ArchiveDamaged(f"the events after {self._check.seq} are missing, up to {self._last_seq}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(line) + b"\n")


class ArchiveReader:
    """Reads and verifies an archive: ``items`` raises at what is wrong."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        with _decoding():
            first = orjson.loads(file.readline())
            if first["archive"] != "tocsin" or first["version"] != VERSION:
                raise ArchiveDamaged("it is of another version")
            self.header = ArchiveHeader(first["first_seq"], first["last_seq"], bytes.fromhex(first["previous_hash"]))
        self._check = _LinkCheck(self.header.previous_hash, self.header.first_seq - 1, 0, [])

    @property
    def last_hash(self) -> bytes:
        """The hash of the last link that was read."""
        return self._check.hash

    def items(self) -> Iterator[ArchivedEvent | ArchivedLink]:
        """Yield each event, and each link after the events that it covers.

        Raises:
            ArchiveDamaged: something was altered, left out, added or cut off.

        """
        with _decoding():
            for line in self._file:
                fields = orjson.loads(line)
                if "link" in fields:
                    self._check.link(found := _link(fields))
                    yield found
                else:
                    self._check.event(event := _event(fields))
                    yield event
            if self._check.seq != self.header.last_seq or self._check.digests:
                raise ArchiveDamaged(f"it ends after event {self._check.seq}, not after {self.header.last_seq}")


@contextmanager
def open_archive(path: Path) -> Iterator[ArchiveReader]:
    """Open an archive.

    Raises:
        ArchiveDamaged: it is not an archive.
        OSError: it cannot be read.

    """
    with gzip.open(path) as file:
        yield ArchiveReader(file)


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise ArchiveDamaged(f"it is no archive of Tocsin, or was damaged ({type(error).__name__})") from error


def _link(fields: dict[str, Any]) -> ArchivedLink:
    return ArchivedLink(
        fields["last_seq"],
        fields["first_seq"],
        event_id_from_hex(fields["last_id"]),
        datetime.fromisoformat(fields["linked_at"]),
        bytes.fromhex(fields["link"]),
    )


def _event(fields: dict[str, Any]) -> ArchivedEvent:
    return ArchivedEvent(
        **fields
        | {
            "id": event_id_from_hex(fields["id"]),
            "alert_id": UUID(fields["alert_id"]),
            "occurred_at": datetime.fromisoformat(fields["occurred_at"]),
        }
    )
