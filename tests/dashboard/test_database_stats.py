from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dashboard.database_stats import evenly_spaced

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("after", "head", "limit", "expected"),
    [
        (0, 0, 5, []),
        (3, 3, 5, []),
        (0, 3, 5, [3, 2, 1]),
        (0, 5, 5, [5, 4, 3, 2, 1]),
        (0, 6, 5, [6, 4, 2]),
        (10, 20, 3, [20, 16, 12]),
        (0, 100, 1, [100]),
    ],
)
def test_numbers_are_evenly_spaced_from_the_head_down(after: int, head: int, limit: int, expected: list[int]) -> None:
    assert evenly_spaced(after, head, limit) == expected


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 500))
def test_there_are_never_more_numbers_than_the_limit_and_none_outside_the_range(
    after: int, span: int, limit: int
) -> None:
    numbers = evenly_spaced(after, after + span, limit)
    assert len(numbers) <= limit
    assert bool(numbers) == (span > 0)
    assert all(after < number <= after + span for number in numbers)
