"""The form in which a name is shown, so that two names that look the same are the same.

Names are chosen by people, and some choose that of somebody else. Blanks are collapsed, as a page
would, characters that are not drawn are dropped (Unicode, Default_Ignorable_Code_Point), and those
that are drawn like others are replaced (NFKC). Letters of two scripts that look alike stay two.
"""

from __future__ import annotations

import re
import unicodedata

from service.auth.principal import is_subject

_NOT_DRAWN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_BLANKS = re.compile("[ \u2800]+")
_SARA_AM = {"\u0e4d\u0e32": "\u0e33", "\u0ecd\u0eb2": "\u0eb3"}
"""What NFKC makes of a vowel of Thai and of Lao, in an order that is drawn wrongly behind a tone mark."""
_MARKS_MAX = 4
"""How many marks may follow one another: more than a letter has in any script, and they cover the lines around."""


def shown_name(value: object) -> str | None:
    """Return the form of a name that is shown, None if ``value`` is no name that can be.

    A name has a letter or a digit, and is otherwise what a subject may be (``is_subject``).
    """
    if not isinstance(value, str):
        return None
    name = _BLANKS.sub(" ", unicodedata.normalize("NFKC", _NOT_DRAWN.sub("", value))).strip(" ")
    for decomposed, vowel in _SARA_AM.items():
        name = name.replace(decomposed, vowel)
    return name if is_subject(name) and any(map(str.isalnum, name)) and not _has_piled_marks(name) else None


def _has_piled_marks(name: str) -> bool:
    marks = "".join("m" if unicodedata.category(character) in ("Mn", "Me") else " " for character in name)
    return "m" * (_MARKS_MAX + 1) in marks
