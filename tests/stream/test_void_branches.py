from __future__ import annotations

import pytest

from service.events.position import Cursor, Position
from service.stream.void_branches import VoidBranches
from tests.stream.fakes import at

pytestmark = pytest.mark.unit


def cursor(position: Position) -> Cursor:
    return Cursor(position.seq, position.mark)


@pytest.fixture
def branches() -> VoidBranches:
    """Two branches: 4 and 5 were lost after 3, and then 3 itself, with another 4, after 2."""
    made = VoidBranches(max_events=100)
    made.add(at(3), [at(4), at(5)])
    made.add(at(2), [at(3), at(4, history=1)])
    return made


@pytest.mark.parametrize(
    ("void", "common"),
    [
        (at(4, history=1), at(2)),
        (at(3), at(2)),
        (at(5), at(2)),  # it leads to 3, which was lost later
        (at(4), at(2)),
        (at(2), None),
        (at(4, history=2), None),
        (at(6), None),
    ],
)
def test_a_void_cursor_leads_to_where_its_history_parts_from_the_log(
    branches: VoidBranches, void: Position, common: Position | None
) -> None:
    assert branches.common_with(cursor(void)) == common


def test_an_event_that_was_lost_twice_leads_to_where_it_was_lost_last() -> None:
    branches = VoidBranches(max_events=100)
    branches.add(at(3), [at(4), at(5), at(6)])
    branches.add(at(5), [at(6)])  # meanwhile the log had gone back to the first history
    assert branches.common_with(cursor(at(6))) == at(5)


def test_a_bare_seq_is_on_no_branch(branches: VoidBranches) -> None:
    assert branches.common_with(Cursor(4, None)) is None


def test_only_the_last_void_events_are_kept() -> None:
    branches = VoidBranches(max_events=3)
    branches.add(at(0), [at(seq) for seq in range(1, 6)])
    assert [branches.common_with(cursor(at(seq))) for seq in range(1, 6)] == [None, None, at(0), at(0), at(0)]
    branches.add(at(9), [at(10, history=1)])
    assert branches.common_with(cursor(at(3))) is None
