"""Migrations with Alembic, from ``alembic/`` beside the package or, once installed, inside it."""

from __future__ import annotations

import asyncio
from enum import Enum
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


class SchemaState(Enum):
    """What the schema of a database is, beside the one that this version needs."""

    CURRENT = "current"
    MISSING = "missing"
    OLDER = "older"
    UNKNOWN = "unknown"
    """Of a newer version, or of another program that uses Alembic."""


def schema_state(url: URL) -> SchemaState:
    """Return the state of the schema of the database at ``url``."""
    found = asyncio.run(_revision(url))
    scripts = ScriptDirectory.from_config(configuration(url))
    if found is None:
        return SchemaState.MISSING
    if found == scripts.get_current_head():
        return SchemaState.CURRENT
    is_known = any(script.revision == found for script in scripts.walk_revisions())
    return SchemaState.OLDER if is_known else SchemaState.UNKNOWN


def is_current(url: URL) -> bool:
    """Return whether the database at ``url`` has the newest schema."""
    return schema_state(url) is SchemaState.CURRENT
