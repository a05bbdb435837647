"""What JSON Schema can say of the values of an alert. ``schemas.py`` checks them, and says with words what was wrong.

Regular expressions are those that ECMAScript, Python and Rust read alike.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

_IN_LINE = r"[^\x00-\x1f\x7f-\x9f]"
_IN_TEXT = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_SHOWN = r"[^\s\x00-\x1f\x7f-\x9f]"

SHOWN = _SHOWN
"""Text that shows something."""
LINE = f"^{_IN_LINE}*{_SHOWN}{_IN_LINE}*$"
"""One line of text that shows something."""
TEXT = f"^{_IN_TEXT}*$"
"""Lines of text."""
WORDS = f"^{_IN_TEXT}*{_SHOWN}{_IN_TEXT}*$"
"""Lines of text that show something."""
KEY = f"^{_IN_LINE}*$"
"""The name of an attribute."""
NAME = f"^{_SHOWN}({_IN_LINE}*{_SHOWN})?$"
"""Printable characters, without blanks at the ends."""
URL = f"^https?://{_SHOWN}+$"


def documented(**keywords: Any) -> Any:
    """Return an annotation that adds ``keywords`` to the JSON Schema of a type."""
    return Field(json_schema_extra=keywords)
