"""JSON from the database, with the numbers that were stored.

Numbers of ``jsonb`` have no exponent: it writes 1e19 out in 20 digits, which would be read as an
integer that no client reads exactly, and that takes more bytes in each event. No integer of so many
digits is stored (``alerts/fields.py``).
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_INEXACT = 2**53
_MANY_DIGITS = re.compile(rf"\d{{{len(str(_INEXACT))}}}")


def loads(text: str) -> Any:
    """Read JSON."""
    value = orjson.loads(text)
    return value if _MANY_DIGITS.search(text) is None else _without_long_integers(value)


def _without_long_integers(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_long_integers(member) for name, member in value.items()}
        case list():
            return [_without_long_integers(item) for item in value]
        case int() if abs(value) >= _INEXACT:
            return float(value)
        case _:
            return value
