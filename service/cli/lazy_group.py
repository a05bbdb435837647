"""A group of commands, each of which is imported when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(TyperGroup):
    """A group that lists its commands without importing them.

    ``commands`` maps each name to the module that has a function, or another group, of that name
    (with _ for -), and to the first line of its help, which is the docstring's.
    """

    def __init__(self, name: str, summary: str, commands: Mapping[str, tuple[str, str]]) -> None:
        listed: dict[str, Any] = {command: TyperCommand(command, help=line) for command, (_, line) in commands.items()}
        super().__init__(name=name, help=summary, commands=listed, rich_markup_mode=None)
        self._modules = {command: module for command, (module, _) in commands.items()}

    def load(self, name: str) -> Any:
        """Import a command."""
        found = getattr(import_module(self._modules[name]), name.replace("-", "_"))
        if isinstance(found, LazyGroup):
            return found
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command()(found)
        return typer.main.get_command(app)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the arguments, of which there must be some."""
        if not args:
            ctx.fail(f"give a command: {', '.join(self.commands)}")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # Typer keeps the types of both to itself.
        """Return the name, the command and its arguments, as the base class does."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and self.load(name), rest
