"""How alerts are posted, without any I/O: generators say what to send and how long to pause, and are told what came.

::

    steps = posting("It happened", {}, Retry(), refreshable=False)
    step = next(steps)                    a Call to make, or a Pause to sit out
    step = steps.send(outcome)            a Reply, or why none came; None after a pause
    …                                     StopIteration.value is what was posted; else a ClientError was raised
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from service.client.errors import BatchRefused, ClientError, RequestRefused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from service.client.models import AlertFields, NewAlert

TRANSIENT = frozenset({429, 502, 503, 504})
"""The statuses after which the same request may succeed."""

ATTEMPT_MIN_SECONDS = 1.0
"""What an attempt that was begun has at least, though the time for retries may end in the middle of it."""

BATCH_ITEMS_MAX = 1_000
BATCH_BYTES_MAX = 2 * 1024 * 1024
"""How much goes into one request of a batch: half of what the service takes unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How long and how eagerly to try. All in seconds.

    ``attempt_seconds`` is how long one answer may take, ``total_seconds`` how long a post may take with all its
    retries. The pause before retry n is random, between nothing and ``base_seconds`` doubled n times, at most
    ``cap_seconds``: full jitter spreads callers whose service came back evenly.
    """

    total_seconds: float = 60
    attempt_seconds: float = 15
    base_seconds: float = 0.1
    cap_seconds: float = 10

    def pause(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row, at least one."""
        return random.random() * min(self.cap_seconds, self.base_seconds * 2.0 ** min(failures, 30))  # noqa: S311 - jitter


@dataclass(frozen=True, slots=True)
class Call:
    """A POST to make; the bearer token is the driver's to add."""

    path: str
    content: bytes
    headers: Mapping[str, str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A while to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """Return the JSON object of the body; where a proxy answered in HTML, an empty one."""
        try:
            value = json.loads(self.content)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Posted:
    """Where an alert stands in the log.

    ``replayed``: this very post had been stored before. ``repeated``: it repeated an open alert with its
    ``dedup_key``, whose ``id`` this is.
    """

    id: str
    seq: int
    replayed: bool = False
    repeated: bool = False


Outcome = Reply | Unreachable | None
Steps = Generator[Call | Pause, Outcome, "Posted"]
BatchSteps = Generator[Call | Pause, Outcome, "list[Posted]"]


def posting(title: str, fields: AlertFields, retry: Retry, *, refreshable: bool) -> Steps:
    """Post one alert; ``refreshable`` says that asking for the token again may yield a better one.

    Raises:
        RequestRefused: the service refused it, the last time.
        Unreachable: no answer came in the time for retries.

    """
    alert: dict[str, Any] = {"title": title, **fields}
    key = alert.pop("idempotency_key", None) or _new_key()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    until = time.monotonic() + retry.total_seconds
    reply = yield from _answered("/v1/alerts", _encode(alert), headers, retry, until, refreshable=refreshable)
    answer = reply.json()
    replayed = reply.headers.get("idempotency-replayed") == "true"
    return Posted(answer["id"], answer["seq"], replayed=replayed, repeated=reply.status == 200)  # noqa: PLR2004


def posting_batch(alerts: Iterable[NewAlert], retry: Retry, *, refreshable: bool) -> BatchSteps:
    """Post many alerts, in as many requests as they need, and those again that could not be stored the first time.

    Raises:
        BatchRefused: some were not stored.
        RequestRefused, Unreachable: none was, all for this reason.

    """
    items = [_encode({"idempotency_key": _new_key(), **alert}) for alert in alerts]
    results: list[Posted | ClientError | None] = [None] * len(items)
    until = time.monotonic() + retry.total_seconds
    try:
        for chunk in _chunks(items):
            yield from _post_chunk(items, chunk, results, retry, until, refreshable=refreshable)
    except ClientError as error:
        if all(result is None for result in results):
            raise
        results = [error if result is None else result for result in results]
    stored = [result for result in results if isinstance(result, Posted)]
    if len(stored) < len(items):
        raise BatchRefused([result for result in results if result is not None])
    return stored


def _post_chunk(  # noqa: PLR0913 - a step of the above
    items: Sequence[bytes],
    chunk: Sequence[int],
    results: list[Posted | ClientError | None],
    retry: Retry,
    until: float,
    *,
    refreshable: bool,
) -> Generator[Call | Pause, Outcome, None]:
    failures = 0
    while chunk:
        body = b"[" + b",".join(items[index] for index in chunk) + b"]"
        headers = {"Content-Type": "application/json"}
        reply = yield from _answered("/v1/alerts/batch", body, headers, retry, until, refreshable=refreshable)
        again = []
        for index, answer in zip(chunk, reply.json()["results"], strict=True):
            results[index] = _read_result(answer)
            if answer["status"] in TRANSIENT:
                again.append(index)
        chunk = again
        failures += 1
        pause = retry.pause(failures)
        if time.monotonic() + pause >= until:
            return
        if chunk:
            yield Pause(pause)


def _read_result(answer: dict[str, Any]) -> Posted | RequestRefused:
    if "seq" not in answer:
        return RequestRefused.of(answer["status"], answer)
    replayed = bool(answer.get("replayed"))
    return Posted(answer["id"], answer["seq"], replayed=replayed, repeated=answer["status"] == 200)  # noqa: PLR2004


def _chunks(items: Sequence[bytes]) -> Iterator[list[int]]:
    """Yield the indexes of the alerts of each request."""
    chunk: list[int] = []
    size = 0
    for index, item in enumerate(items):
        if chunk and (len(chunk) == BATCH_ITEMS_MAX or size + len(item) >= BATCH_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += len(item) + 1
    if chunk:
        yield chunk


def _answered(  # noqa: PLR0913 - a request and how to insist on it
    path: str, content: bytes, headers: Mapping[str, str], retry: Retry, until: float, *, refreshable: bool
) -> Generator[Call | Pause, Outcome, Reply]:
    """Call until there is an answer that is one, and return it."""
    failures = 0
    while True:
        left = until - time.monotonic()
        outcome = yield Call(path, content, headers, max(ATTEMPT_MIN_SECONDS, min(retry.attempt_seconds, left)))
        least = 0.0
        if isinstance(outcome, Reply):
            if 200 <= outcome.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
                return outcome
            error: ClientError = _refusal(outcome)
            if outcome.status == 401 and refreshable:  # noqa: PLR2004 - once: a fresh token that is refused too is bad
                refreshable = False
                continue
            if outcome.status not in TRANSIENT:
                raise error
            least = _retry_after(outcome) or 0
        else:
            assert outcome is not None  # noqa: S101 - a call has an outcome
            error = outcome
        failures += 1
        pause = least + retry.pause(failures)
        if time.monotonic() + pause >= until:
            raise error
        yield Pause(pause)


def _refusal(reply: Reply) -> RequestRefused:
    return RequestRefused.of(reply.status, reply.json(), _retry_after(reply))


def _retry_after(reply: Reply) -> float | None:
    """Return ``Retry-After`` in seconds, which may be written as a date (RFC 9110, section 10.2.3)."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _encode(alert: Mapping[str, Any]) -> bytes:
    return json.dumps(alert, default=_as_text, separators=(",", ":"), allow_nan=False).encode()


def _as_text(value: object) -> str:
    """Write a time as RFC 3339 has it."""
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} is no JSON")
    if value.tzinfo is None:
        raise ValueError("a time needs a zone: datetime.now(UTC)")
    return value.isoformat()


def _new_key() -> str:
    return uuid.uuid4().hex
