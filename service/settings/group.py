"""A group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class SettingsGroup(BaseModel):
    """Settings of one concern; each has its description below it, which is in ``docs/reference.md``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
