"""Migrations with Alembic, from ``alembic/`` beside the package or, once installed, inside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from alembic import command
from service.database.engine import migration_engine

if TYPE_CHECKING:
    from sqlalchemy import URL

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "migrations"
# Beside an installed package this is Alembic itself.
_CHECKOUT = _PACKAGE.parent.parent / "alembic"


def configuration(url: URL) -> Config:
    """Return Alembic's configuration for the database at ``url``."""
    config = Config()
    location = str(_INSTALLED if _INSTALLED.is_dir() else _CHECKOUT)
    config.set_main_option("script_location", location.replace("%", "%%"))  # a value of configparser
    config.attributes["url"] = url
    return config


def migrate(url: URL) -> None:
    """Bring the database at ``url`` to the newest schema.

    Several processes may do so at once: ``alembic/env.py`` takes a lock first.
    """
    command.upgrade(configuration(url), "head")


async def _revision(url: URL) -> str | None:
    engine = migration_engine(url)
    try:
        async with engine.connect() as connection:
            known = await connection.scalar(text("SELECT to_regclass('alembic_version')"))
            return await connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None
    finally:
        await engine.dispose()


def is_current(url: URL) -> bool:
    """Return whether the database at ``url`` has the newest schema."""
    return asyncio.run(_revision(url)) == ScriptDirectory.from_config(configuration(url)).get_current_head()
