"""How a time is given to a command: how long ago, or when. Everything is UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from service.audit.queries import Period

Since = Annotated[str | None, typer.Option(help="From when on: how long ago, such as 24h, or a time.")]
Until = Annotated[str | None, typer.Option(help="Before when: how long ago, such as 1h, or a time.")]

_AGO = re.compile(r"(\d+)\s*([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_WANTED = "must be how long ago, such as 90s, 15m, 24h, 7d or 2w, or a time such as 2026-11-21T09:41:07Z"


def period(since: str | None, until: str | None) -> Period:
    """Return the period that the options give, open where they do not bound it.

    Raises:
        typer.BadParameter: one of them is no time, or they are the wrong way round.

    """
    now = datetime.now(UTC)
    bounds = Period(_moment(since, now, "--since"), _moment(until, now, "--until"))
    if bounds.since is not None and bounds.until is not None and bounds.since >= bounds.until:
        raise typer.BadParameter("must be earlier than --until", param_hint="--since")
    return bounds


def day(since: str | None, until: str | None) -> tuple[datetime, datetime]:
    """Return both bounds of the period that the options give; without them it is the day that ends now.

    Raises:
        typer.BadParameter: one of them is no time, or they are the wrong way round.

    """
    bounds = period(since, until)
    now = datetime.now(UTC)
    if bounds.since is not None and bounds.until is None and bounds.since >= now:
        raise typer.BadParameter("must not lie ahead", param_hint="--since")
    end = bounds.until or now
    return bounds.since or end - timedelta(days=1), end


def _moment(value: str | None, now: datetime, option: str) -> datetime | None:
    if value is None:
        return None
    try:
        if ago := _AGO.fullmatch(value.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        at = datetime.fromisoformat(value.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(_WANTED, param_hint=option) from None
