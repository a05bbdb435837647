"""Rate limits: slowapi's for REST, and the library beneath it for the messages of one connection.

slowapi's ``Limiter`` owns the storage and the strategy. Its route decorator is not used: it reads
limits when a module is imported, runs before the settings exist, and took a third of a bare
request's rate; a dependency asks the same limiter after the bearer is known
(``docs/decisions/0006-rate-limits.md``).

What is refused costs nothing. A request over a limit takes nothing, from none of several limits; and
what a request took is given back if it is refused afterwards (``charges.py``).
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from limits import RateLimitItem, parse_many
from limits.strategies import MovingWindowRateLimiter, RateLimiter
from slowapi import Limiter
from slowapi.util import get_remote_address

from service.errors import RateLimited
from service.http.token_buckets import SCHEME, TokenBucketStorage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from service.http.token_buckets import Taken
    from service.settings import LimitSettings, StreamSettings

RestLimit = Literal["write", "read", "auth_failure", "anonymous", "connect", "rejection"]

_COUNTED: dict[RestLimit, str] = {
    "write": "alerts and actions on alerts",
    "read": "queries",
    "auth_failure": "requests without a valid token",
    "anonymous": "requests",
    "connect": "new streams",
    "rejection": "rejected handshakes",
}
"""What each limit counts, in words."""

Cost: TypeAlias = "Sequence[Taken]"
"""What was taken from each of the limits that hold at the same time."""


def _whole_seconds(wait: float) -> int:
    return max(1, math.ceil(wait))


class _Buckets:
    """The buckets of limits that hold at the same time: a cost is taken from each, or from none."""

    def __init__(self, strategy: RateLimiter, kind: str, rates: str) -> None:
        self._strategy = strategy
        self._storage = cast("TokenBucketStorage", strategy.storage)
        self._kind = kind
        self.items: Sequence[RateLimitItem] = parse_many(rates)

    def take(self, key: str, cost: int = 1) -> Cost | None:
        """Take ``cost`` from all, and return what was taken; None where one had too little."""
        taken: list[Taken] = []
        for item in self.items:
            one = self._storage.take(item.key_for(self._kind, key), item.amount, item.get_expiry(), cost)
            if one is None:
                self.give_back(taken, cost)
                return None
            taken.append(one)
        return taken

    def give_back(self, taken: Cost, cost: int) -> None:
        """Give back ``cost`` of what was taken, less what time has put back."""
        for item, one in zip(self.items, taken, strict=False):
            self._storage.give_back(one, item.amount, item.get_expiry(), cost)

    def has(self, key: str) -> bool:
        """Return whether each has one left; nothing is taken."""
        return all(self._strategy.test(item, self._kind, key) for item in self.items)

    def remaining(self, item: RateLimitItem, key: str) -> int:
        """Return how much is left in the bucket of one limit."""
        return max(0, self._strategy.get_window_stats(item, self._kind, key).remaining)

    def longest_wait(self, key: str, cost: int) -> tuple[float, RateLimitItem]:
        """Return in how many seconds ``cost`` can be taken, and the limit that has it wait for so long."""
        waits = [
            self._storage.seconds_until(item.key_for(self._kind, key), item.amount, item.get_expiry(), cost)
            for item in self.items
        ]
        longest = max(range(len(waits)), key=waits.__getitem__)
        return waits[longest], self.items[longest]

    def retry_after(self, key: str, cost: int) -> int:
        """Return in how many seconds to come back with a cost that could not be taken."""
        return _whole_seconds(self.longest_wait(key, cost)[0])

    def refusal(self, key: str, counted: str, cost: int, asked: str) -> RateLimited:
        """Return the refusal of a cost that could not be taken; ``counted``: what the limit counts, in words."""
        wait, item = self.longest_wait(key, cost)
        seconds = _whole_seconds(wait)
        remaining = self.remaining(item, key)
        return RateLimited(
            f"The limit is {item.amount} {counted} in {item.get_expiry()} s; {remaining} are left, and {asked}."
            f" Send it again in {seconds} s.",
            retry_after=seconds,
            members={"limit": item.amount, "remaining": remaining},
            headers={
                "X-RateLimit-Limit": str(item.amount),
                "X-RateLimit-Remaining": str(remaining),
                "X-RateLimit-Reset": str(math.ceil(time.time() + wait)),
            },
        )

    def clear(self, key: str) -> None:
        """Fill all."""
        for item in self.items:
            self._strategy.clear(item, self._kind, key)


class RestLimits:
    """The limits of REST: by subject, and for requests without a valid token by address."""

    def __init__(self, settings: LimitSettings) -> None:
        strategy = Limiter(key_func=get_remote_address, strategy="moving-window", storage_uri=f"{SCHEME}://").limiter
        rates: dict[RestLimit, str] = {
            "write": settings.write_limit,
            "read": settings.read_limit,
            "auth_failure": settings.auth_failure_limit,
            "anonymous": settings.anonymous_limit,
            "connect": settings.connect_limit,
            "rejection": settings.auth_failure_limit,
        }
        self._buckets = {limit: _Buckets(strategy, limit, text) for limit, text in rates.items()}

    def hit(self, limit: RestLimit, key: str, cost: int = 1) -> Cost:
        """Take ``cost`` from the limit of ``key``, a subject or an address.

        Raises:
            RateLimited: too little is left, and nothing was taken.

        """
        if (taken := self._buckets[limit].take(key, cost)) is None:
            raise self._refusal(limit, key, cost)
        return taken

    def require(self, limit: RestLimit, key: str, cost: int = 1) -> None:
        """Refuse a request of ``cost`` where not even one is left.

        Raises:
            RateLimited: until it is admitted.

        """
        if self.is_exhausted(limit, key):
            raise self._refusal(limit, key, cost)

    def give_back(self, limit: RestLimit, taken: Cost, cost: int) -> None:
        """Give back what was taken by a request that was refused, or by a part of it."""
        self._buckets[limit].give_back(taken, cost)

    def per_minute(self, limit: RestLimit) -> int:
        """Return how many requests a minute the limit allows, at least 1."""
        return max(1, min(60 * item.amount // item.get_expiry() for item in self._buckets[limit].items))

    def is_exhausted(self, limit: RestLimit, key: str) -> bool:
        """Return whether the next request of ``key`` would be refused; nothing is counted."""
        return not self._buckets[limit].has(key)

    def _refusal(self, limit: RestLimit, key: str, cost: int) -> RateLimited:
        return self._buckets[limit].refusal(key, _COUNTED[limit], cost, f"this request has {cost}")


class ConnectionLimits:
    """The limits of a connection: messages, and violations (messages over that limit)."""

    def __init__(self, settings: StreamSettings) -> None:
        self._storage = TokenBucketStorage()
        strategy = MovingWindowRateLimiter(self._storage)
        self._messages = _Buckets(strategy, "message", settings.message_limit)
        self._violations = _Buckets(strategy, "violation", settings.message_violation_limit)

    def count_message(self, connection: str) -> bool:
        """Count a message, and return whether it is within the limit."""
        return self._messages.take(connection) is not None

    def retry_after(self, connection: str) -> int:
        """Return in how many seconds the next message is within the limit."""
        return self._messages.retry_after(connection, 1)

    def require_message(self, connection: UUID) -> None:
        """Count a message that is a request of its own.

        Raises:
            RateLimited: it is over the limit.

        """
        if not self.count_message(str(connection)):
            raise self._messages.refusal(str(connection), "messages of a connection", 1, "this request is one")

    def count_violation(self, connection: str) -> bool:
        """Count a violation, and return whether the connection may stay open."""
        return self._violations.take(connection) is not None

    def drop(self, connection: str) -> None:
        """Drop the counters of a connection that closed."""
        self._messages.clear(connection)
        self._violations.clear(connection)
