"""No frame passes the limit, whatever the alert is made of and whatever happens to it later."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.commands import AddComment, ChangeStatus, PostAlert, ProcessDue, apply_all
from service.alerts.dedup import DedupGroups
from service.alerts.event_size import COMMENT_ROOM
from service.alerts.ingest import RoomForAlert, accept
from service.alerts.lifecycle import Action, EventKind
from service.alerts.queue_items import Stored
from service.alerts.unit_of_work import UnitOfWork
from service.auth.principal import Principal, Scope
from service.database.ids import uuid7
from service.errors import RequestTooLarge
from service.events.position import Position
from service.settings import EVENT_MAX_BYTES
from service.stream import frames
from service.topics import EVERY_TOPIC
from tests.alerts.examples import BILLING, NOW, bearer, posted, stored

if TYPE_CHECKING:
    from service.alerts.schemas import AlertIn

pytestmark = pytest.mark.unit

LONGEST = "😀" * 200
"""The subject with the most bytes."""
EVERYBODY = DedupGroups({"group": ["billing", LONGEST]})
FILLERS = ["a", '"', "\\", "é", "語", "😀"]
MANY = 2**31 - 2
HEAD = Position(2**63 - 100, -1)


def filled(alert: dict[str, Any], filler: str) -> AlertIn:
    """Return the largest alert that the service takes: its lists as long as there is room, then its body."""
    room = RoomForAlert("billing", EVENT_MAX_BYTES)
    while room.excess(posted(**alert)) > 0:
        longest = max(("links", "recipients", "attributes"), key=lambda name: len(orjson.dumps(alert[name])))
        some = alert[longest]
        alert[longest] = dict(list(some.items())[:-1]) if isinstance(some, dict) else some[:-1]
        alert["recipients"] = alert["recipients"] or None
    left = -room.excess(posted(**alert | {"body": ""}))
    size = len(orjson.dumps(filler)) - 2
    most = min(left // size, 16 * 1024 // len(filler.encode()))
    return posted(**alert | {"body": filler * most})


@st.composite
def large_alerts(draw: st.DrawFn) -> dict[str, Any]:
    """Alerts with as many bytes as one field after another may have, and without a body."""
    filler = st.sampled_from(FILLERS)
    url = "https://x/" + draw(st.sampled_from(["a", "語", "😀"])) * 1990
    value = draw(filler) * draw(st.integers(1, 500))
    alert: dict[str, Any] = {
        "topic": "t" * 100,
        "severity": draw(st.sampled_from(["info", "critical"])),
        "title": "x" + draw(filler) * 199,
        "dedup_key": draw(filler) * 200,
        "links": [{"title": draw(filler) * 200, "url": url}] * draw(st.integers(0, 20)),
        "recipients": [LONGEST, *(f"{number:03}" + draw(filler) * 197 for number in range(draw(st.integers(0, 99))))],
        "attributes": {f"{number}{value}"[:200]: value for number in range(draw(st.integers(0, 20)))},
        "escalate_after": 60,
        "expires_at": draw(st.sampled_from([None, "2999-01-01T00:00:00Z"])),
    }
    while len(orjson.dumps(alert["attributes"])) > 16 * 1024:
        alert["attributes"].popitem()
    return alert


def after_a_life(alert: AlertIn, room_of_comment: str) -> list[Any]:
    """Return the events of an alert that a source with the longest name raised, and a short one repeats."""
    raised = accept(posted(**alert.model_dump() | {"severity": "info"}), BILLING, NOW)
    assert isinstance(raised, PostAlert)
    holder = replace(raised.alert, source=LONGEST, status_by=LONGEST, occurrences=MANY, seq=1, title="-", body=None)
    unit = UnitOfWork(HEAD, {holder.id: holder}, groups=EVERYBODY)
    again = accept(alert.model_copy(update={"severity": "critical"}), BILLING, NOW)
    assert isinstance(again, PostAlert)
    writer = Principal(LONGEST, frozenset({Scope.ALERTS_WRITE}), EVERY_TOPIC, expires_at=2e9)
    manager = bearer(LONGEST)
    holder_id, later = holder.id, NOW + timedelta(seconds=30)
    commands = [
        again,
        ChangeStatus(manager, later, holder_id, Action.ACKNOWLEDGE),
        AddComment(manager, later, holder_id, uuid7(), room_of_comment),
        ChangeStatus(manager, later, holder_id, Action.REOPEN),
        ProcessDue(Principal("tocsin", frozenset(), EVERY_TOPIC, 2e9), NOW + timedelta(days=1)),
        ChangeStatus(writer, later, holder_id, Action.RESOLVE),
        ChangeStatus(manager, later, holder_id, Action.REOPEN),
    ]
    for outcome in apply_all(commands[:4], unit):
        assert isinstance(outcome, Stored), outcome
    apply_all(commands[4:], unit)
    expired = replace(unit.alerts[holder_id], expires_at=NOW, status="open")
    unit.alerts[holder_id] = expired
    apply_all([ProcessDue(Principal("tocsin", frozenset(), EVERY_TOPIC, 2e9), NOW)], unit)
    other = replace(raised.alert, id=uuid7(), dedup_key=None, dedup_audience=None)
    apply_all([PostAlert(BILLING, NOW, other)], unit)
    return list(unit.events)


@settings(deadline=None, max_examples=40)
@given(large_alerts(), st.sampled_from([*FILLERS, "\n"]))
def test_no_frame_of_the_largest_alerts_passes_the_limit(large: dict[str, Any], filler: str) -> None:
    alert = filled(large, filler)
    comment = "x" + filler * ((COMMENT_ROOM - 3) // (len(orjson.dumps(filler)) - 2))
    events = after_a_life(alert, comment)
    sizes = {event.kind: len(frames.prepare(event).payload) for event in events}
    assert max(sizes.values()) < EVENT_MAX_BYTES, sizes
    assert {"alert.repeated", "alert.commented", "alert.created", "alert.acknowledged", "alert.reopened"} <= set(sizes)
    assert set(sizes) <= set(get_args(EventKind))


def test_a_comment_has_the_room_that_its_alert_leaves_and_never_less_than_every_alert_leaves() -> None:
    small, large = stored(), stored(body="\n" * 13_000)
    above_the_limit = stored(attributes={"old": "x" * 90_000})  # from when the setting was higher
    cases = [
        (small, "x" * 16_000, True),
        (small, "\n" * 16_000, False),
        (large, "x" * (COMMENT_ROOM - 2), True),
        (large, "x" * 8_000, False),
        (above_the_limit, "x" * (COMMENT_ROOM - 2), True),
        (above_the_limit, "x" * COMMENT_ROOM, False),
    ]
    for alert, text, fits in cases:
        unit = UnitOfWork(HEAD, {alert.id: alert})
        [outcome] = apply_all([AddComment(bearer("ann"), NOW, alert.id, uuid7(), text)], unit)
        assert isinstance(outcome, Stored if fits else RequestTooLarge)
        if isinstance(outcome, RequestTooLarge):
            assert f"{EVENT_MAX_BYTES} bytes" in outcome.detail
            assert not unit.changed
        elif alert is not above_the_limit:
            assert len(frames.prepare(unit.events[0]).payload) < EVENT_MAX_BYTES
