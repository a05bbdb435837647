"""The severities of alerts, from the least severe to the most severe.

The enumeration ``severity`` of PostgreSQL is made of them; the client and the console are held to them by tests.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Severity: TypeAlias = Literal["info", "warning", "error", "critical"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
CHOICES = f"{', '.join(SEVERITIES[:-1])} or {SEVERITIES[-1]}"
"""All of them, for a sentence."""
RANK = {severity: rank for rank, severity in enumerate(SEVERITIES)}
"""The higher, the more severe."""
