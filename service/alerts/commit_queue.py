"""The queue of the committer: bounded in items and bytes, and fair between those who post.

A transaction takes one item of each subject in turn, and where several wait at most
``OF_A_SUBJECT`` of each. So who sends thousands of alerts at once delays an alert of somebody else
by two transactions, and not by all thousands. The items of one subject are taken in their order.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING

from service.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.alerts.queue_items import QueueItem


OF_A_SUBJECT = 100
"""The most items of one subject in a transaction while others wait."""


class CommitQueue:
    """Items that wait for a transaction."""

    def __init__(self, *, items_max: int, bytes_max: int) -> None:
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._of_subject: OrderedDict[str, deque[QueueItem]] = OrderedDict()
        """The next to take an item from comes first."""
        self._items = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._items

    def put(self, items: Sequence[QueueItem]) -> None:
        """Add the items of one request, at least one.

        Raises:
            Overloaded: there is no room for all of them.

        """
        if len(items) > self._items_max - self._items or self._bytes >= self._bytes_max:
            raise Overloaded("Too many alerts wait for the database. Nothing was stored.", retry_after=1)
        bearer = items[0].bearer
        subject = bearer.subject if bearer is not None else ""
        if subject not in self._of_subject:
            self._of_subject[subject] = deque()
        self._of_subject[subject].extend(items)
        self._items += len(items)
        self._bytes += sum(item.size for item in items)

    def take_all(self) -> list[QueueItem]:
        """Remove and return all items."""
        items = [item for theirs in self._of_subject.values() for item in theirs]
        self._of_subject.clear()
        self._items = self._bytes = 0
        return items

    def take(self, *, most: int, max_bytes: int) -> list[QueueItem]:
        """Remove and return the next items: at most so many, and none after those of so many bytes."""
        taken: list[QueueItem] = []
        most_of_a_subject = OF_A_SUBJECT if len(self._of_subject) > 1 else most
        counts = Counter[str]()
        served: dict[str, deque[QueueItem]] = {}
        size = 0
        while self._of_subject and len(taken) < most and size < max_bytes:
            subject, theirs = self._of_subject.popitem(last=False)
            taken.append(theirs.popleft())
            size += taken[-1].size
            counts[subject] += 1
            if theirs:
                remaining = self._of_subject if counts[subject] < most_of_a_subject else served
                remaining[subject] = theirs
        self._of_subject.update(served)
        self._items -= len(taken)
        self._bytes -= size
        return taken
