"""Rate limits: slowapi's for REST, and the library beneath it for a connection's own messages.

slowapi's ``Limiter`` owns the storage and the strategy. Its route decorator is not used: it reads limits when a module
is imported, runs before the settings exist, and took a third of a bare request's rate; a dependency asks the same
limiter after the bearer is known (``docs/decisions/0006-rate-limits.md``).
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from limits import RateLimitItem, parse_many
from limits.strategies import FixedWindowRateLimiter
from slowapi import Limiter
from slowapi.util import get_remote_address

from service.errors import RateLimited
from service.http.rate_limit_storage import FixedWindowStorage

if TYPE_CHECKING:
    from service.settings import LimitSettings, StreamSettings


class RestLimits:
    """What one subject, or one address without a good token, may do in REST."""

    def __init__(self, settings: LimitSettings) -> None:
        self._limiter = Limiter(key_func=get_remote_address, strategy="fixed-window", storage_uri="windows://")
        self._items = {
            "write": parse_many(settings.write_limit),
            "read": parse_many(settings.read_limit),
            "refused": parse_many(settings.auth_failure_limit),
        }

    def hit(self, kind: str, who: str, cost: int = 1) -> None:
        """Count ``cost`` requests of ``who``.

        Raises:
            RateLimited: it is over one of the limits of ``kind``.

        """
        strategy = self._limiter.limiter
        for item in self._items[kind]:
            if not strategy.hit(item, kind, who, cost=cost):
                raise _refusal(item, strategy.get_window_stats(item, kind, who).reset_time)

    def hit_beside(self, kind: str, who: str, cost: int) -> None:
        """Count ``cost`` more requests beside one that was counted; what no window holds counts as all that it holds.

        For callers who cannot send less at a time, and would otherwise be refused for ever.

        Raises:
            RateLimited: it is over one of the limits of ``kind``.

        """
        strategy = self._limiter.limiter
        for item in self._items[kind]:
            if not strategy.hit(item, kind, who, cost=min(cost, item.amount - 1)):
                raise _refusal(item, strategy.get_window_stats(item, kind, who).reset_time)

    def would_refuse(self, kind: str, who: str) -> bool:
        """Say whether one more request of ``who`` would be over a limit, without counting it."""
        return not all(self._limiter.limiter.test(item, kind, who) for item in self._items[kind])


def _refusal(item: RateLimitItem, reset_time: float) -> RateLimited:
    wait = max(1, math.ceil(reset_time - time.time()))
    return RateLimited(
        f"More than {item.amount} requests in {item.get_expiry()} s; come back in {wait} s.",
        retry_after=wait,
        headers={
            "X-RateLimit-Limit": str(item.amount),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(math.ceil(reset_time)),
        },
    )


class ConnectionLimits:
    """What one connection may send: messages, and strikes for those over the limit."""

    def __init__(self, settings: StreamSettings) -> None:
        self._storage = FixedWindowStorage()
        self._strategy = FixedWindowRateLimiter(self._storage)
        self._messages = parse_many(settings.message_limit)
        self._strikes = parse_many(settings.message_violation_limit)

    def message(self, connection: str) -> bool:
        """Count a message and say whether it is within the limit."""
        return all(self._strategy.hit(item, "message", connection) for item in self._messages)

    def strike(self, connection: str) -> bool:
        """Count a strike and say whether the connection may stay."""
        return all(self._strategy.hit(item, "strike", connection) for item in self._strikes)

    def forget(self, connection: str) -> None:
        """Drop the counters of a connection that closed."""
        for kind, items in (("message", self._messages), ("strike", self._strikes)):
            for item in items:
                self._storage.clear(item.key_for(kind, connection))
