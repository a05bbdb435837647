"""Posting with retries, without a network: the answers are given, and pauses move the clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from service.client import (
    BatchRefused,
    Forbidden,
    Posted,
    Retry,
    ServiceFailed,
    TooManyRequests,
    Unauthorized,
    UnprocessableRequest,
    Unreachable,
    UnreadableAnswer,
    post_retry,
)
from service.client.post_retry import Call, Reply, RetryingPost
from service.client.sync import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.client import AlertFields, NewAlert

pytestmark = pytest.mark.unit

RETRY = Retry(total_seconds=60, attempt_seconds=15, base_seconds=1, cap_seconds=5)
CREATED = Reply(201, {}, b'{"id": "a", "seq": 7}')
AWAY = Unreachable("did not answer")


class Service:
    """Answers in turn. ``random`` is its highest value, so that pauses are the longest ones."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *answers: Reply | Unreachable, refreshable: bool = False
    ) -> None:
        self.calls: list[Call] = []
        self.pauses: list[float] = []
        self.seconds_of_an_attempt = 0.0
        self._answers = list(answers)
        self._now = 1000.0
        monkeypatch.setattr(post_retry, "time", SimpleNamespace(monotonic=lambda: self._now))
        monkeypatch.setattr(post_retry, "random", SimpleNamespace(random=lambda: 1.0))
        self.retrying = RetryingPost(RETRY, self._send, self._sleep, refreshable=refreshable)

    async def _send(self, call: Call) -> Reply | Unreachable:
        self.calls.append(call)
        self._now += self.seconds_of_an_attempt
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._now += seconds

    def post(self, **fields: Any) -> Posted:
        return run(self.retrying.post("It happened", cast("AlertFields", fields)))

    def post_batch(self, count: int, **fields: Any) -> list[Posted]:
        alerts = [{"title": str(number), **fields} for number in range(count)]
        return run(self.retrying.post_batch(cast("list[NewAlert]", alerts)))


def status(code: int, **headers: str) -> Reply:
    return Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, b"<html>")


def batch(*results: dict[str, Any]) -> Reply:
    return Reply(200, {}, json.dumps({"results": results}).encode())


@pytest.mark.parametrize("passing", [AWAY, *map(status, (429, 502, 503, 504))])
def test_what_may_pass_is_tried_again_with_the_same_key_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, passing: Reply | Unreachable
) -> None:
    service = Service(monkeypatch, *[passing] * 4, CREATED)
    assert service.post() == Posted("a", 7)
    assert service.pauses == [2, 4, 5, 5]
    assert len({(call.content, call.headers["Idempotency-Key"]) for call in service.calls}) == 1


def test_two_posts_have_two_keys_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, CREATED)
    service.post()
    service.post()
    assert len({call.headers["Idempotency-Key"] for call in service.calls}) == 2
    service.post(idempotency_key="job-1")
    assert service.calls[-1].headers["Idempotency-Key"] == "job-1"
    assert json.loads(service.calls[-1].content) == {"title": "It happened"}


def test_retry_after_is_waited_for_at_least_in_either_notation(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, status(503, retry_after="7"), CREATED)
    service.post()
    assert service.pauses == [9]
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    service = Service(monkeypatch, status(503, retry_after=date), status(503, retry_after="soon"), CREATED)
    service.post()
    assert 30 < service.pauses[0] <= 32
    assert service.pauses[1] == 4


def test_a_pause_that_would_end_too_late_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, status(429, retry_after="3600"))
    with pytest.raises(TooManyRequests) as refused:
        service.post()
    assert (refused.value.retry_after, service.pauses) == (3600, [])


@pytest.mark.parametrize(("last", "error"), [(AWAY, Unreachable), (status(503), ServiceFailed)])
def test_retries_end_in_time_with_the_last_error(
    monkeypatch: pytest.MonkeyPatch, last: Reply | Unreachable, error: type[Exception]
) -> None:
    service = Service(monkeypatch, status(502), last)
    service.seconds_of_an_attempt = 10
    with pytest.raises(error):
        service.post()
    assert [round(call.seconds) for call in service.calls] == [15, 15, 15, 15, 4]


def test_an_attempt_has_at_least_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, AWAY)
    service.seconds_of_an_attempt = 28.9
    with pytest.raises(Unreachable):
        service.post()
    assert [call.seconds for call in service.calls] == [15, 15]
    service = Service(monkeypatch, AWAY, CREATED)
    service.seconds_of_an_attempt = 57.5
    service.post()
    assert service.calls[1].seconds == 1


@pytest.mark.parametrize(
    ("code", "error"), [(400, UnprocessableRequest), (401, Unauthorized), (403, Forbidden), (500, ServiceFailed)]
)
def test_what_will_not_pass_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    problem = {"code": "a_code", "detail": "Why.", "errors": [{"pointer": "/topic", "detail": "x"}]}
    service = Service(monkeypatch, Reply(code, {}, json.dumps(problem).encode()))
    with pytest.raises(error) as refused:
        service.post()
    assert type(refused.value) is error
    assert (str(refused.value), refused.value.errors) == ("Why. (a_code)", problem["errors"])  # type: ignore[attr-defined]
    assert len(service.calls) == 1


def test_an_answer_that_is_not_the_services_has_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnprocessableRequest, match=r"HTTP status 404 \(404\)") as refused:
        Service(monkeypatch, status(404)).post()
    assert refused.value.code is None


def test_a_refused_token_is_asked_for_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, status(401), CREATED, refreshable=True)
    assert service.post().seq == 7
    assert service.pauses == []
    service = Service(monkeypatch, status(401), refreshable=True)
    with pytest.raises(Unauthorized):
        service.post()
    assert len(service.calls) == 2


@pytest.mark.parametrize(
    ("reply", "posted"),
    [
        (Reply(200, {}, CREATED.content), Posted("a", 7, repeated=True)),
        (Reply(201, {"idempotency-replayed": "true"}, CREATED.content), Posted("a", 7, replayed=True)),
    ],
)
def test_a_post_says_whether_it_was_new(monkeypatch: pytest.MonkeyPatch, reply: Reply, posted: Posted) -> None:
    assert Service(monkeypatch, reply).post() == posted


def test_times_are_written_with_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, CREATED)
    service.post(expires_at=datetime(2099, 1, 1, tzinfo=UTC))
    assert json.loads(service.calls[0].content)["expires_at"] == "2099-01-01T00:00:00+00:00"
    with pytest.raises(ValueError, match="needs a zone"):
        service.post(expires_at=datetime(2099, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(TypeError, match="set is no JSON"):
        service.post(attributes={"a": set()})


def test_a_batch_is_split_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_retry, "BATCH_ITEMS_MAX", 3)
    answers = [batch(*({"status": 201, "id": "a", "seq": n} for n in range(size))) for size in (3, 3, 1)]
    service = Service(monkeypatch, *answers)
    assert [posted.seq for posted in service.post_batch(7)] == [0, 1, 2, 0, 1, 2, 0]
    monkeypatch.setattr(post_retry, "BATCH_BYTES_MAX", 500)
    answers = [batch(*({"status": 201, "id": "a", "seq": n} for n in range(2)))] * 2
    service = Service(monkeypatch, *answers)
    service.post_batch(4, body="x" * 150)
    assert [len(json.loads(call.content)) for call in service.calls] == [2, 2]


def test_of_a_batch_only_what_may_pass_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, full, bad = (
        {"status": 201, "id": "a", "seq": 1},
        {"status": 503},
        {"status": 422, "code": "invalid_request"},
    )
    service = Service(monkeypatch, batch(stored, full, bad), batch({**stored, "seq": 2}))
    with pytest.raises(BatchRefused, match="1 of 3 alerts were not stored; the first, number 3") as refused:
        service.post_batch(3)
    first, second, third = refused.value.results
    assert (first, second) == (Posted("a", 1), Posted("a", 2))
    assert isinstance(third, UnprocessableRequest)
    sent, again = (json.loads(call.content) for call in service.calls)
    assert again == [sent[1]]


def test_a_batch_that_breaks_off_says_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_retry, "BATCH_ITEMS_MAX", 1)
    service = Service(monkeypatch, batch({"status": 201, "id": "a", "seq": 1}), status(403))
    with pytest.raises(BatchRefused, match="1 of 2") as refused:
        service.post_batch(2)
    assert isinstance(refused.value.results[1], Forbidden)
    with pytest.raises(Forbidden):
        Service(monkeypatch, status(403)).post_batch(2)


def test_an_empty_batch_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(monkeypatch, AWAY)
    assert service.post_batch(0) == []
    assert service.calls == []


STRANGE = [
    b"<html>Welcome to nginx!</html>",
    b"{}",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"id": 5, "seq": "x"}',
    b'{"id": "a", "seq": 7, "warnings": null}',
    b'{"results": 5, "resolved": "x", "deactivated_at": 5}',
    b'{"results": [5], "resolved": null, "deactivated_at": "x"}',
    b'{"results": [{}], "resolved": []}',
    b'{"results": [{"status": 201, "seq": 7}]}',
    b'{"results": []}',
]


@pytest.mark.parametrize("answer", STRANGE)
@pytest.mark.parametrize(
    "ask",
    [
        lambda service: service.post(),
        lambda service: service.post_batch(1),
        lambda service: run(service.retrying.resolve("key", None)),
        lambda service: run(service.retrying.change_recipient("bob", "deactivate", {})),
    ],
    ids=["post", "batch", "resolve", "deactivate"],
)
def test_an_answer_that_is_not_the_services_is_said_and_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, ask: Callable[[Service], object]
) -> None:
    service = Service(monkeypatch, Reply(200, {}, answer))
    with pytest.raises(UnreadableAnswer, match="with HTTP status 200, is not one of Tocsin"):
        ask(service)
    assert (len(service.calls), service.pauses) == (1, [])


@pytest.mark.parametrize("problem", [{"errors": "x"}, {"errors": [5]}, {"results": "x"}, {"results": [5]}, [], 5])
def test_an_error_that_is_not_the_services_is_raised_with_its_status(
    monkeypatch: pytest.MonkeyPatch, problem: object
) -> None:
    service = Service(monkeypatch, Reply(403, {}, json.dumps(problem).encode()))
    with pytest.raises(Forbidden) as raised:
        service.post_batch(1)
    assert (raised.value.code, raised.value.errors, raised.value.results) == (None, [], [])
