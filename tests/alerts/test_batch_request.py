from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from service.alerts import batch_request
from service.alerts.queue_items import PendingAlert, QueueItem, Stored
from service.database.ids import uuid7
from service.errors import (
    DatabaseUnavailable,
    IdempotencyMismatch,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    OutcomeUnknown,
    RequestRefused,
    RequestTooLarge,
    TokenExpired,
    TokenRevoked,
)
from service.http import problems
from service.http.request_body import BATCH_VALUES_MAX
from service.http.turns import TURN_SECONDS
from tests.alerts.examples import BILLING, NOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.alerts.queue_items import Outcome

pytestmark = pytest.mark.unit

NUMBERS = ["1e400", "NaN", "18446744073709551616", "9007199254740993", "1e-31"]


@dataclass
class Committed:
    """A committer whose outcomes are given: of the first items, the rest is stored."""

    outcomes: list[Outcome] = field(default_factory=list)
    items: list[QueueItem] = field(default_factory=list)

    async def store_all(self, items: Sequence[QueueItem]) -> list[Outcome]:
        self.items = list(items)
        rest = [Stored(uuid7(), seq, b"{}") for seq in range(len(self.outcomes) + 1, len(items) + 1)]
        return [*self.outcomes, *rest]


read = partial(batch_request.read_item, principal=BILLING, now=NOW)


async def answers(items: Sequence[Any], committer: Committed | None = None) -> list[dict[str, Any]]:
    response = await batch_request.store(
        await batch_request.read_all(items, read), (committer or Committed()).store_all
    )
    results: list[dict[str, Any]] = orjson.loads(response.body)["results"]
    assert response.refused == sum(result["status"] >= 400 for result in results)
    return results


# Reading.


def test_the_items_of_an_array_are_values_and_those_of_ndjson_lines() -> None:
    assert batch_request.split(b' [{"title": "a"}, null, 5]', lines=False) == [{"title": "a"}, None, 5]
    assert batch_request.split(b'{"title": "a"}\r\n\n \n[1]\nno json\n', lines=True) == [
        b'{"title": "a"}\r',
        b"[1]",
        b"no json",
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", MalformedRequest),
        (b"[{]", MalformedRequest),
        (b'[{"title": "\xff"}]', MalformedRequest),
        (b"[" * 100_000, MalformedRequest),
        (b'{"title": "one"}', InvalidRequest),
        (b"null", InvalidRequest),
        (b"[]", InvalidRequest),
        (json.dumps([{"title": "t"}] * 1001).encode(), InvalidRequest),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_body_that_is_no_batch_is_refused_whole(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        batch_request.split(content, lines=False)


def test_lines_are_refused_whole_only_where_there_are_none_or_too_many() -> None:
    assert len(batch_request.split(b"\n".join([b"{"] * 1000), lines=True)) == 1000
    for content in (b"", b" \n\n", b"\n".join([b"{}"] * 1001)):
        with pytest.raises(InvalidRequest):
            batch_request.split(content, lines=True)


def test_what_costs_too_much_to_parse_is_refused_unread() -> None:
    with pytest.raises(RequestTooLarge):
        batch_request.split(b"[" + b"[]," * BATCH_VALUES_MAX + b"0]", lines=False)
    lines = b"\n".join([b'{"title":"t","attributes":{"a":[%b0]}}' % (b"0," * 10_000)] * 7)
    with pytest.raises(RequestTooLarge, match=f"{BATCH_VALUES_MAX} values"):
        batch_request.split(lines, lines=True)
    with pytest.raises(InvalidRequest, match="lines"):
        batch_request.split(b"\n" * (batch_request.LINES_MAX + 1), lines=True)


# Answering.


async def test_an_answer_lists_so_many_faults() -> None:
    wrong = {"title": "t", **{f"unknown{number}": 1 for number in range(problems.FAULTS_MAX)}}
    found = await answers([wrong] * 100)
    listed = [len(result.get("errors", ())) for result in found]
    assert listed == [problems.FAULTS_MAX] * 50 + [0] * 50
    assert all("/unknown0: " in result["detail"] for result in found)


@pytest.mark.parametrize("wrong", [False, True])
async def test_others_have_their_turn_while_a_batch_is_read_and_answered(
    monkeypatch: pytest.MonkeyPatch,
    wrong: bool,  # noqa: FBT001
) -> None:
    now = [0.0]
    monkeypatch.setattr("service.http.turns.time.perf_counter", lambda: now[0])
    turns = 0

    def read_slowly(item: Any) -> QueueItem:
        now[0] += TURN_SECONDS / 2
        return read(item)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    checked = await batch_request.read_all([{"title": "" if wrong else "t"}] * 1_000, read_slowly)
    await batch_request.store(checked, Committed().store_all)
    beside.cancel()
    assert turns >= 400


@pytest.mark.parametrize("as_lines", [False, True])
async def test_an_item_that_is_wrong_fails_alone(as_lines: bool) -> None:  # noqa: FBT001
    items: list[Any] = [
        {"title": "good"},
        {"title": ""},
        {"severity": "loud", "title": "wrong", "colour": "red"},
        "no object",
        None,
        {"title": "key", "idempotency_key": " "},
        {"title": "good too", "dedup_key": "k"},
    ]
    committer = Committed()
    found = await answers([json.dumps(item).encode() for item in items] if as_lines else items, committer)
    assert [result["status"] for result in found] == [201, 422, 422, 422, 422, 422, 201]
    assert found[1]["code"] == "invalid_request"
    assert [error["pointer"] for error in found[2]["errors"]] == ["/severity", "/colour"]
    assert [error["pointer"] for error in found[5]["errors"]] == ["/idempotency_key"]
    assert [type(item).__name__ for item in committer.items] == ["PendingAlert", "PostAlert"]


async def test_a_line_that_is_no_json_fails_alone() -> None:
    found = await answers([b'{"title": "first"}\r', b'{"title": ', b'{"title": "\xff"}'])
    assert [(result["status"], result.get("code")) for result in found] == [
        (201, None),
        (400, "malformed_request"),
        (400, "malformed_request"),
    ]


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_number_that_is_refused_in_an_array_is_refused_in_a_line(number: str) -> None:
    alert = b'{"title": "t", "attributes": {"n": %b}}' % number.encode()
    [in_array] = await answers(batch_request.split(b"[%b]" % alert, lines=False))
    [in_lines] = await answers(batch_request.split(alert, lines=True))
    assert in_array == in_lines
    assert in_array["status"] == 422


async def test_a_topic_that_the_token_does_not_cover_is_refused_alone() -> None:
    narrow = partial(batch_request.read_item, principal=replace(BILLING, topics=("payments.*",)), now=NOW)
    items = [{"title": "a", "topic": "payments.eu"}, {"title": "b", "topic": "hr"}]
    response = await batch_request.store(await batch_request.read_all(items, narrow), Committed().store_all)
    found = orjson.loads(response.body)["results"]
    assert [(result["status"], result.get("code")) for result in found] == [(201, None), (403, "topic_forbidden")]


async def test_an_item_carries_its_idempotency_key() -> None:
    committer = Committed()
    await answers(
        [{"title": "a", "idempotency_key": "key"}, {"title": "a"}, {"title": "a", "idempotency_key": "l"}], committer
    )
    keys = [item.key for item in committer.items if isinstance(item, PendingAlert)]
    assert [key and key.key for key in keys] == ["key", None, "l"]
    assert keys[0] is not None
    assert keys[2] is not None
    assert keys[0].content == keys[2].content


async def test_each_item_is_answered_with_its_outcome_in_order() -> None:
    outcomes: list[Outcome] = [
        Stored(uuid7(), 1, b"{}"),
        IdempotencyMismatch("another"),
        Stored(uuid7(), 1, b"{}", replayed=True),
        Stored(uuid7(), 1, b"{}", repeated=True),
        InternalError("poison"),
    ]
    items = [{"title": "a"}, {"title": ""}, *[{"title": "a"}] * 4]
    found = await answers(items, Committed(outcomes))
    assert [result["status"] for result in found] == [201, 422, 422, 201, 200, 500]
    assert [result.get("replayed") for result in found] == [None, None, None, True, None, None]
    assert found[0] == {"status": 201, "id": str(outcomes[0].id), "seq": 1} if isinstance(outcomes[0], Stored) else None


@pytest.mark.parametrize(
    ("outcomes", "raised"),
    [
        ([DatabaseUnavailable("away"), DatabaseUnavailable("away")], DatabaseUnavailable),
        ([DatabaseUnavailable("away"), OutcomeUnknown("perhaps")], OutcomeUnknown),
    ],
)
async def test_a_batch_of_which_the_service_stored_nothing_is_refused_whole(
    outcomes: list[Outcome], raised: type[RequestRefused]
) -> None:
    with pytest.raises(raised):
        await answers([{"title": ""}, {"title": "a"}, {"title": "b"}], Committed(outcomes))
    assert [r["status"] for r in await answers([{"title": "a"}, {"title": "b"}], Committed(outcomes[:1]))] == [503, 201]


KEYED = [{"title": "a", "idempotency_key": "a"}, {"title": "b", "dedup_key": "b"}, {"title": "c"}, {"title": ""}]


@pytest.mark.parametrize(
    "failure", [DatabaseUnavailable("away", retry_after=2), OutcomeUnknown("perhaps", retry_after=2)]
)
async def test_a_batch_whose_stored_alerts_are_found_again_is_refused_whole(failure: RequestRefused) -> None:
    outcomes: list[Outcome] = [Stored(uuid7(), 1, b"{}"), Stored(uuid7(), 2, b"{}"), failure]
    with pytest.raises(OutcomeUnknown, match="2 of 3 alerts are stored") as raised:
        await answers(KEYED, Committed(outcomes))
    assert raised.value.retry_after == 2


async def test_a_batch_with_a_stored_alert_that_would_be_stored_twice_is_answered_item_by_item() -> None:
    found = await answers(KEYED, Committed([DatabaseUnavailable("away")]))
    assert [result["status"] for result in found] == [503, 201, 201, 422]


async def test_an_alert_that_can_never_be_stored_does_not_hold_up_the_others() -> None:
    response = await batch_request.store(
        await batch_request.read_all(KEYED[:2], read), Committed([InternalError("poison")]).store_all
    )
    assert [result["status"] for result in orjson.loads(response.body)["results"]] == [500, 201]
    assert response.defect is not None  # for those who look at the status only


async def test_a_batch_of_which_nothing_is_right_is_answered() -> None:
    assert [result["status"] for result in await answers([{"title": ""}])] == [422]


async def test_a_batch_is_answered_for_good_unless_one_of_its_alerts_may_be_stored_later() -> None:
    for refusal, is_final in (
        (InternalError("defect"), False),
        (TokenRevoked("revoked"), False),
        (TokenExpired("late"), False),
        (None, True),
    ):
        outcomes: list[Outcome] = [Stored(uuid7(), 1, b"{}"), *([refusal] if refusal is not None else [])]
        items = [{"title": "a"}, {"title": "b"}, {"title": ""}]
        response = await batch_request.store(await batch_request.read_all(items, read), Committed(outcomes).store_all)
        assert (response.is_final, response.refusal) == (is_final, None)
