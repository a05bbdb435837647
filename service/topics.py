"""The grammar of topics and topic patterns, and which pattern covers which topic.

The SQL twin is ``topic_like`` in ``alembic/sql/event_filter.sql``; a property test holds the two equal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

TOPIC_MAX = 100
TOPIC_CHARACTERS = "a-z0-9_-"
"""Of one part, as in a class of a regular expression."""
_PARTS = rf"[{TOPIC_CHARACTERS}]+(\.[{TOPIC_CHARACTERS}]+)*"
TOPIC_REGEX = rf"^{_PARTS}$"
PATTERN_REGEX = rf"^(\*|{_PARTS}(\.\*)?)$"
EVERY_TOPIC = ("*",)
RESERVED_PREFIXES = ("tocsin.", "drill.")
"""Topics beneath these are the service's own: nobody posts there."""

_TOPIC = re.compile(TOPIC_REGEX)
_PATTERN = re.compile(PATTERN_REGEX)


def is_topic(value: str) -> bool:
    """Say whether ``value`` is a topic: dot-separated parts of ``a-z0-9_-``, 1 to 100 characters."""
    return len(value) <= TOPIC_MAX and _TOPIC.fullmatch(value) is not None


def is_reserved(topic: str) -> bool:
    """Say whether only the service itself raises alerts of ``topic``."""
    return topic.startswith(RESERVED_PREFIXES)


def is_topic_pattern(value: object) -> bool:
    """Say whether ``value`` is a topic (``payments``), all beneath one (``payments.*``), or all (``*``)."""
    return isinstance(value, str) and len(value) <= TOPIC_MAX and _PATTERN.fullmatch(value) is not None


def covers(pattern: str, topic: str) -> bool:
    """Say whether ``pattern`` covers ``topic``, which may itself be a pattern.

    ``payments.*`` covers ``payments.eu``, ``payments.eu.cards`` and the pattern ``payments.eu.*``, but not
    ``payments``.
    """
    if pattern in ("*", topic):
        return True
    return pattern.endswith(".*") and topic.startswith(pattern[:-1])


def any_covers(patterns: Collection[str], topic: str) -> bool:
    """Say whether one of ``patterns`` covers ``topic``."""
    return "*" in patterns or any(covers(pattern, topic) for pattern in patterns)


def intersect(granted: Iterable[str], requested: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that cover exactly the topics that both lists cover, sorted and without redundancy.

    Two patterns either nest or are disjoint, so each that the other list covers belongs to both.
    """
    granted, requested = frozenset(granted), frozenset(requested)
    both = {pattern for pattern in granted if not requested.isdisjoint(_covering(pattern))}
    both |= {pattern for pattern in requested if not granted.isdisjoint(_covering(pattern))}
    return tuple(sorted(pattern for pattern in both if both.isdisjoint(_covering(pattern) - {pattern})))


def disjoint(granted: Iterable[str], requested: Iterable[str]) -> list[str]:
    """Return those of ``requested`` that share no topic with ``granted``."""
    granted = frozenset(granted)
    wider = granted.union(*map(_covering, granted))
    return [pattern for pattern in requested if pattern not in wider and granted.isdisjoint(_covering(pattern))]


def _covering(topic: str) -> set[str]:
    """Return all patterns that cover ``topic``, which may itself be a pattern."""
    dots = (index for index, character in enumerate(topic) if character == ".")
    return {"*", topic, *(f"{topic[:dot]}.*" for dot in dots)}
