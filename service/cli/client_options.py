"""Options that ``tocsin send``, ``tail`` and ``people`` share, and their error messages."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.invocation import suggest
from service.client import (
    ClientError,
    ErrorResponse,
    Forbidden,
    StreamRejected,
    Unauthorized,
    Unreachable,
    UnreadableAnswer,
)
from service.errors import CommandFailed, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.settings import ClientSettings

Url = Annotated[str | None, typer.Option(help="The address of the service; also TOCSIN_URL.")]
Token = Annotated[
    str | None,
    typer.Option(help="The bearer token; TOCSIN_TOKEN or --token-file hide it from other users."),
]
TokenFile = Annotated[Path | None, typer.Option(help="A file that holds the token; also TOCSIN_TOKEN_FILE.")]


def bearer(settings: ClientSettings, token: str | None, token_file: Path | None) -> str | Callable[[], str]:
    """Return the token, or what reads it: options go before variables, a token before a file.

    Raises:
        ConfigurationError: there is none.

    """
    if token is not None:
        return token.strip()
    if token_file is not None:
        return lambda: _read(token_file)
    if settings.token is not None:
        return settings.token.get_secret_value().strip()
    if (configured := settings.token_file) is not None:
        return lambda: _read(configured)
    mint = suggest('token --sub me --scope "alerts:read alerts:write"')
    raise ConfigurationError(
        f"there is no token: use --token-file, or set TOCSIN_TOKEN, with your own key by: export TOCSIN_TOKEN=$({mint})"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        # Without the path: some set the variable to the token itself.
        raise ConfigurationError(f"the file of TOCSIN_TOKEN_FILE or --token-file cannot be read: {why}") from None


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn an error of the client into one line that says what to do about it.

    Raises:
        CommandFailed: the client gave up.

    """
    try:
        yield
    except ClientError as error:
        raise CommandFailed(f"{_line(str(error))}{_advice(error, url)}") from None


def _advice(error: ClientError, url: str) -> str:
    match error:
        case Unreachable() | UnreadableAnswer() | ErrorResponse(code=None):
            advice = f"check that Tocsin runs at {url}, or set --url"
        case Unauthorized() | StreamRejected(reason="token_missing" | "token_invalid" | "token_expired"):
            advice = "get a fresh token and set TOCSIN_TOKEN or --token-file"
        case Forbidden(code="topic_forbidden") | StreamRejected(reason="topic_forbidden"):
            advice = "ask for a token that covers the topic, or choose another --topic"
        case Forbidden() | StreamRejected(reason="scope_missing"):
            advice = "ask for a token with that scope"
        case ErrorResponse(errors=[{"pointer": str(pointer), "detail": str(detail)}, *_]):
            advice = f"correct {_line(pointer)}: {_line(detail)}"
        case _:
            return ""
    return f"; {advice}"


def _line(text: str) -> str:
    return " ".join(text.split())


def printable(text: str) -> str:
    """Return ``text`` as one line without control characters, which a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in _line(text))
