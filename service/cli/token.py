"""``tocsin token``: mint a token where a shared secret is configured."""

from __future__ import annotations

from typing import Annotated

import typer

from service.auth.principal import Scope
from service.auth.shared_secret import mint
from service.cli.option_checks import subject, topics
from service.cli.signing_secret import signing_secret
from service.settings import load


def _scopes(value: str) -> str:
    if unknown := sorted(set(value.split()) - set(Scope)):
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(Scope)}")
    return value


def _patterns(value: str | None) -> str | None:
    if value is not None:
        topics(_split(value) or [""])
    return value


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def token(
    *,
    sub: Annotated[str, typer.Option(help="Who the token is for.", callback=subject)],
    scope: Annotated[
        str, typer.Option(help="Scopes, separated by spaces: alerts:read alerts:write …", callback=_scopes)
    ],
    topic_patterns: Annotated[
        str | None,
        typer.Option("--topics", help="Topic patterns, separated by commas; default: all.", callback=_patterns),
    ] = None,
    ttl: Annotated[float, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
    jti: Annotated[str | None, typer.Option(help="An id, to revoke this token alone.", callback=subject)] = None,
) -> None:
    """Print a token and nothing else."""
    settings = load()
    if not ttl <= settings.auth.jwt_max_lifetime_seconds:
        raise typer.BadParameter(f"at most {settings.auth.jwt_max_lifetime_seconds:g} are allowed", param_hint="--ttl")
    secret = signing_secret(settings)
    patterns = _split(topic_patterns) if topic_patterns is not None else None
    print(mint(secret, settings.auth, subject=sub, scope=scope, topics=patterns, ttl_seconds=ttl, jti=jti))
