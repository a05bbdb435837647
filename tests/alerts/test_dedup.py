from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.dedup import EVERYBODY, NO_GROUPS, DedupGroups, KeyOfSource, audience_of
from service.alerts.fields import RECIPIENTS_MAX
from service.auth.principal import SUBJECT_MAX

pytestmark = pytest.mark.unit

names = st.sampled_from(["ann", "bob", "a", "n", "ann,bob", '"', EVERYBODY])
lists = st.none() | st.lists(names, max_size=4)


@given(lists, lists)
def test_an_audience_is_a_set_of_recipients_and_everybody_is_none_of_them(
    some: list[str] | None, others: list[str] | None
) -> None:
    as_sets = [None if recipients is None else frozenset(recipients) for recipients in (some, others)]
    assert (audience_of(some) == audience_of(others)) is (as_sets[0] == as_sets[1])


def test_an_audience_is_short_however_long_the_list_is() -> None:
    people = [f"{number:02}".ljust(SUBJECT_MAX, "ü") for number in range(RECIPIENTS_MAX)]
    shuffled = random.Random(1).sample(people, len(people))
    assert len(audience_of(people)) == 64
    assert audience_of(people) == audience_of(shuffled) != audience_of(people[1:])


def test_the_sources_of_a_group_share_their_keys_and_no_others_do() -> None:
    groups = DedupGroups({"payments": ["billing", "checkout"], "infra": ["prometheus"]})
    assert groups.sharing("billing") == groups.sharing("checkout") == {"billing", "checkout"}
    assert groups.sharing("prometheus") == NO_GROUPS.sharing("prometheus") == {"prometheus"}
    key = KeyOfSource("checkout", "default", "k")
    assert groups.keys(key) == [key._replace(source="billing"), key]
    assert groups.members == [("billing", "payments"), ("checkout", "payments"), ("prometheus", "infra")]
