"""What a client raises, in one tree.

::

    ClientError
    ├── RequestRefused         the service answered with a problem document (RFC 9457)
    │   ├── Unauthorized       401: the token is missing, invalid or expired
    │   ├── Forbidden          403: it lacks a scope or a topic
    │   ├── InvalidRequest     any other 4xx: the alert is not one
    │   ├── RateLimited        429, until the time for retries was over
    │   └── ServiceFailed      5xx, until the time for retries was over
    ├── Unreachable            no answer came, until the time for retries was over
    ├── BatchRefused           some alerts of a batch were not stored; ``results`` says which
    └── StreamRefused          the stream was closed for a reason that coming back would not mend
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.client.post_retry import Posted


class ClientError(Exception):
    """Base of every error that the client raises on purpose."""


class RequestRefused(ClientError):
    """The service refused a request. ``code`` is stable, to program against; None: the answer was not the service's.

    ``errors`` lists single faults, each with ``pointer`` and ``detail``. ``retry_after`` is in seconds.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        code, detail = problem.get("code"), problem.get("detail")
        self.status = status
        self.code = code if isinstance(code, str) else None
        self.detail = detail if isinstance(detail, str) else f"HTTP status {status}"
        self.errors: list[dict[str, str]] = problem.get("errors") or []
        self.retry_after = retry_after
        super().__init__(f"{self.detail} ({self.code or status})")

    @classmethod
    def of(cls, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> RequestRefused:
        """Return the error that a status means."""
        kinds = {401: Unauthorized, 403: Forbidden, 429: RateLimited}
        return kinds.get(status, ServiceFailed if status >= 500 else InvalidRequest)(status, problem, retry_after)  # noqa: PLR2004 - RFC 9110, section 15.6


class Unauthorized(RequestRefused):
    """The token is missing, invalid or expired."""


class Forbidden(RequestRefused):
    """The token lacks a scope, or does not cover the topic."""


class InvalidRequest(RequestRefused):
    """What was sent is not acceptable, and would not be the next time."""


class RateLimited(RequestRefused):
    """Too much was sent, and the limit would not have passed in the time for retries."""


class ServiceFailed(RequestRefused):
    """The service could not do it in the time for retries. After ``outcome_unknown`` it may have been stored."""


class Unreachable(ClientError):
    """No answer came. What was sent last may have been stored: the same ``idempotency_key`` makes sure of it."""


class BatchRefused(ClientError):
    """Some alerts of a batch were not stored. ``results`` has one for each alert, in order: where it is, or why not."""

    def __init__(self, results: Sequence[Posted | ClientError]) -> None:
        self.results = results
        refused = [(number, one) for number, one in enumerate(results, 1) if isinstance(one, ClientError)]
        number, first = refused[0]
        super().__init__(
            f"{len(refused)} of {len(results)} alerts were not stored; the first, number {number}: {first}"
        )


class StreamRefused(ClientError):
    """The stream was closed, and coming back would not mend it. ``reason`` is the service's close reason."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        self.reason = reason
        self.code = code
        super().__init__(f"the stream was refused: {reason}" + (f" ({code})" if code else ""))
