"""Every error that Tocsin answers with, in one tree.

::

    TocsinError
    ├── RequestRefused                    mapped to problem+json in http/problems.py (RFC 9457)
    │   ├── MalformedRequest    400  malformed_request       ├── InvalidRequest      422  invalid_request
    │   ├── TokenMissing        401  token_missing           ├── TokenInvalid        401  token_invalid
    │   ├── TokenExpired        401  token_expired           ├── TokenRevoked        401  token_revoked
    │   ├── ScopeMissing        403  scope_missing           ├── TopicForbidden      403  topic_forbidden
    │   ├── TopicReserved       403  topic_reserved          ├── NotFound            404  not_found
    │   ├── MethodNotAllowed    405  method_not_allowed      ├── RequestTimeout      408  request_timeout
    │   ├── ActionConflict      409  action_conflict         ├── RequestTooLarge     413  request_too_large
    │   ├── TargetTooLong       414  target_too_long         ├── UnsupportedMedia    415  unsupported_media_type
    │   ├── IdempotencyMismatch 422  idempotency_mismatch    ├── RateLimited         429  rate_limited
    │   ├── ConnectionLimit     429  connection_limit        ├── ConsumerLimit       429  consumer_limit
    │   ├── HeadersTooLarge     431  headers_too_large       ├── InternalError       500  internal_error
    │   ├── Overloaded          503  overloaded              ├── KeysUnavailable     503  keys_unavailable
    │   ├── DatabaseUnavailable 503  database_unavailable    ├── OutcomeUnknown      503  outcome_unknown
    │   ├── TooManyQueries      503  too_many_queries        └── QueryTimeout        503  query_timeout
    ├── ConfigurationError                a setting is missing or wrong: one line, exit code 1
    ├── CommandFailed                     a command could not do its work: one line, exit code 1
    ├── ArchiveFailed                     a part of the log was not archived, and so is not purged
    └── ArchiveDamaged                    the content of an archive does not match its hash chain

Errors that never leave their package are declared there (``UnacceptableKey``, ``LeaseLost`` and
others).

``CloseReason`` is the same for a stream: each reason with its close code (RFC 6455, section 7.4) and
what a client does then. A rejected handshake and a refused request that mean the same thing share
the name of the code.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator


class TocsinError(Exception):
    """Base of every error that Tocsin raises on purpose."""


class ConfigurationError(TocsinError):
    """A setting is missing or wrong. The message says which one and what to do."""


class CommandFailed(TocsinError):
    """A command could not do its work. The message says what to do."""


class ArchiveFailed(TocsinError):
    """A part of the log was not archived. The message says why."""


class ArchiveDamaged(TocsinError):
    """The content of an archive, or of what goes into one, does not match its hash chain."""


class RequestRefused(TocsinError):
    """A request is answered with a problem document.

    ``detail`` is shown to the client: what was wrong with *this* request, and never anything
    internal. ``retry_after`` is in seconds; ``errors`` lists single faults, each ``{"pointer": …,
    "detail": …}`` (RFC 6901); ``members`` are further members of the document (RFC 9457, section
    3.2). ``costs``: the request counts against its rate limit all the same, because its work was
    done before it was refused.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]
    costs: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        retry_after: int | None = None,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
        members: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.errors = errors
        self.headers = headers or {}
        self.members = members or {}


class MalformedRequest(RequestRefused):
    """The body is not valid JSON, or a header cannot be read."""

    status, code, title = 400, "malformed_request", "The request cannot be read"


class InvalidRequest(RequestRefused):
    """A field or a parameter of the request is not valid."""

    status, code, title = 422, "invalid_request", "A field of the request is not valid"


class TokenMissing(RequestRefused):
    """No bearer token was sent (RFC 6750, section 3)."""

    status, code, title = 401, "token_missing", "A bearer token is required"


class TokenInvalid(RequestRefused):
    """The token's signature, form or claims are not valid."""

    status, code, title = 401, "token_invalid", "The token is not valid"


class TokenExpired(RequestRefused):
    """The token's ``exp`` has passed."""

    status, code, title = 401, "token_expired", "The token has expired"


class TokenRevoked(RequestRefused):
    """The token was revoked before it expired."""

    status, code, title = 401, "token_revoked", "The token was revoked"


class ScopeMissing(RequestRefused):
    """The token lacks the scope that the operation requires."""

    status, code, title = 403, "scope_missing", "The token lacks a scope"


class TopicForbidden(RequestRefused):
    """The token's ``topics`` do not cover the topic."""

    status, code, title = 403, "topic_forbidden", "The token does not cover this topic"


class TopicReserved(RequestRefused):
    """The topic is reserved for the service's own alerts."""

    status, code, title = 403, "topic_reserved", "The topic is reserved"


class NotFound(RequestRefused):
    """There is no such resource, or the token may not see it."""

    status, code, title = 404, "not_found", "Not found"
    costs = True


class MethodNotAllowed(RequestRefused):
    """The resource does not support the method."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


class RequestTimeout(RequestRefused):
    """The body did not arrive in time."""

    status, code, title = 408, "request_timeout", "The request took too long to arrive"


class RequestTooLarge(RequestRefused):
    """The body, an alert or a comment in it has more bytes, alerts or JSON values than the limit."""

    status, code, title = 413, "request_too_large", "The request is too large"


class TargetTooLong(RequestRefused):
    """The path and the query are too long, or the query has too many parameters."""

    status, code, title = 414, "target_too_long", "The request target is too long"


class HeadersTooLarge(RequestRefused):
    """The headers have too many bytes, or are too many."""

    status, code, title = 431, "headers_too_large", "The headers are too large"


class UnsupportedMedia(RequestRefused):
    """The ``Content-Type`` is missing, or is not one that the operation accepts."""

    status, code, title = 415, "unsupported_media_type", "The body must be JSON"


class ActionConflict(RequestRefused):
    """The action is not allowed in the alert's current status, or somebody else acted first."""

    status, code, title = 409, "action_conflict", "The action is not allowed in the alert's current status"
    costs = True


class IdempotencyMismatch(RequestRefused):
    """The ``Idempotency-Key`` was already used for a different request."""

    status, code, title = 422, "idempotency_mismatch", "The Idempotency-Key was used for a different request"
    costs = True


class RateLimited(RequestRefused):
    """The subject or the address sent too many requests."""

    status, code, title = 429, "rate_limited", "Too many requests"


class ConsumerLimit(RequestRefused):
    """The subject has as many resume points as one may have; a stream with `after` needs none."""

    status, code, title = 429, "consumer_limit", "Too many resume points"


class ConnectionLimit(RequestRefused):
    """The subject holds as many streams as it may."""

    status, code, title = 429, "connection_limit", "Too many streams"


class InternalError(RequestRefused):
    """Unexpected server error."""

    status, code, title = 500, "internal_error", "Internal error"
    costs = True


class Overloaded(RequestRefused):
    """A queue is full, or requests under way hold too many bytes. Nothing was stored."""

    status, code, title = 503, "overloaded", "The service is overloaded"


class KeysUnavailable(RequestRefused):
    """The keys of the token's issuer could not be fetched yet, so the token cannot be verified."""

    status, code, title = 503, "keys_unavailable", "The issuer's keys cannot be reached"


class DatabaseUnavailable(RequestRefused):
    """PostgreSQL cannot be reached, or cannot do the work now. No alert or action was stored."""

    status, code, title = 503, "database_unavailable", "The database is not available"


class OutcomeUnknown(DatabaseUnavailable):
    """PostgreSQL, or a synchronous standby of it, did not confirm the commit."""

    status, code, title = 503, "outcome_unknown", "The outcome of the commit is unknown"


class TooManyQueries(DatabaseUnavailable):
    """All database connections for queries of this kind are in use, or the subject's share of them."""

    status, code, title = 503, "too_many_queries", "Too many queries at once"


class QueryTimeout(DatabaseUnavailable):
    """The query took too long and was canceled. Ask for less at once, such as a shorter period."""

    status, code, title = 503, "query_timeout", "The query took too long"
    costs = True


def all_refusals(base: type[RequestRefused] = RequestRefused) -> Iterator[type[RequestRefused]]:
    """Yield every kind of refusal."""
    for kind in base.__subclasses__():
        yield kind
        yield from all_refusals(kind)


ClosePolicy: TypeAlias = Literal["refresh", "stop", "retry", "retry_later"]
"""What a client does at a close. ``retry_later``: there are too many streams or requests."""

ADVICE: dict[ClosePolicy, str] = {
    "refresh": "refresh the token, then resume",
    "stop": "stop",
    "retry": "back off, then resume",
    "retry_later": "back off for longer, then resume",
}
"""Each policy in words, for the documentation."""


class CloseReason(Enum):
    """Why a stream was closed: the reason on the wire, its close code, and the policy of a client."""

    TOKEN_MISSING = ("token_missing", 1008, "refresh")
    TOKEN_INVALID = ("token_invalid", 1008, "refresh")
    TOKEN_EXPIRED = ("token_expired", 1008, "refresh")
    TOKEN_REVOKED = ("token_revoked", 1008, "refresh")
    SCOPE_MISSING = ("scope_missing", 1008, "stop")
    TOPIC_FORBIDDEN = ("topic_forbidden", 1008, "stop")
    ORIGIN_FORBIDDEN = ("origin_forbidden", 1008, "stop")
    RATE_LIMITED = ("rate_limited", 1008, "retry_later")
    CONNECTION_LIMIT = ("connection_limit", 1008, "retry_later")
    CONSUMER_LIMIT = ("consumer_limit", 1008, "stop")
    KICKED = ("kicked", 1008, "stop")
    INVALID_REQUEST = ("invalid_request", 1008, "stop")
    BAD_MESSAGE = ("bad_message", 1008, "stop")
    BINARY_MESSAGE = ("binary_message", 1003, "stop")
    INVALID_UTF8 = ("invalid_utf8", 1007, "stop")
    MESSAGE_TOO_BIG = ("message_too_big", 1009, "stop")
    POLL_TIMEOUT = ("poll_timeout", 1001, "retry")
    HEARTBEAT_TIMEOUT = ("heartbeat_timeout", 1011, "retry")
    INTERNAL_ERROR = ("internal_error", 1011, "retry")
    SHUTTING_DOWN = ("shutting_down", 1012, "retry")
    HISTORY_CHANGED = ("history_changed", 1012, "retry")
    SLOW_CONSUMER = ("slow_consumer", 1013, "retry")
    OVERLOADED = ("overloaded", 1013, "retry")
    KEYS_UNAVAILABLE = ("keys_unavailable", 1013, "retry")

    def __init__(self, reason: str, code: int, policy: ClosePolicy) -> None:
        self.reason = reason
        self.code = code
        self.policy = policy
        self.advice = ADVICE[policy]

    @classmethod
    def named(cls, reason: str) -> CloseReason:
        """Return the close reason of that name, which is the ``code`` of a refusal for the same cause."""
        return cls[reason.upper()]
