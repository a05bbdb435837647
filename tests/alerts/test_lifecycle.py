from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts import lifecycle
from service.alerts.alert_record import FIELDS, IMMUTABLE
from service.alerts.lifecycle import REPEAT_INTERVAL, SERVICE, Action, Transition
from service.errors import ActionConflict
from service.severity import RANK
from tests.alerts.examples import NOW, stored

if TYPE_CHECKING:
    from datetime import datetime

    from service.alerts.alert_record import AlertRecord
    from service.severity import Severity

pytestmark = pytest.mark.unit

SECOND = timedelta(seconds=1)
LATER = NOW + timedelta(minutes=5)


def act(alert: AlertRecord, action: Action, actor: str = "ann", at: datetime = LATER) -> Transition:
    transition = lifecycle.act(alert, action, actor, at)
    assert transition is not None
    return transition


# Actions.


@pytest.mark.parametrize(
    ("status", "action", "then"),
    [
        ("open", Action.ACKNOWLEDGE, "acknowledged"),
        ("open", Action.RESOLVE, "resolved"),
        ("acknowledged", Action.RESOLVE, "resolved"),
        ("acknowledged", Action.REOPEN, "open"),
        ("resolved", Action.REOPEN, "open"),
        ("expired", Action.REOPEN, "open"),
        ("open", Action.REOPEN, None),
        ("acknowledged", Action.ACKNOWLEDGE, None),
        ("resolved", Action.ACKNOWLEDGE, None),
        ("resolved", Action.RESOLVE, None),
        ("expired", Action.ACKNOWLEDGE, None),
        ("expired", Action.RESOLVE, None),
    ],
)
def test_an_action_leads_from_some_statuses_to_another_and_is_a_conflict_in_the_rest(
    status: str, action: Action, then: str | None
) -> None:
    alert = stored(status=status, status_by="bob")
    if then is None:
        with pytest.raises(ActionConflict):
            act(alert, action)
        return
    changed, kind = act(alert, action)
    assert (changed.status, changed.status_by, changed.status_at, changed.updated_at) == (then, "ann", LATER, LATER)
    assert kind == action.kind


@pytest.mark.parametrize("action", Action)
def test_repeating_ones_own_action_is_no_transition(action: Action) -> None:
    assert lifecycle.act(stored(status=action.status, status_by="ann"), action, "ann", LATER) is None


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        ("acknowledged", "bob acknowledged the alert at 2026-11-21T09:41:07.123456Z."),
        ("resolved", "bob resolved the alert at 2026-11-21T09:41:07.123456Z."),
        ("expired", "The alert expired at 2026-11-21T09:41:07.123456Z."),
    ],
)
def test_a_conflict_says_who_was_first_and_holds_the_alert(status: str, detail: str) -> None:
    alert = stored(status=status, status_by="bob")
    with pytest.raises(ActionConflict) as raised:
        act(alert, Action.ACKNOWLEDGE)
    assert raised.value.detail == detail
    assert orjson.dumps(raised.value.members["alert"]) == alert.wire_with_seq()


def test_an_alert_that_is_acknowledged_or_resolved_does_not_escalate_until_it_is_reopened() -> None:
    alert = stored(escalate_after=60, escalate_at=NOW + 60 * SECOND)
    acknowledged = act(alert, Action.ACKNOWLEDGE).alert
    assert acknowledged.escalate_at is None
    assert act(alert, Action.RESOLVE).alert.escalate_at is None
    assert act(acknowledged, Action.REOPEN).alert.escalate_at == LATER + 60 * SECOND
    assert act(stored(status="resolved"), Action.REOPEN).alert.escalate_at is None


def test_a_reopened_alert_expires_only_if_its_time_is_still_ahead() -> None:
    for expires_at, then in ((NOW, None), (LATER + SECOND, LATER + SECOND)):
        assert act(stored(status="resolved", expires_at=expires_at), Action.REOPEN).alert.expires_at == then


# Repetitions.


@pytest.mark.parametrize("status", ["open", "acknowledged"])
@pytest.mark.parametrize(
    ("posted", "severity"), [("info", "warning"), ("warning", "warning"), ("error", "error"), ("critical", "critical")]
)
def test_a_repetition_raises_the_severity_and_reopens_an_acknowledged_alert_if_it_is_more_severe(
    status: str, posted: str, severity: str
) -> None:
    alert = stored(status=status, status_by="ann", severity="warning", escalate_after=60)
    changed, _ = lifecycle.repeat(alert, stored(severity=posted, source="other"), LATER)
    assert (changed.severity, changed.occurrences) == (severity, 2)
    if status == "acknowledged" and severity != "warning":
        assert (changed.status, changed.status_by, changed.status_at) == ("open", "other", LATER)
        assert changed.escalate_at == LATER + 60 * SECOND
    else:
        assert (changed.status, changed.status_by, changed.status_at) == (status, "ann", NOW)
        assert changed.escalate_at is None


def test_a_repetition_extends_the_expiry_and_removes_it_if_one_of_them_never_expires() -> None:
    for first, second, then in ((1, 2, 2), (2, 1, 2), (None, 1, None), (1, None, None)):
        old, new, expected = (None if n is None else LATER + n * SECOND for n in (first, second, then))
        assert lifecycle.repeat(stored(expires_at=old), stored(expires_at=new), LATER).alert.expires_at == expected


def test_repetitions_within_a_second_are_counted_and_become_one_event_at_its_end() -> None:
    first = lifecycle.repeat(stored(), stored(), NOW)
    assert (first.kind, first.alert.last_repeat_event_at, first.alert.repeat_event_due_at) == (
        "alert.repeated",
        NOW,
        None,
    )
    second = lifecycle.repeat(first.alert, stored(), NOW + 0.4 * SECOND)
    third = lifecycle.repeat(second.alert, stored(), NOW + 0.8 * SECOND)
    assert (second.kind, third.kind, third.alert.repeat_event_due_at) == (None, None, NOW + REPEAT_INTERVAL)
    assert list(lifecycle.process_due(third.alert, NOW + 0.9 * SECOND)) == []
    [due] = lifecycle.process_due(third.alert, NOW + SECOND)
    assert (due.kind, due.alert.occurrences, due.alert.repeat_event_due_at) == ("alert.repeated", 4, None)
    assert due.alert.updated_at == NOW + 0.8 * SECOND


def test_a_more_severe_repetition_is_an_event_at_once() -> None:
    first = lifecycle.repeat(stored(), stored(), NOW).alert
    second = lifecycle.repeat(first, stored(severity="critical"), NOW + 0.1 * SECOND)
    assert (second.kind, second.alert.last_repeat_event_at) == ("alert.repeated", NOW + 0.1 * SECOND)


# Due transitions.


def test_an_alert_expires_and_does_not_escalate_any_more() -> None:
    alert = stored(expires_at=NOW, escalate_after=1, escalate_at=NOW)
    [transition] = lifecycle.process_due(alert, LATER)
    assert transition.kind == "alert.expired"
    assert (transition.alert.status, transition.alert.status_by, transition.alert.status_at) == (
        "expired",
        SERVICE,
        LATER,
    )
    assert transition.alert.escalate_at is None


def test_an_alert_escalates_to_all_who_may_see_its_topic_once() -> None:
    [transition] = lifecycle.process_due(stored(recipients=["ann"], escalate_after=1, escalate_at=NOW), LATER)
    assert (transition.kind, transition.alert.recipients) == ("alert.escalated", None)
    assert (transition.alert.status, transition.alert.status_by) == ("open", "billing")
    assert list(lifecycle.process_due(transition.alert, LATER)) == []


NEWS = {"title": "97 %", "body": "Nearly full.", "attributes": {"full": 97}, "links": [{"title": "t", "url": "u"}]}


@pytest.mark.parametrize("is_news", [True, False])
@pytest.mark.parametrize(
    ("known", "posted", "latest"),
    [(None, None, None), (NOW, None, NOW), (None, NOW, NOW), (NOW, LATER, LATER), (LATER, NOW, LATER)],
)
def test_a_repetition_replaces_what_the_alert_says_if_it_is_news_and_keeps_the_latest_occurrence(
    known: datetime | None, posted: datetime | None, latest: datetime | None, *, is_news: bool
) -> None:
    alert = stored(title="80 %", occurred_at=known, recipients=["ann"], source="other")
    changed = lifecycle.repeat(alert, stored(**NEWS, occurred_at=posted), LATER, is_news=is_news).alert
    assert ({name: getattr(changed, name) for name in NEWS} == NEWS) is is_news
    assert changed.occurred_at == latest
    assert (changed.occurrences, changed.source, changed.recipients) == (2, "other", ["ann"])


def test_what_is_counted_on_an_alert_that_is_over_reaches_its_log_and_changes_nothing_else() -> None:
    alert = stored(status="resolved", occurred_at=NOW, expires_at=NOW, escalate_after=1)
    first = lifecycle.count(alert, LATER)
    counted = replace(alert, occurrences=2, updated_at=LATER, last_repeat_event_at=LATER)
    assert first == Transition(counted, "alert.repeated")
    second = lifecycle.count(first.alert, LATER)
    due_at = LATER + REPEAT_INTERVAL
    assert second == Transition(replace(counted, occurrences=3, repeat_event_due_at=due_at), None)
    assert not second.alert.is_due(LATER)
    assert second.alert.is_due(due_at)
    last = replace(second.alert, last_repeat_event_at=due_at, repeat_event_due_at=None)
    assert list(lifecycle.process_due(second.alert, due_at)) == [Transition(last, "alert.repeated")]
    assert not last.is_due(LATER + timedelta(days=1))


def test_a_pending_repeat_event_comes_before_the_expiry() -> None:
    alert = stored(occurrences=3, last_repeat_event_at=NOW, repeat_event_due_at=NOW + SECOND, expires_at=NOW + SECOND)
    assert [transition.kind for transition in lifecycle.process_due(alert, LATER)] == [
        "alert.repeated",
        "alert.expired",
    ]


def test_a_comment_changes_nothing_but_the_time_and_announces_the_count() -> None:
    alert = stored(occurrences=3, last_repeat_event_at=NOW, repeat_event_due_at=NOW + SECOND)
    transition = lifecycle.comment(alert, LATER)
    assert transition == (replace(alert, updated_at=LATER, repeat_event_due_at=None), "alert.commented")


# Any life.

actions = st.tuples(st.sampled_from(Action), st.sampled_from(["ann", "bob"]))
posts = st.tuples(st.sampled_from(list(RANK)), st.none() | st.integers(1, 30))
commands = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 1.0, 7.0]), actions | posts | st.sampled_from(["comment", "wait"])),
    max_size=25,
)


def follow(alert: AlertRecord, command: object, at: datetime) -> list[Transition]:
    """Return the transitions of one command."""
    match command:
        case (Action() as action, str(actor)):
            try:
                transition = lifecycle.act(alert, action, actor, at)
            except ActionConflict:
                transition = None
            return [] if transition is None else [transition]
        case (severity, expires_after) if alert.is_unresolved:
            expires_at = at + expires_after * SECOND if isinstance(expires_after, int) else None
            return [lifecycle.repeat(alert, stored(severity=severity, expires_at=expires_at), at)]
        case (_, _):
            return [lifecycle.count(alert, at)]  # it is late
        case "comment":
            return [lifecycle.comment(alert, at)]
        case _:
            return list(lifecycle.process_due(alert, at))


@given(st.sampled_from(list(RANK)), st.none() | st.integers(1, 20), st.none() | st.integers(1, 20), commands)
def test_whatever_happens_to_an_alert_its_log_tells_all_of_it(
    severity: Severity, expires_after: int | None, escalate_after: int | None, happenings: list[tuple[float, object]]
) -> None:
    alert = stored(
        severity=severity,
        expires_at=NOW + expires_after * SECOND if expires_after else None,
        escalate_after=escalate_after,
        escalate_at=NOW + escalate_after * SECOND if escalate_after else None,
    )
    at, logged = NOW, alert
    repetitions = 0
    for pause, command in happenings:
        at += pause * SECOND
        for before, (after, kind) in _pairs(alert, follow(alert, command, at)):
            assert all(getattr(after, name) == getattr(before, name) for name in IMMUTABLE)
            assert RANK[after.severity] >= RANK[before.severity]
            assert (after.status != before.status) <= (after.status_at == at)
            assert after.status == "open" or after.escalate_at is None
            if kind is None:
                assert after.repeat_event_due_at is not None
                assert after.last_repeat_event_at is not None
                assert after.repeat_event_due_at - after.last_repeat_event_at == REPEAT_INTERVAL
                assert changed_fields(before, after) <= {
                    "occurrences",
                    "updated_at",
                    "expires_at",
                    "repeat_event_due_at",
                }
            else:
                assert after.repeat_event_due_at is None
                logged = after
            repetitions += after.occurrences - before.occurrences
            alert = after
        if command == "wait":
            assert not alert.is_due(at)
    assert alert.occurrences == 1 + repetitions
    assert alert.occurrences == logged.occurrences or alert.repeat_event_due_at is not None


def _pairs(alert: AlertRecord, transitions: list[Transition]) -> list[tuple[AlertRecord, Transition]]:
    """Return each transition beside the state before it."""
    states = [alert, *(transition.alert for transition in transitions)]
    return list(zip(states, transitions, strict=False))


def changed_fields(before: AlertRecord, after: AlertRecord) -> set[str]:
    return {name for name in FIELDS if getattr(before, name) != getattr(after, name)}
