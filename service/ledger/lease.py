"""The lease of a node: for how long after a renewal nobody may declare it lost.

The node declares how long its lease lasts (``nodes.lease_seconds``), and counts it from before the
renewal was sent. The others can see the renewal only later, and count the same seconds from then on
(``lost_nodes.py``). So the lease has ended for its holder before it has for anybody else, and no
clocks are compared: each of the two measures a duration.
"""

from __future__ import annotations

import math

from service.timestamps import boottime


class Lease:
    """The lease that a node holds for ``seconds`` after each renewal; at first, none."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._renewed_at = -math.inf

    @property
    def age(self) -> float:
        """The seconds since the renewal, infinite where there is none."""
        return boottime() - self._renewed_at

    @property
    def is_held(self) -> bool:
        """Whether nobody can have declared this node lost."""
        return self.age < self.seconds

    def renew(self, sent_at: float) -> None:
        """Hold the lease from ``sent_at`` (boot time) on, when the renewal was sent that is now committed."""
        self._renewed_at = sent_at

    def end(self) -> None:
        """Hold no lease until the next renewal."""
        self._renewed_at = -math.inf
