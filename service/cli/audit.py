"""``tocsin audit``: the questions of operators, asked of the database in use."""

from __future__ import annotations

import typer

from service.cli import reading, reporting, verify

audit = typer.Typer(
    name="audit",
    help="Who was sent what, who received it, and who has not: from the database, in UTC.",
    no_args_is_help=True,
    add_completion=False,
)
audit.command()(reporting.alert)
audit.command()(reading.recipient)
audit.command()(reading.unreceived)
audit.command()(reading.connections)
audit.command()(reading.rejections)
audit.command()(reading.callers)
audit.command()(reporting.report)
audit.command()(verify.verify)
