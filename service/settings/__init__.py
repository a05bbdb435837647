"""The settings: typed, grouped by concern, read once.

A setting ``port`` is the variable ``TOCSIN_PORT``, in the environment or in a ``.env`` file of the
working folder. Nothing else in the service reads the environment. ``docs/reference.md`` lists all
of them; a test compares.
"""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from pydantic import ValidationError

from service.errors import ConfigurationError
from service.settings.alerts import AlertSettings, IntegrationSettings
from service.settings.clients import ClientSettings, ConsoleSettings
from service.settings.group import SettingsGroup
from service.settings.secret_files import FILE_SUFFIX, read_secret_files, secrets_of
from service.settings.server import LimitSettings, ServerSettings
from service.settings.storage import EVENT_MAX_BYTES, LedgerSettings, RetentionSettings, StorageSettings
from service.settings.stream import StreamSettings
from service.settings.tokens import AuthSettings, IssuerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EVENT_MAX_BYTES",
    "PREFIX",
    "AlertSettings",
    "AuthSettings",
    "ClientSettings",
    "ConsoleSettings",
    "IntegrationSettings",
    "IssuerSettings",
    "LedgerSettings",
    "LimitSettings",
    "RetentionSettings",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "StreamSettings",
    "groups",
    "load",
    "unknown_variables",
]

PREFIX = "TOCSIN_"


class Settings(SettingsGroup):
    """All settings of one process."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    stream: StreamSettings = StreamSettings()
    ledger: LedgerSettings = LedgerSettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()
    integrations: IntegrationSettings = IntegrationSettings()
    console: ConsoleSettings = ConsoleSettings()
    client: ClientSettings = ClientSettings()


def groups() -> dict[str, type[SettingsGroup]]:
    """Return the class of each group of settings, by the name of its field."""
    return {name: type(group.default) for name, group in Settings.model_fields.items()}


def load() -> Settings:
    """Read the settings: the environment overrides ``.env``; an empty variable counts as unset.

    A secret may be in a file: ``TOCSIN_JWT_SECRET_FILE`` is the path of one that holds
    ``TOCSIN_JWT_SECRET``.

    Raises:
        ConfigurationError: a variable has an invalid value; the message names the variable.

    """
    try:
        variables = {**dotenv_values(".env"), **os.environ}
    except UnicodeDecodeError:
        raise ConfigurationError("the file .env is not UTF-8") from None
    given = {
        name.removeprefix(PREFIX).lower(): text for name, text in variables.items() if name.startswith(PREFIX) and text
    }
    try:
        given = read_secret_files(given, _secrets(), name=lambda setting: PREFIX + setting.upper())
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    try:
        return Settings.model_validate(
            {
                group: {name: given[name] for name in cls.model_fields if name in given}
                for group, cls in groups().items()
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        _group, setting, *within = (str(part) for part in first["loc"])
        place = f"{PREFIX}{setting.upper()}: " + "".join(f"{part}: " for part in within)
        raise ConfigurationError(place + first["msg"].removeprefix("Value error, ")) from None


def _secrets() -> list[str]:
    """Return the settings that may be in a file; ``TOCSIN_TOKEN_FILE`` is a setting of its own, which is read again."""
    own = {name for group in groups().values() for name in group.model_fields}
    return [name for group in groups().values() for name in secrets_of(group) if f"{name}{FILE_SUFFIX}" not in own]


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """Yield each ``TOCSIN_…`` variable that is no setting, with a setting that it resembles."""
    settings = [name for group in groups().values() for name in group.model_fields]
    known = [name.upper() for name in (*settings, *(f"{name}{FILE_SUFFIX}" for name in _secrets()))]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known:
            resembling = difflib.get_close_matches(name, known, n=1)
            yield variable, PREFIX + resembling[0] if resembling else None
