"""The rows of a made-up month: its events and alerts, and the connections of 200 admins, as COPY reads them.

It is the month of a company with twelve areas of four topics each, 200 admins in all time zones, and two nodes:

- The log: 333,000 events a day at an even pace; 80 of 100 are ``info``, 15 warnings, 4 errors, one is critical. Of each
  20 events 9 create an alert, 2 acknowledge one about a minute later, and 9 resolve one about nine minutes later. 5 of
  100 alerts name one to three admins.
- The admins: ten watch everything, eight of them down to ``info`` and two ``critical`` only. The tokens of the others
  cover one or two areas; at their desk one of ten sees all of that, six see warnings and more severe alerts, three see
  errors and critical ones, and with their phone they see the errors of one topic, or of all. Half of them are sent more
  than 5,000 events a day, which is more than anybody reads.
- The connections: three or four a day and admin, from the morning to the evening, wherever that is. Each begins after
  what its admin acknowledged last, so what came overnight is sent in the morning, in chunks. The client acknowledges
  every few events; three of ten connections end with a few events that were never acknowledged.
- The passes of a node's fan-out hold one to three events.

Everything follows from the numbers alone, so that two processes can make two halves.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterator

AREAS = (
    *("payments", "search", "checkout", "identity", "shipping", "catalog"),
    *("billing", "network", "storage", "mobile", "partners", "fraud"),
)
TOPICS = [f"{area}.{place}" for area in AREAS for place in ("eu", "us", "apac", "batch")]
ADMINS = [f"admin-{number:03}" for number in range(200)]
NODES = [UUID(int=0x7 << 76 | 0x2 << 62 | number) for number in (1, 2)]
CREATED, ACKNOWLEDGED, ROUND = 9, 2, 20
"""Of each round of 20 events: how many create an alert, how many acknowledge one; the rest resolve one."""
ACKNOWLEDGED_AFTER, RESOLVED_AFTER = 200, 2_000
"""Events between the creation of an alert and what comes of it; whole rounds."""
CHUNK = 5_000
DESK_HOURS = ((8.0, 12.0), (12.5, 17.0), (17.1, 18.0))
PHONE_HOURS = (20.0, 21.0)


@dataclass(frozen=True)
class Month:
    """So many events, evenly, until ``end``."""

    events: int
    end: datetime
    days: int = 30

    @property
    def start(self) -> datetime:
        """When it begins."""
        return self.end - timedelta(days=self.days)

    def micros(self, seq: float) -> int:
        """Return the time of an event in microseconds since the epoch."""
        return int(self.start.timestamp() * 1e6 + seq * self.days * 86_400e6 / self.events)

    def seq(self, at: datetime) -> int:
        """Return the last event before ``at``."""
        return int((at - self.start) / timedelta(days=self.days) * self.events)


class Clock:
    """Writes times as PostgreSQL and the wire have them; quick where they follow closely one upon the other."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, micros: int) -> str:
        """Return the time that is so many microseconds after the epoch."""
        second, rest = divmod(micros, 1_000_000)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
        return f"{self._text}{rest:06d}Z"


def quoted(name: str) -> str:
    """Return a name as JSON."""
    return f'"{name}"'


def _kinds_of_alerts() -> list[tuple[str, str, str, str, str]]:
    """Return the topics, severities and recipients (for COPY and as JSON) of alerts, and who posts them."""
    chance = random.Random(5)
    kinds = []
    for _ in range(9_973):
        topic = chance.choice(TOPICS)
        (severity,) = chance.choices(("info", "warning", "error", "critical"), (80, 15, 4, 1))
        names = chance.sample(ADMINS, chance.randint(1, 3)) if chance.random() < 0.05 else []
        array = f"{{{','.join(names)}}}" if names else "\\N"
        as_json = f"[{','.join(map(quoted, names))}]" if names else "null"
        kinds.append((topic, severity, array, as_json, topic.partition(".")[0]))
    return kinds


KINDS = _kinds_of_alerts()


def creation(seq: int) -> tuple[int, str]:
    """Return the event that created the alert which the event ``seq`` is about, and the kind of that event."""
    place = (seq - 1) % ROUND
    if place < CREATED:
        return seq, "created"
    acknowledges = place < CREATED + ACKNOWLEDGED
    back = ACKNOWLEDGED_AFTER if acknowledges else RESOLVED_AFTER
    of = seq - place - back + (place - CREATED if acknowledges else place - CREATED - ACKNOWLEDGED)
    return (of, "acknowledged" if acknowledges else "resolved") if of > 0 else (seq, "created")


def alert_id(month: Month, seq: int) -> str:
    """Return the id of the alert that ``seq`` created: a UUIDv7."""
    millis = month.micros(seq) // 1000
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7000-8000-{seq:012x}"


def events(month: Month, first: int, last: int) -> Iterator[bytes]:
    """Yield the rows of ``events`` from ``first`` to ``last``, thousands at a time."""
    clock, clock_of_creation = Clock(), Clock()
    for begin in range(first, last + 1, 2_000):
        rows = []
        for seq in range(begin, min(begin + 2_000, last + 1)):
            of, kind = creation(seq)
            topic, severity, recipients, as_json, source = KINDS[of % len(KINDS)]
            at, created_at = clock(month.micros(seq)), clock_of_creation(month.micros(of))
            actor = source if kind == "created" else ADMINS[seq % 200]
            status = "open" if kind == "created" else kind
            identity = alert_id(month, of)
            body = (
                f'{{"id":"{identity}","source":"{source}","topic":"{topic}","severity":"{severity}",'
                f'"title":"{source}: {of % 97} of the last 100 requests failed","body":null,'
                f'"attributes":{{"host":"node-{of % 61}","rate":0.{of % 97:02}}},"links":[],"recipients":{as_json},'
                f'"dedup_key":null,"status":"{status}","status_by":"{actor}","status_at":"{at}","occurrences":1,'
                f'"created_at":"{created_at}","updated_at":"{at}","expires_at":null,"escalate_at":null}}'
            )
            rows.append(
                f"{seq}\t{seq}\t{identity}\talert.{kind}\t{topic}\t{severity}\t{recipients}\t{actor}\t{at}\t{body}\n"
            )
        yield "".join(rows).encode()


def alerts(month: Month) -> Iterator[bytes]:
    """Yield the rows of ``alerts`` as they stand at the end of the month, thousands at a time."""
    clock, clock_of_status = Clock(), Clock()
    rows = []
    for seq in range(1, month.events + 1):
        if creation(seq)[0] != seq:
            continue
        topic, severity, recipients, _, source = KINDS[seq % len(KINDS)]
        place = (seq - 1) % ROUND
        status, status_seq, status_by = "open", seq, source
        resolved_seq = seq + RESOLVED_AFTER + CREATED + ACKNOWLEDGED
        if place < CREATED and resolved_seq <= month.events:
            status, status_seq, status_by = "resolved", resolved_seq, ADMINS[resolved_seq % 200]
        elif place < ACKNOWLEDGED and seq + ACKNOWLEDGED_AFTER + CREATED <= month.events:
            status, status_seq = "acknowledged", seq + ACKNOWLEDGED_AFTER + CREATED
            status_by = ADMINS[status_seq % 200]
        created_at, status_at = clock(month.micros(seq)), clock_of_status(month.micros(status_seq))
        rows.append(
            f"{alert_id(month, seq)}\t{seq}\t{source}\t{topic}\t{severity}\t"
            f"{source}: {seq % 97} of the last 100 requests failed\t"
            f'{{"host":"node-{seq % 61}","rate":0.{seq % 97:02}}}\t[]\t{recipients}\t{status}\t{status_by}\t'
            f"{status_at}\t1\t{created_at}\t{status_at}\n"
        )
        if len(rows) == 2_000:
            yield "".join(rows).encode()
            rows = []
    yield "".join(rows).encode()


def passes(month: Month, node: int) -> Iterator[bytes]:
    """Yield the rows of ``dispatches`` of a node's fan-out, thousands at a time."""
    chance, clock = random.Random(node), Clock()
    rows = []
    seq = 0
    while seq < month.events:
        up_to = min(month.events, seq + chance.randint(1, 3))
        rows.append(
            f"{NODES[node]}\t\\N\t{seq}\t{up_to}\t{clock(month.micros(up_to) + chance.randint(900, 4_000))}\t1\n"
        )
        seq = up_to
        if len(rows) == 5_000:
            yield "".join(rows).encode()
            rows = []
    yield "".join(rows).encode()


@dataclass
class Ledger:
    """The rows of the connections' tables."""

    recipients: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    dispatches: list[str] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)


def ledger(month: Month, connections: int) -> Ledger:
    """Make the connections of the month, with their dispatches and receipts."""
    made = Ledger()
    for number, admin in enumerate(ADMINS):
        _Life(month, number, admin, made).live(connections // len(ADMINS))
    return made


class _Life:
    """A month of one admin."""

    def __init__(self, month: Month, number: int, admin: str, made: Ledger) -> None:
        self.month = month
        self.number = number
        self.admin = admin
        self.made = made
        self.chance = random.Random(number)
        self.clock = Clock()
        self.acknowledged = 0
        if number % 20 == 0:
            self.token = ["*"]
            self.desk = (["*"], "critical" if number % 100 == 0 else "info")
            self.phone = (["*"], "critical")
        else:
            areas = self.chance.sample(AREAS, self.chance.randint(1, 2))
            self.token = sorted(f"{area}.*" for area in areas)
            (severity,) = self.chance.choices(("info", "warning", "error"), (1, 6, 3))
            self.desk = (self.token, severity)
            self.phone = self.chance.choice((([f"{areas[0]}.eu"], "error"), (self.token, "error")))

    def live(self, connections: int) -> None:
        """Make the admin's connections."""
        month, zone = self.month, timedelta(hours=self.number * 24 / len(ADMINS))
        first_day = (month.start + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0) - zone
        hours = [(day, *span) for day in range(-1, month.days + 1) for span in (*DESK_HOURS, PHONE_HOURS)]
        spans = [
            (first_day + timedelta(days=day, hours=begin), first_day + timedelta(days=day, hours=end), begin)
            for day, begin, end in hours
        ]
        spans = [span for span in spans if month.start < span[0] and span[0] < month.end]
        # Now and then somebody is away; the newest are kept, so that the last hour is as any other.
        away = set(self.chance.sample(range(len(spans) - 8), max(0, len(spans) - connections)))
        kept = [span for place, span in enumerate(spans) if place not in away]
        for opened, closed, begin in kept:
            jitter = timedelta(seconds=self.chance.uniform(0, 120))
            self.connect(opened + jitter, closed, *(self.phone if begin == PHONE_HOURS[0] else self.desk))
        first, last = (self.clock(int(at.timestamp() * 1e6)) for at in (kept[0][0], min(kept[-1][1], month.end)))
        self.made.recipients.append(f"{self.admin}\t{{{','.join(self.token)}}}\t{first}\t{last}\t{self.acknowledged}\n")

    def connect(self, opened: datetime, closed: datetime, topics: list[str], min_severity: str) -> None:
        """Make one connection, and what it was sent and acknowledged."""
        month, clock = self.month, self.clock
        opened = min(opened, month.end - timedelta(seconds=30))
        is_open = closed >= month.end
        head, sent = month.seq(opened), month.events if is_open else month.seq(closed)
        after = self.acknowledged or head
        node, identity = NODES[self.number % 2], self._id(opened)
        opened_at = int(opened.timestamp() * 1e6)
        ending = "\\N\t\\N\t\\N\t\\N" if is_open else f"{sent}\t{clock(int(closed.timestamp() * 1e6))}\t1001\tclient"
        expires_at = clock(int((closed + timedelta(hours=1)).timestamp() * 1e6))
        self.made.connections.append(
            f"{identity}\t{node}\t{self.admin}\twebsocket\t{{{','.join(topics)}}}\t{min_severity}\t10.0.{self.number}.7\t"
            f"Mozilla/5.0\ttoken-{identity}\t{expires_at}\t{clock(opened_at)}\t{after}\t{ending}\t{head}\n"
        )
        for step, begin in enumerate(range(after, head, CHUNK)):
            up_to, at = min(begin + CHUNK, head), clock(opened_at + 20_000 + step * 5_000)
            self.made.dispatches.append(f"{node}\t{identity}\t{begin}\t{up_to}\t{at}\t1\n")
        self._acknowledge(identity, after, head, sent, opened_at)

    def _acknowledge(self, identity: UUID, after: int, head: int, sent: int, opened_at: int) -> None:
        if head > after:
            at = self.clock(opened_at + 1_500_000)
            self.made.receipts.append(f"{identity}\t{head}\t{at}\t1\n")
            self.acknowledged = head
        end = sent - self.chance.randint(5, 60) if self.chance.random() < 0.3 else sent
        stride = max(20, (end - head) // 120)
        for seq in range(head + stride, end + 1, stride):
            at = self.clock(self.month.micros(seq) + self.chance.randint(30_000, 400_000))
            self.made.receipts.append(f"{identity}\t{seq}\t{at}\t1\n")
            self.acknowledged = seq

    def _id(self, opened: datetime) -> UUID:
        millis = int(opened.timestamp() * 1000)
        return UUID(int=millis << 80 | 0x7 << 76 | 0x2 << 62 | self.chance.getrandbits(62))
