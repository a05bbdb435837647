"""``tocsin people deactivate`` and ``reactivate``, with a token of the scope ``admin``."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.client_options import Token, TokenFile, Url, bearer, explained, printable
from service.cli.option_checks import subject
from service.client import Client
from service.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.client import Activation

Name = Annotated[str, typer.Argument(help="The subject of their tokens.", metavar="NAME", callback=subject)]
Reason = Annotated[str | None, typer.Option(help="Why, in one line.", callback=subject)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as a JSON object.")]


def deactivate(  # noqa: PLR0913 - the options
    name: Name,
    *,
    reason: Reason = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Also a name that left no trace at the service.")] = False,
    url: Url = None,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Deactivate a recipient: no token of theirs is accepted.

    Their streams are closed, and nobody waits for them any more. What they were sent and did stays
    on record.
    """
    with _service(url, token, token_file) as client:
        _show(client.deactivate(name, reason=reason, unknown=unknown), as_json=as_json)


def reactivate(  # noqa: PLR0913 - the options
    name: Name,
    *,
    reason: Reason = None,
    url: Url = None,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Reactivate a recipient: new tokens are accepted.

    Tokens that were issued before stay revoked.
    """
    with _service(url, token, token_file) as client:
        _show(client.reactivate(name, reason=reason), as_json=as_json)


@contextmanager
def _service(url: str | None, token: str | None, token_file: Path | None) -> Iterator[Client]:
    settings = load().client
    address = url or settings.url
    with explained(address), Client(address, bearer(settings, token, token_file)) as client:
        yield client


def _show(state: Activation, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(state), default=str))
        return
    if state.deactivated_at is None:
        print(f"{printable(state.id)} is active")
    else:
        by, why = printable(state.deactivated_by or ""), printable(state.reason or "no reason given")
        print(f"{printable(state.id)} is deactivated since {state.deactivated_at:%Y-%m-%d %H:%M:%S} UTC by {by}: {why}")
    if state.unconfirmed is None:
        print("it is not known which nodes have confirmed that")
    elif state.unconfirmed:
        print(f"not confirmed by {', '.join(state.unconfirmed)}: these refuse every token until they have read it")
