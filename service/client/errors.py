"""What a client raises, in one tree.

::

    ClientError
    ├── ErrorResponse              the service answered with a problem document (RFC 9457)
    │   ├── Unauthorized           401: the token is missing, invalid or expired
    │   ├── Forbidden              403: the token lacks a scope or a topic
    │   ├── UnprocessableRequest   any other 4xx: the request is not acceptable
    │   ├── TooManyRequests        429, until the time for retries was over
    │   └── ServiceFailed          5xx, until the time for retries was over
    ├── Unreachable                no answer came, until the time for retries was over
    ├── UnreadableAnswer           something answered, but not as the service does
    ├── BatchRefused               some alerts of a batch were not stored; ``results`` says which
    └── StreamRejected             the stream was closed for a reason that reconnecting cannot cure
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.client.post_retry import Posted


class ClientError(Exception):
    """Base of every error that the client raises on purpose."""


class ErrorResponse(ClientError):
    """The service answered with an error.

    ``code`` is stable, to program against; None means that the answer was not the service's.
    ``errors`` lists single faults, each with ``pointer`` and ``detail``, ``results`` those of a batch
    of which no alert was stored. ``retry_after`` is in seconds.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        code, detail = problem.get("code"), problem.get("detail")
        self.status = status
        self.code = code if isinstance(code, str) else None
        self.detail = detail if isinstance(detail, str) else f"HTTP status {status}"
        self.errors: list[dict[str, str]] = _objects(problem.get("errors"))
        self.results: list[dict[str, Any]] = _objects(problem.get("results"))
        self.retry_after = retry_after
        super().__init__(f"{self.detail} ({self.code or status})")

    @classmethod
    def of(cls, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> ErrorResponse:
        """Return the error for a status."""
        kinds = {401: Unauthorized, 403: Forbidden, 429: TooManyRequests}
        other = ServiceFailed if status >= HTTPStatus.INTERNAL_SERVER_ERROR else UnprocessableRequest
        return kinds.get(status, other)(status, problem, retry_after)


def _objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; none where a proxy answered something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


class Unauthorized(ErrorResponse):
    """The token is missing, invalid or expired."""


class Forbidden(ErrorResponse):
    """The token lacks a scope, or does not cover the topic."""


class UnprocessableRequest(ErrorResponse):
    """The request is not acceptable; sending it again changes nothing."""


class TooManyRequests(ErrorResponse):
    """The rate limit was exceeded, and would not have passed in the time for retries."""


class ServiceFailed(ErrorResponse):
    """The service failed until the time for retries was over.

    After ``outcome_unknown`` it may have stored the alert.
    """


class Unreachable(ClientError):
    """No answer came.

    The last request may have been stored; sending it again with the same ``idempotency_key`` stores
    nothing twice.
    """


class UnreadableAnswer(ClientError):
    """Something answered with success, but not as the service does: the address may lead to another server.

    If the service is behind it, the request may have been stored.
    """


class BatchRefused(ClientError):
    """Some alerts of a batch were not stored.

    ``results`` has one entry per alert, in order: where it stands in the log, or the error.
    """

    def __init__(self, results: Sequence[Posted | ClientError]) -> None:
        self.results = results
        refused = [(number, result) for number, result in enumerate(results, 1) if isinstance(result, ClientError)]
        number, first = refused[0]
        super().__init__(
            f"{len(refused)} of {len(results)} alerts were not stored; the first, number {number}: {first}"
        )


class StreamRejected(ClientError):
    """The stream was closed for a ``reason`` of the service that reconnecting cannot cure.

    The service may add a hint for people, after a colon; the message has it.
    """

    def __init__(self, reason: str, code: int | None = None) -> None:
        self.reason = reason.partition(":")[0]
        self.code = code
        super().__init__(f"the stream was rejected: {reason}" + (f" ({code})" if code else ""))
