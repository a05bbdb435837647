"""Checks of options, used as their callbacks: each returns the value or raises BadParameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from service.auth.principal import is_subject
from service.topics import is_topic, is_topic_pattern

if TYPE_CHECKING:
    from collections.abc import Callable


def subject(value: Any) -> Any:
    """Accept what may be the subject of a token, or a list of such, or None."""
    if not all(map(is_subject, listed(value))):
        raise typer.BadParameter("must be 1 to 200 printable characters, without blanks at the ends")
    return value


def topic(value: Any) -> Any:
    """Accept a topic, or None."""
    if not all(map(is_topic, listed(value))):
        raise typer.BadParameter("must be dot-separated parts of a-z, 0-9, _ and -, such as payments.eu")
    return value


def topics(value: Any) -> Any:
    """Accept a topic pattern, or a list of such, or None."""
    if not all(map(is_topic_pattern, listed(value))):
        raise typer.BadParameter("must be topics such as payments, payments.* or *")
    return value


def one_of(*known: str) -> Callable[[Any], Any]:
    """Return a check that accepts these values, lists of them, and None."""

    def check(value: Any) -> Any:
        if not set(listed(value)) <= set(known):
            raise typer.BadParameter(f"must be one of {', '.join(known)}")
        return value

    return check


def listed(value: Any) -> list[str]:
    """Return the values of an option, of which there may be none, one or several."""
    return [value] if isinstance(value, str) else value or []
