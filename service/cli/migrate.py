"""``tocsin migrate``: bring the schema up to date."""

from __future__ import annotations

from service import logs
from service.cli.environment import database_url, migrate_schema
from service.settings import load


def migrate() -> None:
    """Bring the schema of the database up to date."""
    settings = load()
    logs.configure(settings.server.log_level, settings.server.log_format)
    with database_url(settings, create=True) as url:
        migrate_schema(url)
    print("The schema is up to date.")
