"""The verified bearer of a token: subject, scopes and topics. Pure values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from service.topics import any_covers

if TYPE_CHECKING:
    from collections.abc import Iterable

SUBJECT_MAX = 200


class Scope(StrEnum):
    """What a token may be used for: the values of its ``scope`` claim (RFC 8693, section 4.2)."""

    ALERTS_WRITE = "alerts:write"
    ALERTS_READ = "alerts:read"
    ALERTS_MANAGE = "alerts:manage"
    AUDIT_READ = "audit:read"
    ADMIN = "admin"


def is_subject(value: object) -> bool:
    """Return whether ``value`` can name a person or a service.

    That is 1 to 200 printable characters without blanks at the ends. Printable excludes NUL and
    lone surrogates, which PostgreSQL and UTF-8 cannot hold, line breaks and escapes, which forge
    log lines, and bidirectional overrides.
    """
    return isinstance(value, str) and 0 < len(value) <= SUBJECT_MAX and value.isprintable() and value == value.strip()


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a verified token.

    ``topics`` are patterns, ``("*",)`` where the token does not narrow them. ``expires_at`` and
    ``issued_at`` are in seconds since the epoch. ``name`` is what the subject is shown by, where the
    token says it; the bearer may have chosen it, so nothing is decided by it.
    """

    subject: str
    scopes: frozenset[str]
    topics: tuple[str, ...]
    expires_at: float
    jti: str | None = None
    issued_at: float = 0
    name: str | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether the token has ``scope``."""
        return scope in self.scopes

    def covers(self, topic: str) -> bool:
        """Return whether the token's topics cover ``topic``."""
        return any_covers(self.topics, topic)

    def covers_all(self, patterns: Iterable[str]) -> bool:
        """Return whether the token's topics cover all that ``patterns`` cover."""
        return all(map(self.covers, patterns))
