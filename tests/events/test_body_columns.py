from __future__ import annotations

import json

import pytest

from service.events.body_columns import differing_column

pytestmark = pytest.mark.unit

ALERT = {"id": "1", "topic": "payments.eu", "severity": "error", "recipients": ["bob", "alice"]}
COLUMNS = {"alert_id": "1", "topic": "payments.eu", "severity": "error", "recipients": ["bob", "alice"]}
BODY = json.dumps(ALERT).encode()


@pytest.mark.parametrize("recipients", [["bob", "alice"], ["alice", "bob"]])
def test_columns_agree_with_recipients_as_posted_or_by_name(recipients: list[str]) -> None:
    assert differing_column(BODY, **{**COLUMNS, "recipients": recipients}) is None  # type: ignore[arg-type]


def test_columns_agree_without_recipients() -> None:
    body = json.dumps({**ALERT, "recipients": None}).encode()
    assert differing_column(body, **{**COLUMNS, "recipients": None}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alert_id", "2"),
        ("alert_id", None),
        ("topic", "payments"),
        ("severity", "critical"),
        ("recipients", None),
        ("recipients", []),
        ("recipients", ["alice"]),
        ("recipients", ["alice", "bob", "bob"]),
    ],
)
def test_the_column_that_disagrees_is_named(name: str, value: object) -> None:
    assert differing_column(BODY, **{**COLUMNS, name: value}) == name  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"", b"{}", b"[5]", b"null", b'{"id": 1}', BODY.replace(b'["bob", "alice"]', b"5")])
def test_a_body_that_is_no_alert_is_named(body: bytes) -> None:
    assert differing_column(body, **COLUMNS) == "body"  # type: ignore[arg-type]
