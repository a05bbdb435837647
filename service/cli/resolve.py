"""``tocsin resolve``: resolve what was posted with a dedup key, from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import option_checks
from service.cli.client_options import Token, TokenFile, Url, bearer, explained
from service.client import Client
from service.settings import load


def resolve(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The --dedup-key that the alerts were sent with.")],
    *,
    topic: Annotated[
        str | None, typer.Option(help="Those of this topic; default: of every topic.", callback=option_checks.topic)
    ] = None,
    url: Url = None,
    token: Token = None,
    token_file: TokenFile = None,
) -> None:
    """Resolve what the token's subject sent with a dedup key.

    Print how many alerts that were: 0 where none is unresolved, which is no failure.
    """
    settings = load().client
    address = url or settings.url
    with explained(address), Client(address, bearer(settings, token, token_file)) as client:
        print(client.resolve(key, topic=topic))
