from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.http.pagination import BIGINT_MAX, START, decode_cursor, encode_cursor

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.unit

SOME_ID = UUID("01a1fd87-65c3-71a6-ba06-3929d3197295")
NEPAL = timezone(timedelta(hours=5, minutes=45))
AT = datetime(2026, 11, 21, 9, 41, 7, 123456, UTC)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(0, BIGINT_MAX),
    str: st.text(st.characters(exclude_categories=("C", "Z"))),
    UUID: st.uuids(),
    datetime: st.datetimes(
        datetime(1, 1, 2),  # noqa: DTZ001 - a bound
        datetime(9999, 12, 30),  # noqa: DTZ001 - a bound
        timezones=st.sampled_from([UTC, NEPAL]),
    ),
}


@st.composite
def pages(draw: st.DrawFn) -> list[tuple[tuple[type, ...], tuple[Any, ...] | None]]:
    """Return the kinds of each list of a page, with where it stands; at least one has not ended."""
    kinds = draw(st.lists(st.lists(st.sampled_from(list(VALUES)), min_size=1).map(tuple), min_size=1, max_size=3))
    keysets = [draw(st.one_of(st.none(), st.just(()), st.tuples(*map(VALUES.__getitem__, kind)))) for kind in kinds]
    if all(keyset is None for keyset in keysets):
        keysets[0] = ()
    return list(zip(kinds, keysets, strict=True))


@given(pages())
def test_a_cursor_leads_back_to_where_each_list_stands(page: list[tuple[tuple[type, ...], Any]]) -> None:
    kinds, keysets = zip(*page, strict=True)
    cursor = encode_cursor(*keysets)
    assert cursor is not None
    assert decode_cursor(cursor, *kinds) == list(keysets)


@given(pages())
def test_a_cursor_can_stand_in_an_address_as_it_is(page: list[tuple[tuple[type, ...], Any]]) -> None:
    cursor = encode_cursor(*(keyset for _, keyset in page))
    assert cursor is not None
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_the_first_page_has_no_cursor() -> None:
    assert decode_cursor(None, (int,), (str, UUID)) == [START, START]


def test_the_last_page_has_no_cursor() -> None:
    assert encode_cursor(None) is None
    assert encode_cursor(None, None) is None


def test_a_time_comes_back_in_utc() -> None:
    [keyset] = decode_cursor(encode_cursor((AT.astimezone(NEPAL),)), (datetime,))
    assert keyset is not None
    assert keyset[0].isoformat() == "2026-11-21T09:41:07.123456+00:00"


def raw(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    ("cursor", "kinds"),
    [
        ("", [(int,)]),
        ("5", [(int,)]),
        ("é", [(int,)]),
        ("\0", [(int,)]),
        ("4pGg", [(int,)]),
        (raw(17), [(int,)]),
        (raw(None), [(int,)]),
        (raw({}), [(int,)]),
        (raw([]), [(int,)]),
        (raw([None]), [(int,)]),
        (raw([None, None]), [(int,), (str,)]),
        (raw([17]), [(int,)]),
        (raw([[17], [17]]), [(int,)]),
        (raw([[17]]), [(int,), (int,)]),
        (raw([[17, 17]]), [(int,)]),
        (raw([[-1]]), [(int,)]),
        (raw([[BIGINT_MAX + 1]]), [(int,)]),
        (raw([[True]]), [(int,)]),
        (raw([[1.5]]), [(int,)]),
        (raw([["17"]]), [(int,)]),
        (raw([[17]]), [(str,)]),
        (raw([["a\0"]]), [(str,)]),
        (raw([["a\nb"]]), [(str,)]),
        (raw([["17"]]), [(UUID,)]),
        (raw([[17]]), [(UUID,)]),
        (raw([["yesterday"]]), [(datetime,)]),
        (raw([["2026-11-21T09:41:07"]]), [(datetime,)]),
        (raw([["0001-01-01T00:00:00+14:00"]]), [(datetime,)]),
    ],
)
def test_any_other_cursor_is_refused(cursor: str, kinds: Sequence[Sequence[type]]) -> None:
    with pytest.raises(InvalidRequest, match=r"/cursor: "):
        decode_cursor(cursor, *kinds)


@given(st.text(max_size=200))
def test_no_text_breaks_it(cursor: str) -> None:
    with suppress(InvalidRequest):
        decode_cursor(cursor, (int,), (str, UUID, datetime))
