"""The paged lists of the REST API, each with every kind of cursor, and with large rows."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.database.pages import PAGE_BYTES
from service.http.openapi import operations
from service.http.pagination import BIGINT_MAX
from tests.test_bounds import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node

EVERYTHING = "alerts:read alerts:write alerts:manage audit:read admin"
ALERT = "/v1/alerts/{alert_id}"
AUDIT = "/v1/audit"
PAGED: dict[str, list[tuple[type, ...]]] = {
    "/v1/alerts": [(int,)],
    f"{ALERT}/timeline": [(int,)],
    f"{ALERT}/deliveries": [(int, UUID, str)],
    f"{ALERT}/receipts": [(str,)],
    f"{AUDIT}/alerts/{{alert_id}}": [(str,), (datetime, int, int, str, UUID)],
    f"{AUDIT}/recipients/{{name}}": [(int, UUID)],
    f"{AUDIT}/unreceived": [(int, str)],
    f"{AUDIT}/connections": [(datetime, UUID)],
    f"{AUDIT}/rejections": [(datetime, UUID)],
    f"{AUDIT}/sources": [(datetime, str)],
    "/v1/revocations": [(int,)],
    "/v1/recipients": [(str,)],
}
"""The kinds of the values in the cursors of each paged list."""

GOOD: dict[type, list[Any]] = {
    int: [0, 1, 2**15, 2**31 - 1, 2**31, 2**32, BIGINT_MAX],
    str: ["", "a", "é\U0001f514", "x" * 200, "%_\\"],
    UUID: [str(UUID(int=0)), str(UUID(int=2**128 - 1)), "urn:uuid:" + "0" * 32, "{" + "f" * 32 + "}"],
    datetime: [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "2026-W01-1T00:00:00Z",
        "2026-01-01T00:00:00+23:59",
    ],
}
BAD: dict[type, list[Any]] = {
    int: [BIGINT_MAX + 1, 2**64, -1, 1.5, 1e300, "1", True, None, [1]],
    str: ["\0", "\n", "\ud7ff", 7, None, {}],
    UUID: ["0", 0, None, str(UUID(int=0)) + "0"],
    datetime: ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "infinity", "2026-01-01", "", 0, None],
}


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@st.composite
def cursors(draw: st.DrawFn, path: str) -> str:
    """Return a cursor with values of the right kinds; of every other one, a part is changed."""
    lists: list[Any] = [[draw(st.sampled_from(GOOD[kind])) for kind in kinds] for kinds in PAGED[path]]
    if draw(st.booleans()):
        return encoded(lists)
    number = draw(st.integers(0, len(lists) - 1))
    kinds = PAGED[path][number]
    match draw(st.sampled_from(["value", "length", "list", "lists", "text"])):
        case "value":
            place = draw(st.integers(0, len(kinds) - 1))
            lists[number][place] = draw(st.sampled_from(BAD[kinds[place]]))
        case "length":
            lists[number] = draw(st.sampled_from([lists[number][1:], [*lists[number], 0]]))
        case "list":
            lists[number] = draw(st.sampled_from([None, [], 0, "", {}, True]))
        case "lists":
            lists = draw(st.sampled_from([lists[1:], [*lists, []], lists[0], [None] * len(lists)]))
        case "text":
            return encoded(lists)[draw(st.integers(1, 20)) :] + draw(st.text("aA-_=!é\0", max_size=5))
    return encoded(lists)


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("alice", EVERYTHING) as client:
        yield client


@pytest.fixture(scope="module")
def alert_id(rest: httpx2.Client) -> str:
    answer: str = rest.post("/v1/alerts", json={"title": "It happened"}).json()["id"]
    return answer


def test_each_paged_list_is_here() -> None:
    paged = {
        path
        for path, _method, operation in operations(document())
        if any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ()))
    }
    assert paged == PAGED.keys()


@pytest.mark.parametrize("path", PAGED)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cursor_is_answered_with_a_page_or_refused(
    rest: httpx2.Client, alert_id: str, path: str, data: st.DataObject
) -> None:
    cursor = data.draw(cursors(path))
    answer = rest.get(path.format(alert_id=alert_id, name="alice"), params={"cursor": cursor})
    assert answer.status_code in {200, 422}, cursor
    assert answer.status_code == 200 or answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize("phase", [0, 1, 5, 2**31 - 1, 2**31, BIGINT_MAX])
def test_a_place_in_the_timeline_may_hold_any_number(rest: httpx2.Client, alert_id: str, phase: int) -> None:
    cursor = encoded([["a"], ["2026-01-01T00:00:00Z", 1, phase, "x", str(UUID(int=0))]])
    assert rest.get(f"{AUDIT}/alerts/{alert_id}", params={"cursor": cursor}).status_code == 200


# Large rows.


def all_pages(rest: httpx2.Client, path: str, name: str, **query: Any) -> list[list[Any]]:
    """Return the pages of a list, none of which takes more than a page and its last row may."""
    pages: list[list[Any]] = []
    while True:
        answer = rest.get(path, params=query)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) < PAGE_BYTES + 256 * 1024
        page = answer.json()
        pages.append(page[name])
        if page["next"] is None:
            return pages
        query["cursor"] = page["next"]


def test_a_page_of_large_alerts_is_shorter_and_none_is_left_out(rest: httpx2.Client) -> None:
    large = {"title": "large", "topic": "large", "body": "é" * 6_000, "attributes": {"text": "é" * 6_000}}
    for _ in range(2):
        assert rest.post("/v1/alerts/batch", json=[large] * 50).status_code == 200
    pages = all_pages(rest, "/v1/alerts", "alerts", topic="large", limit=200)
    assert [len(page) for page in pages] == [44, 44, 12]
    seqs = [alert["seq"] for page in pages for alert in page]
    assert len(seqs) == 100
    assert seqs == sorted(seqs, reverse=True)


@pytest.mark.parametrize(
    ("path", "name"), [(f"{ALERT}/timeline", "events"), (f"{AUDIT}/alerts/{{alert_id}}", "timeline")]
)
def test_a_page_of_long_comments_is_shorter_and_none_is_left_out(rest: httpx2.Client, path: str, name: str) -> None:
    alert = rest.post("/v1/alerts", json={"title": "It is discussed"}).json()["id"]
    for number in range(80):
        text = f"{number} {'c' * 16_000}"
        assert rest.post(f"/v1/alerts/{alert}/comments", json={"text": text}).status_code == 201
    pages = all_pages(rest, path.format(alert_id=alert), name, limit=500)
    assert len(pages) == 2
    assert len({entry["seq"] for page in pages for entry in page}) == 81


def test_a_value_that_postgresql_refuses_is_the_clients_fault(
    lenient: Node, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whichever parameter lets one through."""

    async def fail(tx: Any, *_: Any) -> None:
        await tx.exec_driver_sql("SELECT cast('9e9' AS integer)")

    monkeypatch.setattr("service.alerts.routes.list_alerts", fail)
    with lenient.rest() as client:
        answer = client.get("/v1/alerts")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "Traceback" not in "".join(capfd.readouterr())
