from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest
from sqlalchemy import Interval
from sqlalchemy.dialects import postgresql

from service.audit.queries import LISTS, PageRequest, TimeRange, hour_of
from service.audit.report import delivery_stats
from service.http.pagination import decode_cursor, encode_cursor

if TYPE_CHECKING:
    from sqlalchemy import Select

pytestmark = pytest.mark.unit

SINCE = datetime(2026, 11, 21, 9, 41, 7, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
UNTIL = SINCE + timedelta(days=1)
VALUES: dict[type, Any] = {int: 4711, str: "alice", UUID: UUID(int=7), datetime: datetime(2026, 11, 21, tzinfo=UTC)}
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


class Recorder:
    """Takes a statement, and returns as many empty rows as it has."""

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows = rows or []
        self.statement: Select[Any]

    async def execute(self, statement: Select[Any]) -> Recorder:
        self.statement = statement
        return self

    async def scalar(self, _statement: Select[Any]) -> None:
        """Return how far the newest alerts reach: there are fewer than make a part."""

    def mappings(self) -> list[dict[str, Any]]:
        return self.rows

    @property
    def sql(self) -> str:
        return str(self.statement.compile(dialect=DIALECT))

    @property
    def parameters(self) -> list[Any]:
        return list(self.statement.compile(dialect=DIALECT).params.values())


async def queried(name: str, filters: dict[str, Any], **options: Any) -> Recorder:
    tx = Recorder()
    page = options.pop("page", PageRequest(5, max_bytes=None))
    times = options.pop("times", TimeRange())
    await LISTS[name].page(cast("Any", tx), times, page, filters, **options)
    return tx


@pytest.mark.parametrize("name", LISTS)
def test_a_cursor_holds_the_values_that_order_the_list(name: str) -> None:
    keyset = LISTS[name].keyset
    place = tuple(VALUES[kind] for kind in keyset)
    assert decode_cursor(encode_cursor(place), keyset) == [place]


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_selects_what_its_rows_show_and_its_order(name: str) -> None:
    source = LISTS[name]
    tx = await queried(name, {})
    assert {column.name for column in tx.statement.selected_columns} == {
        *source.row.model_fields,
        *source.order,
        "rows_found",
    }
    assert not any(isinstance(column.type, Interval) for column in tx.statement.selected_columns)
    assert "LIMIT" in tx.sql
    assert "WHERE" not in tx.sql


@pytest.mark.parametrize("name", LISTS)
async def test_a_page_begins_after_the_place_and_ends_with_one(name: str) -> None:
    source = LISTS[name]
    place = tuple(VALUES[kind] for kind in source.keyset)
    row = dict(zip(source.order, place, strict=True))
    tx = Recorder([{**row, "rows_found": 3}] * 3)
    rows, more = await source.page(cast("Any", tx), TimeRange(), PageRequest(2, place), {})
    assert (len(rows), more) == (2, place)
    assert set(place) <= set(tx.parameters)
    tx.rows = [{**row, "rows_found": 3}]  # which fill the bytes of a page
    assert await source.page(cast("Any", tx), TimeRange(), PageRequest(2), {}) == (tx.rows, place)
    tx.rows = [{**row, "rows_found": 1}]
    assert await source.page(cast("Any", tx), TimeRange(), PageRequest(2), {}) == (tx.rows, None)


async def test_a_list_that_has_ended_is_not_queried_again() -> None:
    tx = Recorder()
    assert await LISTS["connections"].page(cast("Any", tx), TimeRange(), PageRequest(2, None), {}) == ([], None)
    assert not hasattr(tx, "statement")


async def test_a_time_range_includes_its_beginning_and_not_its_end() -> None:
    tx = await queried("rejections", {}, times=TimeRange(SINCE, UNTIL))
    assert "at >= " in tx.sql
    assert "at < " in tx.sql
    assert [value for value in tx.parameters if isinstance(value, datetime)] == [SINCE, UNTIL]


async def test_sources_are_counted_from_the_beginning_of_the_hour() -> None:
    tx = await queried("sources", {}, times=TimeRange(SINCE, UNTIL))
    assert [value for value in tx.parameters if isinstance(value, datetime)] == [hour_of(SINCE), UNTIL]
    assert hour_of(SINCE) == datetime(2026, 11, 21, 13, tzinfo=UTC)


@pytest.mark.parametrize("nothing", [None, [], ()])
async def test_a_filter_without_a_value_is_none(nothing: Any) -> None:
    assert "WHERE" not in (await queried("unreceived", {"recipient": nothing, "severity": nothing})).sql
    assert "WHERE" not in (await queried("connections", {"is_open": None})).sql


async def test_several_values_of_a_filter_are_alternatives() -> None:
    tx = await queried("unreceived", {"recipient": ["alice", "bob"], "status": ["open"]})
    assert " IN " in tx.sql
    assert ["alice", "bob"] in tx.parameters


@pytest.mark.parametrize(("is_open", "condition"), [(True, "closed_at IS NULL"), (False, "closed_at IS NOT NULL")])
async def test_connections_are_open_or_closed(is_open: bool, condition: str) -> None:  # noqa: FBT001
    assert condition in (await queried("connections", {"is_open": is_open})).sql


async def test_a_token_for_some_topics_narrows_lists_of_alerts() -> None:
    narrowed = await queried("unreceived", {}, topics=["payments.*"])
    assert narrowed.sql != (await queried("unreceived", {}, topics=["*"])).sql
    assert "WHERE" in narrowed.sql


def test_a_row_of_the_report_names_its_percentiles() -> None:
    row = {"sent": 3, "received": 0, "replayed": 1, "sent_in": [0.1, 0.2, 0.3], "received_in": None}
    assert delivery_stats(row) == {
        "sent": 3,
        "received": 0,
        "replayed": 1,
        "sent_p50": 0.1,
        "sent_p95": 0.2,
        "sent_p99": 0.3,
        "received_p50": None,
        "received_p95": None,
        "received_p99": None,
    }
