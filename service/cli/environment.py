"""Where the commands find the database and the keys: what is configured, or the data folder."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg

from service.auth.issuers import plain_issuer
from service.auth.keys import make_dev_secret, read_dev_secret, read_secret
from service.database.embedded import embedded_postgres
from service.database.engine import CONNECTION_LOST, address_of, parse_url
from service.errors import CommandFailed, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from service.settings import Settings


@contextmanager
def database_url(settings: Settings) -> Iterator[URL]:
    """Yield the address of the configured database, or of the embedded one, started for as long as the block lasts.

    Raises:
        CommandFailed: the configured database cannot be reached.

    """
    configured = settings.storage.database_url
    if configured is None:
        with embedded_postgres(settings.server.data_dir) as url:
            yield parse_url(url.render_as_string(hide_password=False))
        return
    url = parse_url(configured.get_secret_value())
    asyncio.run(_probe(url, settings.storage.database_connect_timeout_seconds))
    yield url


async def _probe(url: URL, patience: float) -> None:
    try:
        connection = await asyncpg.connect(address_of(url), timeout=patience)
    except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
        raise CommandFailed(
            f"the database {url.render_as_string(hide_password=True)} cannot be used: {error or type(error).__name__};"
            " check TOCSIN_DATABASE_URL and that PostgreSQL runs"
        ) from None
    await connection.close()


def signing_secret(settings: Settings, *, dev: bool = False) -> bytes:
    """Return the shared secret that tokens are signed with; ``dev`` makes one where there is none.

    Raises:
        ConfigurationError: only a public key is configured, or there is no usable secret at all.

    """
    plain = plain_issuer(settings.auth)
    if (plain.public_key_file or plain.jwks_file or plain.jwks_url) is not None:
        raise ConfigurationError("only public keys are configured: ask your token issuer, Tocsin cannot sign tokens")
    if (configured := read_secret(settings.auth.jwt_secret)) is not None:
        return configured
    secret = make_dev_secret(settings.server.data_dir) if dev else read_dev_secret(settings.server.data_dir)
    if secret is None:
        raise ConfigurationError("there is no key to sign with: run tocsin serve --dev once, or set TOCSIN_JWT_SECRET")
    return secret
