"""Posting alerts with retries: what is sent and when, without the I/O.

The logic is written once, as coroutines. ``AsyncClient`` awaits them; ``Client`` runs them with I/O
that blocks, so that they never suspend (``sync.run``).
"""

from __future__ import annotations

import json
import random
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from service.client.errors import BatchRefused, ClientError, ErrorResponse, Unreachable, UnreadableAnswer
from service.client.models import Activation
from service.client.validation import checked_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from service.client.models import AlertFields, NewAlert

TRANSIENT = frozenset({429, 502, 503, 504})
"""The statuses after which the same request may succeed."""

ATTEMPT_MIN_SECONDS = 1.0
"""The least time of an attempt, also where the time for retries ends sooner."""

BATCH_ITEMS_MAX = 1_000
BATCH_BYTES_MAX = 2 * 1024 * 1024
"""The most bytes in one request of a batch: half of the service's default limit."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How long and how often to retry. All in seconds.

    ``attempt_seconds`` bounds one attempt, ``total_seconds`` a post with all its retries. The pause
    before retry n is random, between zero and ``base_seconds`` doubled n times, at most
    ``cap_seconds``: full jitter spreads the clients of a service that comes back.
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
    """A POST request, to which its sender adds the bearer token."""

    path: str
    content: bytes
    headers: Mapping[str, str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """Return the JSON object of the body; an empty one where a proxy answered in HTML."""
        try:
            value = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def retry_after(self) -> float | None:
        """Return ``Retry-After`` in seconds; it may be a date (RFC 9110, section 10.2.3)."""
        value = self.headers.get("retry-after", "").strip()
        if value.isdecimal():
            return float(value)
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


@dataclass(frozen=True, slots=True)
class Posted:
    """Where an alert stands in the log.

    ``replayed``: this post had been stored before. ``repeated``: it repeated an open alert with the
    same ``dedup_key``, to which ``id`` belongs. ``warnings``: what may not be as it was meant, such as
    a recipient who has never connected.
    """

    id: str
    seq: int
    replayed: bool = False
    repeated: bool = False
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, answer: Mapping[str, Any], *, replayed: bool, repeated: bool) -> Posted:
        """Read an answer of the service."""
        warnings = tuple(f"{warning['pointer']}: {warning['detail']}" for warning in answer.get("warnings", ()))
        id_, seq = answer["id"], answer["seq"]
        if not isinstance(id_, str) or not isinstance(seq, int):
            raise TypeError("no answer of the service")
        return cls(id_, seq, replayed=replayed, repeated=repeated, warnings=warnings)


class RetryingPost:
    """Posts with retries: one post, single or batch, for each instance.

    ``send`` returns the reply, or why none came. ``refreshable`` says that asking for the token
    again may give another.
    """

    def __init__(
        self,
        retry: Retry,
        send: Callable[[Call], Awaitable[Reply | Unreachable]],
        sleep: Callable[[float], Awaitable[None]],
        *,
        refreshable: bool,
    ) -> None:
        self._retry = retry
        self._send = send
        self._sleep = sleep
        self._refreshable = refreshable
        self._deadline = time.monotonic() + retry.total_seconds

    async def post(self, title: str, fields: AlertFields) -> Posted:
        """Post one alert.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.
            ClientError: the idempotency key cannot be one.

        """
        alert: dict[str, Any] = {"title": title, **fields}
        key = alert.pop("idempotency_key", None)
        key = _new_key() if key is None else checked_key(key)
        reply = await self._call("/v1/alerts", _encode(alert), {"Idempotency-Key": key})
        replayed = reply.headers.get("idempotency-replayed") == "true"
        with _readable(reply.status):
            return Posted.of(reply.json(), replayed=replayed, repeated=reply.status == 200)  # noqa: PLR2004

    async def post_batch(self, alerts: Iterable[NewAlert]) -> list[Posted]:
        """Post many alerts in as many requests as they need, and retry those that were not stored.

        Raises:
            BatchRefused: some were not stored.
            ErrorResponse, Unreachable: none was, all for this reason.

        """
        items = [_encode({"idempotency_key": _new_key(), **alert}) for alert in alerts]
        results: list[Posted | ClientError | None] = [None] * len(items)
        try:
            for chunk in _chunks(items):
                await self._post_chunk(items, chunk, results)
        except ClientError as error:
            if all(result is None for result in results):
                raise
            results = [error if result is None else result for result in results]
        stored = [result for result in results if isinstance(result, Posted)]
        if len(stored) < len(items):
            raise BatchRefused([result for result in results if result is not None])
        return stored

    async def resolve(self, dedup_key: str, topic: str | None) -> int:
        """Resolve the alerts with a key, and return how many there were; it may be done any number of times.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        fields = {"dedup_key": dedup_key, "topic": topic}
        reply = await self._call("/v1/alerts/resolve", _encode(fields), {})
        with _readable(reply.status):
            return int(reply.json()["resolved"])

    async def change_recipient(self, recipient: str, action: str, fields: Mapping[str, Any]) -> Activation:
        """Deactivate or reactivate a recipient; it may be done any number of times.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        # A path loses . and .. (RFC 3986, section 5.2.4), but not their escapes.
        path = f"/v1/recipients/{quote(recipient, safe='').replace('.', '%2E')}/{action}"
        reply = await self._call(path, _encode(fields), {})
        with _readable(reply.status):
            return Activation.of(reply.json())

    async def _post_chunk(
        self, items: Sequence[bytes], chunk: Sequence[int], results: list[Posted | ClientError | None]
    ) -> None:
        """Post the items with the indexes of ``chunk``, and set their results."""
        failures = 0
        while chunk:
            body = b"[" + b",".join(items[index] for index in chunk) + b"]"
            again = []
            for index, result in zip(chunk, await self._call_batch(body, len(chunk)), strict=True):
                results[index] = result
                if isinstance(result, ErrorResponse) and result.status in TRANSIENT:
                    again.append(index)
            chunk = again
            failures += 1
            pause = self._retry.pause(failures)
            if time.monotonic() + pause >= self._deadline:
                return
            if chunk:
                await self._sleep(pause)

    async def _call_batch(self, body: bytes, count: int) -> list[Posted | ErrorResponse]:
        """Post a batch, and return the results of its ``count`` alerts, also where none was stored."""
        try:
            reply = await self._call("/v1/alerts/batch", body, {})
            status, answers = reply.status, reply.json().get("results")
        except ErrorResponse as error:
            if not error.results:
                raise
            status, answers = error.status, error.results
        with _readable(status):
            results = [_read_result(answer) for answer in answers or ()]
            if len(results) != count:
                raise ValueError(f"{len(results)} results")
            return results

    async def _call(self, path: str, content: bytes, headers: Mapping[str, str]) -> Reply:
        """Call until there is a successful reply, and return it."""
        headers = {"Content-Type": "application/json", **headers}
        refreshable = self._refreshable
        failures = 0
        while True:
            seconds = min(self._retry.attempt_seconds, self._deadline - time.monotonic())
            outcome = await self._send(Call(path, content, headers, max(ATTEMPT_MIN_SECONDS, seconds)))
            least = 0.0
            if isinstance(outcome, Unreachable):
                error: ClientError = outcome
            else:
                if 200 <= outcome.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
                    return outcome
                error = ErrorResponse.of(outcome.status, outcome.json(), outcome.retry_after())
                if outcome.status == 401 and refreshable:  # noqa: PLR2004 - once: a fresh token that is refused too is bad
                    refreshable = False
                    continue
                if outcome.status not in TRANSIENT:
                    raise error
                least = outcome.retry_after() or 0
            failures += 1
            pause = least + self._retry.pause(failures)
            if time.monotonic() + pause >= self._deadline:
                raise error
            await self._sleep(pause)


@contextmanager
def _readable(status: int) -> Iterator[None]:
    """Read an answer that came with this status.

    Raises:
        UnreadableAnswer: the block cannot read it, so it is not the service's.

    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UnreadableAnswer(f"the answer, with HTTP status {status}, is not one of Tocsin") from None


def _read_result(answer: dict[str, Any]) -> Posted | ErrorResponse:
    if "seq" not in answer:
        return ErrorResponse.of(answer["status"], answer)
    replayed = bool(answer.get("replayed"))
    return Posted.of(answer, replayed=replayed, repeated=answer["status"] == 200)  # noqa: PLR2004


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


def _encode(alert: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(alert, default=_as_text, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError:
        raise ClientError("an alert is nested too deeply: flatten it") from None


def _as_text(value: object) -> str:
    """Write a time as in RFC 3339."""
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} is no JSON")
    if value.tzinfo is None:
        raise ValueError("a time needs a zone: datetime.now(UTC)")
    return value.isoformat()


def _new_key() -> str:
    return uuid.uuid4().hex
