"""Rate limits: slowapi's for REST, and the library beneath it for the messages of one connection.

slowapi's ``Limiter`` owns the storage and the strategy. Its route decorator is not used: it reads
limits when a module is imported, runs before the settings exist, and took a third of a bare
request's rate; a dependency asks the same limiter after the bearer is known
(``docs/decisions/0006-rate-limits.md``).
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal, cast

from limits import RateLimitItem, parse_many
from limits.strategies import FixedWindowRateLimiter
from slowapi import Limiter
from slowapi.util import get_remote_address

from service.errors import RateLimited
from service.http.rate_limit_storage import SCHEME, FixedWindowStorage

if TYPE_CHECKING:
    from service.settings import LimitSettings, StreamSettings

RestLimit = Literal["write", "read", "auth_failure", "anonymous"]


class RestLimits:
    """The limits of REST: by subject, and for requests without a valid token by address."""

    def __init__(self, settings: LimitSettings) -> None:
        self._limiter = Limiter(key_func=get_remote_address, strategy="fixed-window", storage_uri=f"{SCHEME}://")
        self._storage = cast("FixedWindowStorage", self._limiter.limiter.storage)
        self._items: dict[RestLimit, list[RateLimitItem]] = {
            "write": parse_many(settings.write_limit),
            "read": parse_many(settings.read_limit),
            "auth_failure": parse_many(settings.auth_failure_limit),
            "anonymous": parse_many(settings.anonymous_limit),
        }

    def hit(self, limit: RestLimit, key: str, cost: int = 1) -> None:
        """Count ``cost`` requests of ``key``, a subject or an address.

        Raises:
            RateLimited: a window of the limit is full.

        """
        for item in self._items[limit]:
            self._hit(item, limit, key, cost)

    def charge(self, limit: RestLimit, key: str, cost: int) -> None:
        """Charge ``cost`` additional requests, also where they are more than a window holds.

        Such a request succeeds in a window in which nothing else was counted; the window then lasts
        as long as so many single requests would have taken.

        Raises:
            RateLimited: a window of the limit is full.

        """
        for item in self._items[limit]:
            counted = min(cost, item.amount - 1)  # the request itself was counted before
            self._hit(item, limit, key, counted)
            self._storage.extend(item.key_for(limit, key), item.get_expiry() * (cost - counted) / item.amount)

    def _hit(self, item: RateLimitItem, limit: RestLimit, key: str, cost: int) -> None:
        strategy = self._limiter.limiter
        if not strategy.hit(item, limit, key, cost=cost):
            raise _refusal(item, strategy.get_window_stats(item, limit, key).reset_time)

    def per_minute(self, limit: RestLimit) -> int:
        """Return how many requests a minute the limit allows, at least 1."""
        return max(1, min(60 * item.amount // item.get_expiry() for item in self._items[limit]))

    def is_exhausted(self, limit: RestLimit, key: str) -> bool:
        """Return whether the next request of ``key`` would be refused; nothing is counted."""
        return not all(self._limiter.limiter.test(item, limit, key) for item in self._items[limit])


def _refusal(item: RateLimitItem, reset_time: float) -> RateLimited:
    """Return the refusal until ``reset_time``, on the clock of the storage."""
    wait = max(1, math.ceil(reset_time - time.monotonic()))
    return RateLimited(
        f"More than {item.amount} requests in {item.get_expiry()} s; come back in {wait} s.",
        retry_after=wait,
        headers={
            "X-RateLimit-Limit": str(item.amount),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(math.ceil(time.time() + wait)),
        },
    )


class ConnectionLimits:
    """The limits of a connection: messages, and violations (messages over that limit)."""

    def __init__(self, settings: StreamSettings) -> None:
        self._storage = FixedWindowStorage()
        self._strategy = FixedWindowRateLimiter(self._storage)
        self._messages = parse_many(settings.message_limit)
        self._violations = parse_many(settings.message_violation_limit)

    def count_message(self, connection: str) -> bool:
        """Count a message, and return whether it is within the limit."""
        return all(self._strategy.hit(item, "message", connection) for item in self._messages)

    def count_violation(self, connection: str) -> bool:
        """Count a violation, and return whether the connection may stay open."""
        return all(self._strategy.hit(item, "violation", connection) for item in self._violations)

    def drop(self, connection: str) -> None:
        """Drop the counters of a connection that closed."""
        for kind, items in (("message", self._messages), ("violation", self._violations)):
            for item in items:
                self._storage.clear(item.key_for(kind, connection))
