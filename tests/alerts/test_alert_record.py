"""Whatever has to spell the fields of an alert again is held to ``AlertRecord``."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from service.alerts.alert_record import FIELDS, IMMUTABLE, WIRE_FIELDS, with_seq
from service.alerts.schemas import AlertIn, AlertOut, AlertShown, BatchItem
from service.alerts.tables import alerts
from service.client import models
from tests.alerts.examples import NOW, stored

pytestmark = pytest.mark.unit

APPEND_FUNCTION = (Path(__file__).parents[2] / "alembic" / "sql" / "append_alerts.sql").read_text()


def test_the_schemas_have_the_fields_of_the_wire_form_in_its_order() -> None:
    assert tuple(AlertShown.model_fields) == WIRE_FIELDS
    assert tuple(AlertOut.model_fields) == (*WIRE_FIELDS, "seq")
    assert tuple(orjson.loads(stored().wire())) == WIRE_FIELDS


def test_an_alert_is_posted_with_fields_of_the_state_that_the_service_does_not_set() -> None:
    assert set(AlertIn.model_fields) < set(FIELDS)
    assert set(BatchItem.model_fields) == {*AlertIn.model_fields, "idempotency_key"}


def test_the_table_has_a_column_for_each_field_and_one_that_it_computes() -> None:
    assert set(alerts.c.keys()) == {*FIELDS, "due_at"}
    assert alerts.c.due_at.computed is not None
    assert set(FIELDS) > IMMUTABLE


def test_the_append_function_stores_every_field_that_a_plain_alert_is_posted_with() -> None:
    [record] = re.findall(r"json_to_record\(i\.alert\) AS a \((.*?)\)\n", APPEND_FUNCTION, re.DOTALL)
    members = {column.split()[0] for column in record.split(",")}
    posted_or_made = {*AlertIn.model_fields, "id", "source", "created_at"}
    assert members == posted_or_made - {"dedup_key", "escalate_after"}  # an alert with one of these is a command
    [columns, values] = re.findall(
        r"INSERT INTO alerts \((.*?)\)\s+SELECT (.*?)\s+FROM fresh", APPEND_FUNCTION, re.DOTALL
    )[0]
    inserted = {name.strip() for name in columns.split(",")}
    assert inserted == members | {"seq", "status_by", "status_at", "updated_at"}
    assert len(values.split(",")) == len(columns.split(","))
    without = {name for name in FIELDS if alerts.c[name].server_default is not None or alerts.c[name].nullable}
    assert {*FIELDS} - inserted <= without


def test_the_client_posts_the_same_fields_and_reads_those_of_the_wire_form() -> None:
    assert models.NewAlert.__required_keys__ | models.NewAlert.__optional_keys__ == set(BatchItem.model_fields)
    read = {field.name for field in fields(models.Alert)}
    assert read == set(WIRE_FIELDS) - {"status_by", "status_at", "escalate_at"}


def test_times_are_written_in_utc_with_microseconds() -> None:
    late = stored(expires_at=datetime.fromisoformat("2026-11-21T11:41:07+02:00"))
    assert orjson.loads(late.wire())["expires_at"] == "2026-11-21T09:41:07.000000Z"
    assert orjson.loads(late.wire())["created_at"] == "2026-11-21T09:41:07.123456Z"


def test_the_position_stands_beside_the_other_members() -> None:
    alert = replace(stored(), seq=4711)
    assert "seq" not in orjson.loads(alert.wire())
    assert orjson.loads(alert.wire_with_seq()) == {**orjson.loads(alert.wire()), "seq": 4711}
    assert with_seq(alert.wire(), 5).endswith(b',"seq":5}')


@pytest.mark.parametrize("status", ["open", "acknowledged", "resolved", "expired"])
@pytest.mark.parametrize("due", ["expires_at", "escalate_at", "repeat_event_due_at"])
def test_an_alert_is_due_from_the_earliest_of_its_times_and_once_it_is_over_for_what_was_counted(
    status: str, due: str
) -> None:
    later = datetime(2999, 1, 1, tzinfo=UTC)
    may_be_due = status in ("open", "acknowledged") or due == "repeat_event_due_at"
    for at, is_due in ((NOW, may_be_due), (later, False)):
        assert stored(**{"status": status, "expires_at": later, due: at}).is_due(NOW) is is_due
