"""What clients write down, and the log as plain SQL reads it.

An event is identified by its content: the digest of everything that its frame says about it. Times come from one clock
and err on the safe side: before a send, after a read.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import asyncpg
import jwt

SEVERITIES = ("info", "warning", "error", "critical")
SECRET = "the shared secret of the trials, with more than 32 bytes"
STORED = range(200, 300)

ENVELOPE = ("type", "seq", "cursor", "id")
"""Members of an event's frame that say where it stands, and not what happened."""
EVENTS = "SELECT * FROM events ORDER BY seq"


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def token(subject: str, scope: str) -> str:
    """Mint a token, of a time that a node whose clock is an hour off accepts."""
    at = int(time.time())
    claims = {"iss": "tocsin", "aud": "tocsin", "sub": subject, "scope": scope, "iat": at - 7200, "exp": at + 7200}
    return jwt.encode(claims, SECRET, "HS256")


def digest(content: dict[str, Any]) -> str:
    """Return what identifies an event."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# The log.


class Event(NamedTuple):
    """An event of the log."""

    seq: int
    id: str
    """Its id, in 16 hex digits."""
    digest: str
    kind: str
    alert: str
    topic: str
    severity: str
    recipients: list[str] | None
    at: datetime
    content: dict[str, Any]

    @property
    def cursor(self) -> str:
        """Its position, as a client writes it."""
        return f"{self.seq}-{self.id[:8]}"


class Log(list[Event]):
    """A log, from its first event on."""

    async def read(self, url: str) -> Log:
        """Read it."""
        connection = await asyncpg.connect(url)
        try:
            self[:] = [_event(dict(row)) for row in await connection.fetch(EVENTS)]
        finally:
            await connection.close()
        return self

    def at(self, seq: int) -> Event | None:
        """Return the event at a seq."""
        return self[seq - 1] if 0 < seq <= len(self) else None

    def holds(self, cursor: str) -> bool:
        """Say whether a client that has this cursor has a beginning of this log."""
        seq, _, mark = cursor.partition("-")
        event = self.at(int(seq))
        return seq == "0" or (event is not None and event.id.startswith(mark))


def _event(row: dict[str, Any]) -> Event:
    content = {
        "kind": row["kind"],
        "at": row["occurred_at"].astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "actor": row["actor"],
        "alert": json.loads(row["body"]),
        **json.loads(row["details"] or "{}"),
    }
    return Event(
        row["seq"],
        f"{row.get('id', 0) % 2**64:016x}",
        digest(content),
        row["kind"],
        str(row["alert_id"]),
        row["topic"],
        row["severity"],
        row["recipients"],
        row["occurred_at"],
        content,
    )


@dataclass
class LostLine:
    """A line of history that ended: the log of a primary whose place a server took that may lack its last events."""

    log: Log
    ended: datetime
    may_lose_answered: bool
    """Whether the set-up allows that answered changes are lost: the replica was asynchronous, or it was a backup."""


# What was asked for.


class Answer(NamedTuple):
    """An answer; without a status none came."""

    status: int | None
    document: dict[str, Any]
    text: str = ""

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.document.get("code", ""))


@dataclass(eq=False)
class Change:
    """An alert or a comment that a client wanted stored, under a title or a text that nothing else has."""

    name: str
    kind: str
    """The kind of the event that it becomes."""
    expected: dict[str, Any]
    """Members of the event's alert, or of the event."""
    repeats: str | None = None
    """The dedup key, under which it may repeat another alert instead."""
    began: datetime = field(default_factory=now)
    answers: list[Answer] = field(default_factory=list)

    @property
    def stored(self) -> Answer | None:
        """The answer that it is stored, if there was one."""
        return next((answer for answer in self.answers if answer.status in STORED), None)

    def __str__(self) -> str:
        answers = [f"{answer.status} {answer.code or answer.text[:100]}".strip() for answer in self.answers]
        return f"{self.name} was answered {', '.join(answers) or 'nothing'}"

    @property
    def may_be_stored(self) -> bool:
        """Say whether some answer, or the lack of one, leaves it open."""
        return any(answer.status is None or answer.code == "outcome_unknown" for answer in self.answers)


# What came.


class Visible(Protocol):
    """What the rule for who sees an event asks of it."""

    @property
    def topic(self) -> str:
        """Its topic."""

    @property
    def severity(self) -> str:
        """Its severity."""

    @property
    def recipients(self) -> list[str] | None:
        """Those that it is for; None: all who may see the topic."""


@dataclass(frozen=True)
class Subscription:
    """What a recipient asks for, with an independent implementation of the rule for who sees an event."""

    recipient: str
    topics: tuple[str, ...] = ("*",)
    min_severity: str = "info"

    def sees(self, event: Visible) -> bool:
        """Say whether an event is part of it."""
        return (
            SEVERITIES.index(event.severity) >= SEVERITIES.index(self.min_severity)
            and (event.recipients is None or self.recipient in event.recipients)
            and any(
                pattern in ("*", event.topic) or (pattern.endswith(".*") and event.topic.startswith(pattern[:-1]))
                for pattern in self.topics
            )
        )


class Received(NamedTuple):
    """An event that came."""

    seq: int
    id: str
    digest: str

    @classmethod
    def of(cls, frame: dict[str, Any]) -> Received:
        """Read the frame of an event."""
        content = {name: value for name, value in frame.items() if name not in ENVELOPE}
        return cls(frame["seq"], frame.get("id", f"{0:016x}"), digest(content))


@dataclass(eq=False)
class Connection:
    """A connection as its client saw it. Its user agent identifies it in the ledger, also without a welcome."""

    agent: str
    subscription: Subscription
    transport: str
    asked: str | None
    """The cursor that the client gave."""
    had: str
    """The cursor up to which the client had everything."""
    began: datetime = field(default_factory=now)
    id: str | None = None
    after: int = 0
    """Where it began, or went on after a reset."""
    reset: dict[str, Any] | None = None
    reset_at: datetime | None = None
    received: list[Received] = field(default_factory=list)
    acknowledged: int = 0
    close: str = ""
    read_to_end: bool = False
    """Whether the client read everything that the node wrote: its last word says that it was the last."""
    ended: datetime | None = None

    def __str__(self) -> str:
        asked = "its resume point" if self.asked is None else self.asked
        return f"{self.subscription.recipient}'s {self.transport} {self.agent} after {asked} ({self.close or 'cut'})"


@dataclass(eq=False)
class RecipientRecord:
    """What one client of a recipient saw and holds."""

    subscription: Subscription
    transport: str
    start: int | None
    """It holds everything after this seq; None until it knows where it began."""
    connections: list[Connection] = field(default_factory=list)
    held: list[Received] = field(default_factory=list)
    cursor: str = "0"
    seen: set[str] = field(default_factory=set)
    """The alerts that it reported as seen."""
    is_settled: bool = False
    """Whether it had everything at the end of the trial, and its receipt was confirmed."""
    keeps_cursor: bool = True
    """Otherwise no reset can name what is void, and it is sent again what it has not acknowledged."""

    def __str__(self) -> str:
        return f"{self.subscription.recipient} ({self.transport})"
