"""Times and durations as options of a command. Everything is UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

Since = Annotated[str | None, typer.Option(help="From when on: how long ago, such as 24h, or a time.")]
Until = Annotated[str | None, typer.Option(help="Before when: how long ago, such as 1h, or a time.")]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.ASCII)
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta | None:
    """Read a duration such as ``90`` (seconds), ``15m``, ``1.5d`` or ``2w``; None: it is none.

    Raises:
        OverflowError: it is longer than a ``timedelta``.

    """
    found = _DURATION.fullmatch(text.strip())
    return timedelta(**{_UNITS[found[2]]: float(found[1])}) if found else None


def moment(value: str | None, option: str, now: datetime | None = None) -> datetime | None:
    """Read a time: how long before ``now``, or when; without a zone it is UTC.

    Raises:
        typer.BadParameter: it is neither.

    """
    if value is None:
        return None
    text = value.strip()
    try:
        if not text.isdecimal() and (ago := duration(text)) is not None:
            return (now or datetime.now(UTC)) - ago
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "must be how long ago, such as 90s, 15m, 24h, 7d or 2w, or a time such as 2026-11-21T09:41:07Z",
            param_hint=option,
        ) from None


def period(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the bounds of the period that ``--since`` and ``--until`` give; None is no bound.

    Raises:
        typer.BadParameter: one of them is no time, or they are in the wrong order.

    """
    now = datetime.now(UTC)
    start, end = moment(since, "--since", now), moment(until, "--until", now)
    if start is not None and end is not None and start >= end:
        raise typer.BadParameter("must be earlier than --until", param_hint="--since")
    return start, end


def day(since: str | None, until: str | None) -> tuple[datetime, datetime]:
    """Return the bounds that ``--since`` and ``--until`` give; by default the last 24 hours.

    Raises:
        typer.BadParameter: one of them is no time, or they are in the wrong order.

    """
    start, end = period(since, until)
    now = datetime.now(UTC)
    if start is not None and end is None and start >= now:
        raise typer.BadParameter("must not be in the future", param_hint="--since")
    end = end or now
    return start or end - timedelta(days=1), end
