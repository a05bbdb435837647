"""The ``tocsin`` command.

Every command exits 0 on success, 2 on wrong usage, and 1 on failure with one line on standard error that says what to
do.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from service.errors import TocsinError

NAMES = ("serve", "migrate", "token", "send", "tail", "sql", "archive", "purge", "demo", "audit")


class Commands(TyperGroup):
    """Each is imported when it is asked for: ``tocsin send`` waits for no web framework and no database driver."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # Typer keeps the types of both to itself.
        """Return the function, or the group, of that name from the module of that name."""
        if cmd_name not in self.commands:
            return super().get_command(ctx, cmd_name)
        found = getattr(import_module(f"service.cli.{cmd_name}"), cmd_name)
        if not isinstance(found, typer.Typer):
            command = found
            found = typer.Typer(add_completion=False)
            found.command()(command)
        return typer.main.get_command(found)


app = Commands(
    name="tocsin",
    help="JWT-secured notifications: stored before answered, pushed at once, audited in SQL.",
    commands={name: TyperCommand(name) for name in NAMES},
    no_args_is_help=True,
)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except TocsinError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        sys.exit(1)
