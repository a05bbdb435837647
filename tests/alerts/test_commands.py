"""Commands against a unit of work that was not read from a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pytest

from service.alerts.alert_record import UNRESOLVED
from service.alerts.commands import (
    AddComment,
    ChangeStatus,
    PostAlert,
    ProcessDue,
    ResolveByDedupKey,
    apply_all,
)
from service.alerts.dedup import EVERYBODY, DedupGroups, DedupIdentity, KeyOfSource
from service.alerts.lifecycle import SERVICE, Action
from service.alerts.queue_items import DueProcessed, KeyResolved, Stored
from service.alerts.unit_of_work import FIRST_ID, FirstAnswer, Lookup, NewAnswer, UnitOfWork
from service.auth.principal import Scope
from service.database.ids import uuid7
from service.errors import ActionConflict, IdempotencyMismatch, NotFound
from service.events.idempotency import IdempotencyKey
from service.events.position import Position
from tests.alerts.examples import BILLING, NOW, bearer, stored

if TYPE_CHECKING:
    from service.alerts.alert_record import AlertRecord
    from service.auth.principal import Principal

pytestmark = pytest.mark.unit

LATER = NOW + timedelta(minutes=5)
KEY = IdempotencyKey.of("key", "request")
IDENTITY = DedupIdentity(KeyOfSource("billing", "default", "k"), EVERYBODY)


def unit_of(*alerts: AlertRecord, head: int = 10) -> UnitOfWork:
    return UnitOfWork(Position(head, 1), {alert.id: alert for alert in alerts})


def post(dedup_key: str | None = "k", key: IdempotencyKey | None = None, **fields: Any) -> PostAlert:
    return PostAlert(BILLING, LATER, stored(seq=0, dedup_key=dedup_key, **fields), key)


def kinds(unit: UnitOfWork) -> list[str]:
    return [event.kind.removeprefix("alert.") for event in unit.events]


def untouched(unit: UnitOfWork) -> bool:
    return not (unit.changed or unit.events or unit.new_answers) and unit.head == unit.start.seq


# PostAlert.


def test_an_alert_whose_key_nobody_holds_is_created_at_the_next_position() -> None:
    unit, command = unit_of(), post()
    outcome = command.apply(unit)
    [alert] = unit.changed.values()
    assert (alert.id, alert.seq, unit.head) == (command.alert.id, 11, 11)
    assert outcome == Stored(alert.id, 11, alert.wire())
    [event] = unit.events
    assert (event.seq, event.alert_id, event.kind, event.actor) == (11, alert.id, "alert.created", "billing")
    assert (event.occurred_at, event.body, event.details) == (LATER, alert.wire(), None)
    assert unit.holder(stored(dedup_key="k")) == alert


def test_an_alert_that_only_escalates_is_created_beside_others() -> None:
    unit = unit_of(stored(dedup_key="k"))
    assert post(None, escalate_after=60).apply(unit).repeated is False
    assert post(None, escalate_after=60).apply(unit).repeated is False
    assert len({alert.id for alert in unit.changed.values()}) == 2


@pytest.mark.parametrize("status", UNRESOLVED)
def test_an_alert_with_the_key_of_an_unresolved_one_repeats_it(status: str) -> None:
    holder = stored(seq=3, dedup_key="k", status=status)
    unit = unit_of(holder)
    outcome = post(title="Again").apply(unit)
    [alert] = unit.changed.values()
    assert (outcome.id, outcome.seq, outcome.repeated) == (holder.id, 3, True)
    assert (alert.occurrences, alert.title, outcome.wire) == (2, "Again", alert.wire())
    assert kinds(unit) == ["repeated"]


@pytest.mark.parametrize(
    "other",
    [
        {"dedup_key": "k", "status": "resolved"},
        {"dedup_key": "k", "status": "expired"},
        {"dedup_key": "k", "topic": "another"},
        {"dedup_key": "l"},
        {"dedup_key": None},
    ],
)
def test_an_alert_repeats_none_that_is_over_or_of_another_topic_or_key(other: dict[str, Any]) -> None:
    unit = unit_of(stored(**other))
    assert post().apply(unit).repeated is False
    assert kinds(unit) == ["created"]


def test_of_two_alerts_with_one_key_in_one_transaction_the_second_repeats_the_first() -> None:
    unit = unit_of()
    first, second, third = apply_all([post(), post(severity="critical"), post(severity="info")], unit)
    assert isinstance(first, Stored)
    assert isinstance(second, Stored)
    assert isinstance(third, Stored)
    assert first.id == second.id == third.id
    assert orjson.loads(third.wire)["occurrences"] == 3
    assert kinds(unit) == ["created", "repeated"]  # the third is due a second later
    assert len(unit.changed) == 1


def test_a_retry_with_its_idempotency_key_is_answered_as_the_first_request_and_changes_nothing() -> None:
    unit = unit_of()
    first = post(key=KEY).apply(unit)
    assert unit.new_answers == [NewAnswer("billing", KEY, first, LATER)]
    later = UnitOfWork(
        unit.events[0].position, dict(unit.alerts), {("billing", "key"): FirstAnswer(KEY.content, first)}
    )
    for again in (unit, later):
        events = list(again.events)
        assert post(key=KEY).apply(again) == first._replace(replayed=True)
        assert again.events == events


def test_a_repetition_with_an_idempotency_key_is_counted_once() -> None:
    unit = unit_of(stored(dedup_key="k"))
    first = post(key=KEY).apply(unit)
    post().apply(unit)
    assert post(key=KEY).apply(unit) == first._replace(replayed=True)
    assert [alert.occurrences for alert in unit.changed.values()] == [3]


def test_an_idempotency_key_that_comes_back_with_another_request_is_refused() -> None:
    unit = UnitOfWork(Position(1, 1), {}, {("billing", "key"): FirstAnswer("another hash", Stored(uuid7(), 1, b"{}"))})
    with pytest.raises(IdempotencyMismatch):
        post(key=KEY).apply(unit)
    assert untouched(unit)
    assert post(key=IdempotencyKey.of("another key", "request")).apply(unit).seq == 2


def test_posting_asks_for_the_holder_of_its_key_and_for_its_first_answer() -> None:
    assert post(key=KEY).lookup() == Lookup(repeated=[IDENTITY], idempotency=[("billing", "key")])
    assert post(None).lookup() == Lookup((), [], (), [])


# ChangeStatus.


@pytest.mark.parametrize("status", ["open", "acknowledged", "resolved", "expired"])
@pytest.mark.parametrize("action", Action)
def test_an_action_is_recorded_or_refused(status: str, action: Action) -> None:
    alert = stored(seq=3, status=status, status_by="bob")
    unit = unit_of(alert)
    [outcome] = apply_all([ChangeStatus(bearer("ann"), LATER, alert.id, action)], unit)
    if status not in action.sources:
        assert isinstance(outcome, ActionConflict)
        assert untouched(unit)
        return
    changed = unit.changed[alert.id]
    assert (changed.status, changed.status_by, changed.seq) == (action.status, "ann", 3)
    assert outcome == Stored(alert.id, 3, changed.wire())
    [event] = unit.events
    assert (event.seq, event.kind, event.actor, event.body) == (11, action.kind, "ann", changed.wire())


@pytest.mark.parametrize("action", Action)
def test_an_action_that_its_actor_repeats_is_answered_and_changes_nothing(action: Action) -> None:
    alert = stored(status=action.status, status_by="ann")
    unit = unit_of(alert)
    assert ChangeStatus(bearer("ann"), LATER, alert.id, action).apply(unit).wire == alert.wire()
    assert untouched(unit)


def test_an_action_on_an_alert_that_is_not_there_is_refused() -> None:
    unit = unit_of(stored())
    with pytest.raises(NotFound):
        ChangeStatus(bearer("ann"), LATER, uuid7(), Action.RESOLVE).apply(unit)
    assert untouched(unit)


def test_an_alert_cannot_be_reopened_while_another_holds_its_key() -> None:
    old, new = stored(dedup_key="k", status="resolved"), stored(dedup_key="k")
    unit = unit_of(old, new)
    reopen = ChangeStatus(bearer("ann"), LATER, old.id, Action.REOPEN)
    with pytest.raises(ActionConflict, match=str(new.id)):
        reopen.apply(unit)
    assert untouched(unit)
    ChangeStatus(bearer("ann"), LATER, new.id, Action.RESOLVE).apply(unit)
    reopen.apply(unit)
    assert unit.holder(stored(dedup_key="k")) == unit.alerts[old.id]
    assert post().apply(unit).id == old.id


def test_an_acknowledged_alert_is_reopened_although_it_holds_its_own_key() -> None:
    alert = stored(dedup_key="k", status="acknowledged")
    unit = unit_of(alert)
    ChangeStatus(bearer("ann"), LATER, alert.id, Action.REOPEN).apply(unit)
    assert unit.holder(stored(dedup_key="k")) == unit.changed[alert.id]


def test_of_two_who_acknowledge_in_one_transaction_the_first_succeeds() -> None:
    alert = stored()
    unit = unit_of(alert)
    commands = [ChangeStatus(bearer(actor), LATER, alert.id, Action.ACKNOWLEDGE) for actor in ("ann", "bob", "ann")]
    first, second, third = apply_all(commands, unit)
    assert isinstance(second, ActionConflict)
    assert first == third
    assert kinds(unit) == ["acknowledged"]


@pytest.mark.parametrize("action", Action)
def test_an_action_is_refused_where_the_alert_is_not_for_the_bearer(action: Action) -> None:
    alerts = [stored(recipients=["ann"], status="acknowledged"), stored(topic="shop", status="acknowledged")]
    unit = unit_of(*alerts)
    for alert in alerts:
        bob = bearer("bob", topics=("default",))
        assert isinstance(apply_all([ChangeStatus(bob, LATER, alert.id, action)], unit)[0], NotFound)
        assert isinstance(apply_all([AddComment(bob, LATER, alert.id, uuid7(), "Hm.")], unit)[0], NotFound)
    assert untouched(unit)


def test_a_conflict_shows_no_more_than_the_token_may_read() -> None:
    alert = stored(seq=3, status="resolved", status_by="ann", recipients=["ann"], title="Secret")
    held = stored(seq=4, dedup_key="k", recipients=["ann"])
    escalated = stored(seq=5, dedup_key="k", status="resolved", dedup_audience=held.dedup_audience)
    unit = unit_of(alert, held, escalated)
    resolve = ChangeStatus(BILLING, LATER, alert.id, Action.RESOLVE)
    with pytest.raises(ActionConflict) as caught:
        resolve.apply(unit)
    assert caught.value.detail == "The alert is resolved."
    assert caught.value.members == {"alert": {"id": alert.id, "seq": 3, "status": "resolved", "occurrences": 1}}
    for name, is_named in (("ann", True), ("bob", False)):
        with pytest.raises(ActionConflict) as caught:
            ChangeStatus(bearer(name), LATER, escalated.id, Action.REOPEN).apply(unit)
        assert (str(held.id) in caught.value.detail) is is_named


# ResolveByDedupKey.


@pytest.mark.parametrize("status", UNRESOLVED)
def test_the_holder_of_a_key_is_resolved_and_its_key_is_free(status: str) -> None:
    alert = stored(dedup_key="k", status=status)
    unit = unit_of(alert)
    outcome = ResolveByDedupKey(BILLING, LATER, "default", "k").apply(unit)
    assert outcome == KeyResolved(1)
    assert (unit.changed[alert.id].status, kinds(unit)) == ("resolved", ["resolved"])
    assert unit.holder(stored(dedup_key="k")) is None
    assert post().apply(unit).id != alert.id


@pytest.mark.parametrize("topic", ["default", "another"])
def test_a_key_that_nobody_holds_resolves_nothing(topic: str) -> None:
    command = ResolveByDedupKey(BILLING, LATER, topic, "k")
    unit = unit_of(stored(dedup_key="k", status="resolved"), stored(dedup_key="l"))
    assert command.apply(unit) == KeyResolved(0)
    assert untouched(unit)
    key = KeyOfSource("billing", topic, "k")
    assert command.lookup() == Lookup(keys=[(key, FIRST_ID)], resolved=[DedupIdentity(key, EVERYBODY)])


def test_an_alert_repeats_only_one_of_its_source_or_group_for_the_same_recipients() -> None:
    everybody, nobody = stored(seq=1, dedup_key="k"), stored(seq=2, dedup_key="k", recipients=[])
    two = stored(seq=3, dedup_key="k", recipients=["ann", "bob"])
    other = stored(seq=4, dedup_key="k", source="shop", recipients=["ann"])
    unit = unit_of(everybody, nobody, two, other)
    for recipients, seq in ((None, 1), ([], 2), (["bob", "ann"], 3), (["ann", "bob", "ann"], 3)):
        outcome = post(recipients=recipients).apply(unit)
        assert (outcome.seq, outcome.repeated) == (seq, True)
    assert post(recipients=["ann"]).apply(unit).repeated is False
    shared = UnitOfWork(Position(10, 1), {other.id: other}, groups=DedupGroups({"payments": ["billing", "shop"]}))
    assert post(recipients=["ann"]).apply(shared).id == other.id


def test_an_escalated_alert_is_repeated_by_posts_for_its_first_recipients_and_hides_none_for_everybody() -> None:
    unit = unit_of(stored(seq=1, dedup_key="k", recipients=["ann"], escalate_after=1, escalate_at=NOW))
    ProcessDue(bearer(SERVICE), LATER).apply(unit)
    assert post(recipients=["ann"]).apply(unit).seq == 1
    assert post(recipients=None).apply(unit).repeated is False


def test_a_key_resolves_all_alerts_of_its_source_and_group_and_nobody_elses() -> None:
    own = [stored(dedup_key="k"), stored(dedup_key="k", recipients=["ann"], status="acknowledged")]
    others = [
        stored(dedup_key="k", source="shop"),
        stored(dedup_key="k", topic="another"),
        stored(dedup_key="l"),
        stored(dedup_key="k", recipients=["bob"], status="resolved"),
    ]
    unit = unit_of(*own, *others)
    command = ResolveByDedupKey(BILLING, LATER, "default", "k")
    assert command.apply(unit) == KeyResolved(2)
    assert set(unit.changed) == {alert.id for alert in own}
    assert {alert.status for alert in unit.changed.values()} == {"resolved"}
    unit.groups = DedupGroups({"payments": ["billing", "shop"]})
    assert command.apply(unit) == KeyResolved(1)
    assert unit.alerts[others[0].id].status == "resolved"


@pytest.mark.parametrize("bound", [bearer("billing"), bearer("billing", Scope.ALERTS_WRITE, topics=("payments",))])
def test_a_key_resolves_nothing_for_a_token_that_may_not(bound: Principal) -> None:
    unit = unit_of(stored(dedup_key="k", recipients=["ann"]))
    assert ResolveByDedupKey(bound, LATER, "default", "k").apply(unit) == KeyResolved(0)
    assert untouched(unit)


def test_while_some_alerts_with_the_keys_were_not_read_a_key_is_asked_for_again_with_those_that_follow() -> None:
    unit = unit_of(stored(dedup_key="l"))
    unit.keys_read_to, later = UUID(int=1), UUID(int=2)
    assert ResolveByDedupKey(BILLING, LATER, "default", "l").apply(unit) == KeyResolved(1, unit.keys_read_to)
    assert ResolveByDedupKey(BILLING, LATER, "default", "k").apply(unit) == KeyResolved(0, unit.keys_read_to)
    command = ResolveByDedupKey(BILLING, LATER, "default", "k").following(later)
    assert command.lookup().keys == [(KeyOfSource("billing", "default", "k"), later)]
    assert command.apply(unit) == KeyResolved(0, later)
    assert {resolution.identity.key.key for resolution in unit.new_resolutions.values()} == {"l"}


# AddComment.


@pytest.mark.parametrize("status", ["open", "acknowledged", "resolved", "expired"])
def test_a_comment_is_an_event_of_its_alert_whatever_its_status(status: str) -> None:
    alert = stored(seq=3, status=status)
    unit, comment_id = unit_of(alert), uuid7()
    outcome = AddComment(bearer("ann"), LATER, alert.id, comment_id, "Looking.").apply(unit)
    comment = {"id": str(comment_id), "text": "Looking."}
    at = "2026-11-21T09:46:07.123456Z"
    assert (outcome.id, outcome.seq) == (comment_id, 11)
    assert orjson.loads(outcome.wire) == {**comment, "alert_id": str(alert.id), "actor": "ann", "at": at}
    [event] = unit.events
    assert (event.kind, event.actor, event.body) == ("alert.commented", "ann", unit.changed[alert.id].wire())
    assert orjson.loads(event.details or b"") == {"comment": comment}
    assert unit.changed[alert.id].status == status


def test_a_comment_on_an_alert_that_is_over_leaves_its_key_with_the_alert_that_holds_it_now() -> None:
    old, new = stored(dedup_key="k", status="resolved"), stored(dedup_key="k")
    unit = unit_of(old, new)
    AddComment(bearer("ann"), LATER, old.id, uuid7(), "Looking.").apply(unit)
    assert unit.holder(stored(dedup_key="k")) == new


def test_a_comment_with_an_idempotency_key_is_made_once() -> None:
    alert = stored()
    unit = unit_of(alert)
    commands = [
        AddComment(bearer(actor), LATER, alert.id, uuid7(), text, IdempotencyKey.of("key", text))
        for actor, text in (("ann", "Looking."), ("ann", "Looking."), ("ann", "Done."), ("bob", "Looking."))
    ]
    first, again, other, bobs = apply_all(commands, unit)
    assert isinstance(first, Stored)
    assert again == first._replace(replayed=True)
    assert isinstance(other, IdempotencyMismatch)
    assert isinstance(bobs, Stored)
    assert bobs.id != first.id
    assert kinds(unit) == ["commented", "commented"]
    assert commands[0].lookup() == Lookup(ids=[alert.id], idempotency=[("ann", "key")])


def test_a_comment_on_an_alert_that_is_not_there_is_refused_and_does_not_use_its_key_up() -> None:
    unit = unit_of()
    with pytest.raises(NotFound):
        AddComment(bearer("ann"), LATER, uuid7(), uuid7(), "Looking.", KEY).apply(unit)
    assert untouched(unit)


# ProcessDue.


def test_due_alerts_are_brought_up_to_date_and_others_left_alone() -> None:
    expired = stored(expires_at=LATER, dedup_key="k")
    escalated = stored(escalate_after=1, escalate_at=NOW, recipients=["ann"])
    repeated = stored(last_repeat_event_at=NOW, repeat_event_due_at=NOW + timedelta(seconds=1), occurrences=5)
    others = [stored(expires_at=LATER + timedelta(seconds=1)), stored(status="resolved", expires_at=NOW), stored()]
    late = replace(repeated, id=uuid7(), status="resolved", expires_at=NOW, escalate_at=NOW)
    unit = unit_of(expired, escalated, repeated, late, *others)
    command = ProcessDue(bearer(SERVICE), LATER)
    assert command.apply(unit) == DueProcessed(4)
    assert kinds(unit) == ["expired", "escalated", "repeated", "repeated"]
    assert {event.actor for event in unit.events} == {SERVICE}
    assert set(unit.changed) == {expired.id, escalated.id, repeated.id, late.id}
    assert unit.changed[late.id] == replace(late, last_repeat_event_at=LATER, repeat_event_due_at=None)
    assert unit.events[1].recipients is None
    assert unit.holder(stored(dedup_key="k")) is None
    assert command.apply(unit) == DueProcessed(0)
    assert command.lookup() == Lookup(due_at=LATER)


# The unit of work.


def test_events_take_positions_without_a_hole_in_the_order_of_the_commands() -> None:
    alert = stored()
    unit = unit_of(alert, head=0)
    commands = [
        post(),
        ChangeStatus(bearer("ann"), LATER, alert.id, Action.ACKNOWLEDGE),
        ChangeStatus(bearer("bob"), LATER, alert.id, Action.ACKNOWLEDGE),
        AddComment(bearer("ann"), LATER, alert.id, uuid7(), "Looking."),
        post("l", recipients=["ann", "bob"]),
    ]
    apply_all(commands, unit)
    assert [event.seq for event in unit.events] == [1, 2, 3, 4]
    assert unit.head == 4
    assert [event.recipients for event in unit.events] == [None, None, None, frozenset({"ann", "bob"})]


def test_lookups_are_read_together() -> None:
    first, second = uuid7(), uuid7()
    lookups = [
        Lookup(ids=[first], idempotency=[("ann", "key")]),
        Lookup(due_at=NOW),
        Lookup(repeated=[IDENTITY], keys=[(IDENTITY.key, FIRST_ID)], due_at=LATER),
        Lookup(ids=[second]),
    ]
    assert Lookup.union(lookups) == Lookup(
        [first, second], [IDENTITY], [(IDENTITY.key, FIRST_ID)], [("ann", "key")], LATER
    )
    assert Lookup.union([]) == Lookup([], [], [], [], None)
