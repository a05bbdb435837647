from __future__ import annotations

import pytest

from service.database.ids import random_ids
from service.events.position import ORIGIN, Cursor, Position, event_id_from_hex, event_id_hex

pytestmark = pytest.mark.unit

HERE = Position(4711, 0x9F3A2C1D00112233 - 2**64)


def test_a_position_is_written_as_the_seq_and_eight_digits_of_the_id() -> None:
    assert HERE.cursor == "4711-9f3a2c1d"
    assert Position(1, 5).cursor == "1-00000000"
    assert ORIGIN.cursor == "0"
    assert Position(4711, 0).cursor == "4711"  # its event was purged


def test_a_cursor_is_of_the_position_that_wrote_it_and_of_no_other() -> None:
    cursor = Cursor.parse(HERE.cursor)
    assert cursor == Cursor(4711, "9f3a2c1d")
    assert cursor.matches(HERE)
    assert not cursor.matches(Position(4711, HERE.id ^ 1 << 40))
    assert not cursor.matches(Position(4712, HERE.id))


def test_a_bare_seq_is_a_cursor_of_any_position_there() -> None:
    cursor = Cursor.parse("4711")
    assert cursor == Cursor(4711, None)
    assert cursor.matches(HERE)
    assert cursor.matches(Position(4711, 1))
    assert not cursor.matches(Position(4712, 1))
    assert Cursor.parse("0") == Cursor(0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        "-1",
        "+1",
        "1.5",
        " 1",
        "1\n",
        "٣",
        "4711-",
        "4711-9F3A2C1D",
        "4711-9f3a2c1",
        "4711-9f3a2c1d0",
        str(2**63),
    ],
)
def test_anything_else_is_no_cursor(text: str) -> None:
    assert Cursor.parse(text) is None


def test_an_id_is_sixteen_digits_of_its_unsigned_value() -> None:
    assert event_id_hex(HERE.id) == "9f3a2c1d00112233"
    assert event_id_hex(5) == "0000000000000005"
    for event_id in (*random_ids(100), 0, -1, 2**63 - 1, -(2**63)):
        assert event_id_from_hex(event_id_hex(event_id)) == event_id
