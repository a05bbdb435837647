"""``audit.log_gaps``: empty, or somebody has taken events out of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.harness import Node


async def gaps(node: Node) -> list[tuple[int, int, int]]:
    return sorted(tuple(row) for row in await node.sql("SELECT after_seq, before_seq, missing FROM audit.log_gaps"))


async def test_a_log_of_which_nothing_was_taken_has_no_gap(node: Node) -> None:
    assert await gaps(node) == []
    await node.post_all([{}] * 10)
    assert await gaps(node) == []


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([4], [(3, 5, 1)]),
        ([4, 5, 6], [(3, 7, 3)]),
        ([2, 3, 7], [(1, 4, 2), (6, 8, 1)]),
        ([1, 2], [(0, 3, 2)]),
        ([9, 10], [(8, 11, 2)]),
        ([1, 5, 10], [(0, 2, 1), (4, 6, 1), (9, 11, 1)]),
        (list(range(1, 11)), [(0, 11, 10)]),
    ],
)
async def test_a_hole_is_found_also_at_either_end_of_the_log(
    node: Node, taken: list[int], expected: list[tuple[int, int, int]]
) -> None:
    await node.post_all([{}] * 10)
    await node.sql("DELETE FROM events WHERE seq = ANY ($1)", taken)
    assert await gaps(node) == expected


async def test_a_hole_between_two_partitions_is_found(node: Node) -> None:
    await node.post_all([{}] * 2)
    await node.sql("UPDATE events SET seq = 1000001 WHERE seq = 2")
    await node.sql("UPDATE log_chain SET last_seq = 1000001 WHERE last_seq = 2")
    assert await gaps(node) == [(1, 1_000_001, 999_999)]
