"""The text of a header: it is UTF-8, as bodies and addresses are, though Starlette reads it as Latin-1."""

from __future__ import annotations

from service.errors import MalformedRequest

NAME_SHOWN = 100
"""Characters of a header's name that a refusal repeats."""


def header_text(name: str, value: str) -> str:
    """Return the text of a header of which Starlette made ``value`` (RFC 9110, section 5.5, leaves the charset open).

    Raises:
        MalformedRequest: it is not UTF-8. Read as anything else, two keys or ids might be one.

    """
    raw = value.encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(
            f"The header {name[:NAME_SHOWN]} is not UTF-8: it has the byte 0x{raw[error.start]:02X}. Send it as UTF-8."
        ) from None
