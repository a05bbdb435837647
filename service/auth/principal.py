"""The verified bearer of a token: subject, scopes and topics. Pure values, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

TOPIC_MAX = 100
SUBJECT_MAX = 200
_PART = r"[a-z0-9_-]+"
_TOPIC = re.compile(rf"{_PART}(?:\.{_PART})*")
_PATTERN = re.compile(rf"\*|{_PART}(?:\.{_PART})*(?:\.\*)?")
EVERY_TOPIC = ("*",)


class Scope(StrEnum):
    """What a token may be used for; the values stand in the ``scope`` claim (RFC 8693, section 4.2)."""

    ALERTS_WRITE = "alerts:write"
    ALERTS_READ = "alerts:read"
    ALERTS_MANAGE = "alerts:manage"
    AUDIT_READ = "audit:read"
    ADMIN = "admin"


def is_subject(value: object) -> bool:
    """Say whether ``value`` can name a person or a service.

    1 to 200 printable characters without blanks at the ends. Printable excludes NUL and lone surrogates, which
    PostgreSQL and UTF-8 cannot hold, line breaks and escapes, which forge log lines, and bidirectional overrides.
    """
    return isinstance(value, str) and 0 < len(value) <= SUBJECT_MAX and value.isprintable() and value == value.strip()


def is_topic(value: str) -> bool:
    """Say whether ``value`` is a topic: dot-separated parts of ``a-z0-9_-``, 1 to 100 characters."""
    return len(value) <= TOPIC_MAX and _TOPIC.fullmatch(value) is not None


def is_topic_pattern(value: object) -> bool:
    """Say whether ``value`` is a topic (``payments``), all beneath one (``payments.*``), or all (``*``)."""
    return isinstance(value, str) and len(value) <= TOPIC_MAX and _PATTERN.fullmatch(value) is not None


def covers(pattern: str, topic: str) -> bool:
    """Say whether ``pattern`` covers ``topic``, which may itself be a pattern.

    ``payments.*`` covers ``payments.eu``, ``payments.eu.cards`` and the pattern ``payments.eu.*``, but not
    ``payments``. The SQL twin is ``event_matches``.
    """
    if pattern in ("*", topic):
        return True
    return pattern.endswith(".*") and topic.startswith(pattern[:-1])


def any_covers(patterns: Collection[str], topic: str) -> bool:
    """Say whether one of ``patterns`` covers ``topic``."""
    return "*" in patterns or any(covers(pattern, topic) for pattern in patterns)


def intersect(granted: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that cover exactly the topics that both lists cover, sorted and without redundancy.

    Two patterns either nest or are disjoint, so each pair contributes the narrower of the two, or nothing.
    """
    wanted = tuple(wanted)
    both = {
        narrow
        for left in granted
        for right in wanted
        for wide, narrow in ((left, right), (right, left))
        if covers(wide, narrow)
    }
    return tuple(sorted(p for p in both if not any(other != p and covers(other, p) for other in both)))


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a verified token.

    ``topics`` are patterns, ``("*",)`` where the token does not narrow them. ``expires_at`` and ``issued_at`` are in
    seconds since the epoch.
    """

    subject: str
    scopes: frozenset[str]
    topics: tuple[str, ...]
    expires_at: float
    jti: str | None = None
    issued_at: float = 0

    def may(self, scope: Scope) -> bool:
        """Say whether the token carries ``scope``."""
        return scope in self.scopes

    def covers(self, topic: str) -> bool:
        """Say whether the token's topics cover ``topic``."""
        return any_covers(self.topics, topic)
