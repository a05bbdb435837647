"""``tocsin token``: mint a token where a shared secret is configured."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from service.auth.principal import Scope
from service.auth.shared_secret import mint
from service.cli.option_checks import subject
from service.cli.signing_secret import signing_secret
from service.cli.time_options import duration
from service.settings import load
from service.topics import is_topic_pattern


def token(
    *,
    sub: Annotated[str, typer.Option(help="Who the token is for.", callback=subject)],
    scope: Annotated[str, typer.Option(help="Scopes, separated by spaces: alerts:read alerts:write …")],
    topics: Annotated[str | None, typer.Option(help="Topic patterns, separated by commas; default: all.")] = None,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="When it expires: 90, 15m, 2h or 1d.")] = "1h",
    jti: Annotated[str | None, typer.Option(help="An id, to revoke this token alone.", callback=subject)] = None,
) -> None:
    """Print a token and nothing else."""
    if unknown := sorted(set(scope.split(" ")) - {"", *Scope}):
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(Scope)}", param_hint="--scope")
    patterns = None if topics is None else [part.strip() for part in topics.split(",") if part.strip()]
    if patterns is not None and not (patterns and all(map(is_topic_pattern, patterns))):
        raise typer.BadParameter("must be topics such as payments, payments.* or *", param_hint="--topics")
    settings = load()
    seconds = _seconds(ttl)
    if not 1 <= seconds <= settings.auth.jwt_max_lifetime_seconds:
        raise typer.BadParameter(
            f"from 1 s to {settings.auth.jwt_max_lifetime_seconds:g} s are allowed", param_hint="--ttl"
        )
    secret = signing_secret(settings)
    print(mint(secret, settings.auth, subject=sub, scope=scope, topics=patterns, ttl_seconds=seconds, jti=jti))


def _seconds(ttl: str) -> float:
    with suppress(OverflowError):
        if (lasts := duration(ttl)) is not None:
            return lasts.total_seconds()
    raise typer.BadParameter("must be a duration such as 90, 15m, 2h or 1d", param_hint="--ttl")
