from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.topics import any_covers, covers, disjoint, intersect, is_topic, is_topic_pattern
from tests.growth import is_superlinear

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

# Every topic of up to four parts over two letters: deep enough to tell any two of the patterns below apart.
TOPICS = [".".join(parts) for depth in range(1, 5) for parts in product("ab", repeat=depth)]
NAMES = [topic for topic in TOPICS if topic.count(".") < 3]
PATTERNS = ["*", *NAMES, *(f"{name}.*" for name in NAMES)]
pattern_lists = st.lists(st.sampled_from(PATTERNS), max_size=6)


@pytest.mark.parametrize("topic", ["a", "payments.eu", "a-b_c.0", "a." * 49 + "ab", "-", "_"])
def test_dot_separated_parts_are_a_topic(topic: str) -> None:
    assert is_topic(topic)
    assert is_topic_pattern(topic)


@pytest.mark.parametrize(
    "topic", ["", ".", "a.", ".a", "a..b", "A", "a b", "ü", "a\n", "a\0", "a" * 101, "a/b", "٣", "a.%"]
)
def test_anything_else_is_no_topic(topic: str) -> None:
    assert not is_topic(topic)
    assert not is_topic_pattern(topic)


@pytest.mark.parametrize("pattern", ["*", "a.*", "payments.eu.*"])
def test_a_pattern_is_no_topic(pattern: str) -> None:
    assert is_topic_pattern(pattern)
    assert not is_topic(pattern)


@pytest.mark.parametrize("pattern", ["**", "*.a", "a.*.b", "a*", ".*", "a.**", "*\n", None, 1, ["*"], "a" * 99 + ".*"])
def test_anything_else_is_no_pattern(pattern: object) -> None:
    assert not is_topic_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "topic", "covered"),
    [
        ("*", "payments", True),
        ("payments", "payments", True),
        ("payments", "payments.eu", False),
        ("payments.*", "payments.eu", True),
        ("payments.*", "payments.eu.cards", True),
        ("payments.*", "payments.eu.*", True),
        ("payments.*", "payments", False),
        ("payments.*", "paymentsx.eu", False),
        ("payments.eu.*", "payments.*", False),
        ("payments.*", "*", False),
    ],
)
def test_a_pattern_covers_all_beneath_it(pattern: str, topic: str, covered: bool) -> None:  # noqa: FBT001 - a case
    assert covers(pattern, topic) is covered


@given(pattern_lists, pattern_lists)
def test_an_intersection_covers_exactly_what_both_cover(granted: list[str], requested: list[str]) -> None:
    both = intersect(granted, requested)
    for topic in TOPICS:
        assert any_covers(both, topic) is (any_covers(granted, topic) and any_covers(requested, topic))


@given(pattern_lists, pattern_lists)
def test_equal_intersections_are_written_alike(granted: list[str], requested: list[str]) -> None:
    both = intersect(granted, requested)
    assert both == intersect(requested, granted) == tuple(sorted(set(both)))
    assert not any(covers(wide, narrow) for wide in both for narrow in both if wide != narrow)


@given(pattern_lists, pattern_lists)
def test_disjoint_are_those_that_share_no_topic(granted: list[str], requested: list[str]) -> None:
    assert disjoint(granted, requested) == [pattern for pattern in requested if not intersect(granted, [pattern])]


@pytest.mark.parametrize("use", [intersect, disjoint])
def test_many_patterns_take_time_in_proportion(use: Callable[[list[str], list[str]], object]) -> None:
    def lists(count: int) -> tuple[list[str], list[str]]:
        topics = [f"a.b.c{number}" for number in range(count)]
        return topics, [*topics[: count // 2], *(f"{topic}.*" for topic in topics)]

    assert not is_superlinear(lambda both: use(*both), lists)
