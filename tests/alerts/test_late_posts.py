from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from service.alerts.dedup import EVERYBODY, DedupIdentity, KeyOfSource
from service.alerts.late_posts import Occurrence, Resolution, is_late, precedes
from service.database.ids import uuid7
from tests.alerts.examples import NOW, stored

pytestmark = pytest.mark.unit

SECOND = timedelta(seconds=1)
WITHIN = 30 * SECOND
IDENTITY = DedupIdentity(KeyOfSource("billing", "default", "k"), EVERYBODY)
YEARS_AGO = NOW - timedelta(days=9_999)
"""The clock of a source may say anything."""


def resolution(ended_at: datetime | None) -> Resolution:
    return Resolution(IDENTITY, uuid7(), NOW, ended_at)


@pytest.mark.parametrize(
    ("began", "after", "is_one"),
    [
        (-1, 0, True),
        (-1, 29, True),
        (-1, 30, False),  # it goes on: an Alertmanager had lost sight of it
        (0, 29, False),
        (1, 0, False),
    ],
)
@pytest.mark.parametrize("source", [NOW, YEARS_AGO, NOW + timedelta(days=1)])
def test_what_goes_on_is_late_if_it_began_before_the_end_and_arrives_soon_after_its_resolution(
    source: datetime, began: int, after: int, *, is_one: bool
) -> None:
    occurrence = Occurrence(source + began * SECOND, WITHIN)
    assert is_late(occurrence, resolution(source), None, NOW + after * SECOND) is is_one
    assert not is_late(occurrence, resolution(None), stored(occurred_at=source + SECOND), NOW)  # a person resolved it


def test_what_goes_on_is_late_if_what_was_resolved_is_known_to_have_begun_later() -> None:
    for began, is_one in ((4, True), (5, True), (6, False)):
        occurrence = Occurrence(NOW + began * SECOND, WITHIN)
        assert is_late(occurrence, resolution(NOW), stored(occurred_at=NOW + 5 * SECOND), NOW) is is_one


@pytest.mark.parametrize("source", [NOW, YEARS_AGO, NOW + timedelta(days=1)])
def test_what_is_over_is_late_only_if_something_newer_is_known_of_what_was_resolved(source: datetime) -> None:
    for seconds, is_one in ((-1, True), (0, False), (1, False)):
        occurrence = Occurrence(source + seconds * SECOND)
        for ended_at in (None, NOW):
            assert is_late(occurrence, resolution(ended_at), stored(occurred_at=source), NOW) is is_one
        assert not is_late(occurrence, resolution(None), stored(), NOW)
        assert not is_late(occurrence, resolution(None), None, NOW)


@pytest.mark.parametrize(
    ("ended", "known", "is_one"),
    [
        (1, None, False),
        (1, 1, False),
        (0, None, False),  # of two replicas that differ
        (-30, None, False),
        (-31, None, True),
        (-31, -60, True),
        (-5, -4, True),  # it was tried again
        (-5, -5, True),
        (-5, -6, False),
    ],
)
def test_a_resolution_is_late_if_it_ended_long_before_or_is_known(
    ended: int, known: int | None, *, is_one: bool
) -> None:
    known_end = NOW + known * SECOND if known is not None else None
    assert precedes(NOW + ended * SECOND, stored(occurred_at=NOW), known_end, WITHIN) is is_one
    assert not precedes(NOW + ended * SECOND, stored(), known_end, WITHIN)


def test_a_person_who_resolves_does_not_say_when_it_ended() -> None:
    first, second = resolution(NOW - SECOND), resolution(None)._replace(resolved_at=NOW + SECOND)
    assert second.after(first) == first._replace(alert_id=second.alert_id)
    assert second.after(None) == second.after(resolution(None)) == second
    assert first.after(second) == first
