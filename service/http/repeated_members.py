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
    from collections.abc import Iterator

Place: TypeAlias = tuple[str | int, ...]
"""The parts of a JSON pointer."""
_ESCAPED_COLON = b"\\u003"
"""The beginning of one, and of some others."""


class _Object(list[tuple[str, Any]]):
    """An object with all its members."""


def may_repeat(text: bytes, value: Any) -> bool:
    """Say whether the JSON of which a parser made ``value`` may have a repeated member: where not, it has none."""
    try:
        again = orjson.dumps(value)
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return True
    return text.count(b":") != again.count(b":") or _ESCAPED_COLON in text


def repetitions(text: bytes) -> Iterator[Place]:
    """Yield where a valid JSON text has a member that its object has already, the outermost first."""
    # Numbers are not made: they may have more digits than Python reads.
    value = json.loads(text, object_pairs_hook=_Object, parse_int=str, parse_float=str)
    rest: list[tuple[Place, Any]] = [((), value)]
    for place, value in rest:
        if isinstance(value, _Object):
            names = set()
            for name, member in value:
                if name in names:
                    yield (*place, name)
                names.add(name)
                rest.append(((*place, name), member))
        elif isinstance(value, list):
            rest.extend(((*place, index), item) for index, item in enumerate(value))


def first_repetition(text: bytes) -> Place | None:
    """Return where a valid JSON text has a repeated member, None where it has none."""
    try:
        value = orjson.loads(text)
    except ValueError:  # what pydantic reads beyond JSON, such as NaN
        value = None
    return next(repetitions(text), None) if may_repeat(text, value) else None
