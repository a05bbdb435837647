"""The ``tocsin`` command.

Every command exits 0 on success, 2 on wrong usage, and 1 on failure with one line on standard error that says what to
do.
"""

from __future__ import annotations

import sys

import typer

from service.cli import archive, audit, demo, migrate, purge, send, serve, sql, tail, token
from service.errors import TocsinError

app = typer.Typer(
    name="tocsin",
    help="JWT-secured notifications: stored before answered, pushed at once, audited in SQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(migrate.migrate)
app.command()(token.token)
app.command()(send.send)
app.command()(tail.tail)
app.command()(sql.sql)
app.command()(archive.archive)
app.command()(purge.purge)
app.command()(demo.demo)
app.add_typer(audit.audit_app)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except TocsinError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        sys.exit(1)
