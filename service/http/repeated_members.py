"""JSON objects that have a member twice, of which parsers keep the last (RFC 8259, section 4).

Two programs on the way of a request might each read another one. So it is refused, as are repeated
parameters and headers; only the webhooks of other systems are read as their senders' own parsers do.

No parser that is as fast as this service needs says so. But each member has one colon, and what is
parsed and written again has as many in its texts. So colons are counted, which takes less than a
hundredth of a request's time, and only where they differ is the JSON read by a parser that keeps
all members.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Place: TypeAlias = tuple[str | int, ...]
"""The parts of a JSON pointer."""
_ESCAPED_COLON = b"\\u003"
"""The beginning of one, and of some others."""


class _Repeated(dict[str, Any]):
    """An object with a member that is there twice: the first such is ``name``."""

    name: str


def may_repeat(text: bytes, value: Any) -> bool:
    """Say whether the JSON of which a parser made ``value`` may have a repeated member: where not, it has none."""
    try:
        again = orjson.dumps(value)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return True
    return text.count(b":") != again.count(b":") or _ESCAPED_COLON in text


def first_of_each(array: bytes) -> Iterator[tuple[int, Place]]:
    """Yield which items of a valid JSON array have a repeated member, and where in the item."""
    items, is_repeated = _read(array)
    if is_repeated:
        for index, item in enumerate(items):
            if (place := _place(item)) is not None:
                yield index, place


def first_repetition(text: bytes) -> Place | None:
    """Return where a valid JSON text has a repeated member, None where it has none."""
    try:
        value = orjson.loads(text)
    except ValueError:  # what pydantic reads beyond JSON, such as NaN
        value = None
    if not may_repeat(text, value):
        return None
    value, is_repeated = _read(text)
    return _place(value) if is_repeated else None


def _read(text: bytes) -> tuple[Any, bool]:
    """Return the value of a JSON text, whose objects say what they repeat, and whether any does."""
    is_repeated = False

    def members_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal is_repeated
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        is_repeated = True
        repeated, rest = _Repeated(members), members.copy()
        repeated.name = next(name for name, _ in pairs if rest.pop(name, rest) is rest)
        return repeated

    # Numbers are not made: they may have more digits than Python reads.
    return json.loads(text, object_pairs_hook=members_of, parse_int=str, parse_float=str), is_repeated


def _place(value: Any) -> Place | None:
    """Return where the outermost repeated member is in ``value``, None where there is none."""
    within: list[tuple[Any, Any]] = [(value, None)]
    """Objects and arrays, the outermost first, each with its name and what it is in."""
    for one, at in within:
        if isinstance(one, _Repeated):
            return _path((at, one.name))
        members: Iterable[tuple[Any, Any]] = ()
        if isinstance(one, dict):
            members = one.items()
        elif isinstance(one, list):
            members = enumerate(one)
        within.extend((member, (at, name)) for name, member in members if isinstance(member, (dict, list)))
    return None


def _path(at: Any) -> Place:
    names: list[str | int] = []
    while at is not None:
        at, name = at
        names.append(name)
    return tuple(reversed(names))
