"""A client's state through random losses, failovers and breaks of its connection: it ends with exactly the log.

The service here is a model of what it promises: it streams from a cursor that its log holds, and
otherwise sends a reset, which names the last common position or does not.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from service.client import Reset
from service.client.stream_state import StreamState, seq_of
from tests.harness import BODY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.client import Notice

pytestmark = pytest.mark.unit

STEPS = 40


@dataclass
class Log:
    """The ids of the events, and the service's streams of them."""

    random: random.Random
    ids: list[int] = field(default_factory=list)

    def append(self) -> None:
        self.ids = [*self.ids, *(self.random.getrandbits(32) for _ in range(self.random.randint(1, 3)))]

    def lose(self) -> None:
        """Fail over to a standby that lacks some events; others follow, or not."""
        self.ids = self.ids[: self.random.randint(0, len(self.ids))]

    def cursor(self, seq: int) -> str:
        return f"{seq}-{self.ids[seq - 1]:08x}" if seq else "0"

    def frames(self, after: str, held: list[int]) -> Iterator[dict[str, Any]]:
        """Yield what a stream after a cursor begins with; ``held`` tells what the client and the log have in common."""
        seq = seq_of(after)
        is_held = seq <= len(self.ids) and self.cursor(seq) == after
        start = seq
        common: int | None = None
        if not is_held:
            pairs = zip(held, self.ids, strict=False)
            same = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
            common = min(len(held), len(self.ids)) if same is None else same
            common = common if self.random.random() < 0.5 else None
            start = len(self.ids) if common is None else common
        head = {"head": len(self.ids), "after": start, "cursor": self.cursor(start)}
        yield {"type": "welcome", **head, "heartbeat_seconds": 15}
        if not is_held:
            yield {"type": "reset", "after": common, "cursor": self.cursor(start)}
        for number in range(start + 1, len(self.ids) + 1):
            position = {"seq": number, "cursor": self.cursor(number), "id": f"{self.ids[number - 1]:08x}00000000"}
            content = {"kind": "alert.created", "at": BODY["created_at"], "actor": "billing", "alert": BODY}
            yield {"type": "event", **position, **content}
        yield {"type": "caught_up", "seq": len(self.ids), "cursor": self.cursor(len(self.ids))}


class Recipient:
    """Holds what it was given, as the client's user should."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.held: list[int] = []
        self.processed: list[int] = []
        self.state = StreamState(0, (), None, self._on_notice)

    def _on_notice(self, notice: Notice) -> None:
        if isinstance(notice, Reset):
            # With None, a user loads the list again: it is that of the log as of the cursor.
            self.held = self.log.ids[: seq_of(notice.cursor)] if notice.after is None else self.held[: notice.after]

    def connect(self, *, breaks: bool) -> None:
        """Take the frames of a connection; one that breaks ends after some of them."""
        asked = self.state.address("http://a").rpartition("after=")[2]
        frames = list(self.log.frames(asked, self.held))
        self.state.opened()
        for frame in frames[: self.log.random.randint(0, len(frames))] if breaks else frames:
            self._acknowledge()
            if (event := self.state.receive(json.dumps(frame))) is not None:
                assert event.seq == len(self.held) + 1, "a stream has a hole, or repeats an event"
                self.held = [*self.held, int(event.id[:8], 16)]
                if self.log.random.random() < 0.7:
                    self.state.processed()
                    self.processed.append(self.held[-1])
        self._acknowledge()
        self.state.lost(1012, "history_changed")

    def _acknowledge(self) -> None:
        if (ack := self.state.ack()) is not None:
            seq = json.loads(ack)["seq"]
            assert seq <= len(self.held), "it acknowledges what it was not given"
            assert self.log.ids[seq - 1] in self.processed, "the ack of a void event is the receipt of another"


@pytest.mark.parametrize("seed", range(200))
def test_a_client_ends_with_the_log_and_acknowledges_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    log = Log(chance)
    recipient = Recipient(log)
    for _ in range(STEPS):
        match chance.choices(["append", "lose", "connect"], [5, 1, 4])[0]:
            case "append":
                log.append()
            case "lose":
                log.lose()
            case "connect":
                recipient.connect(breaks=True)
    recipient.connect(breaks=False)
    assert recipient.held == log.ids
