"""``tocsin audit``: the questions of operators, asked of the database in use."""

from __future__ import annotations

import typer

from service.cli import reading, reporting, verify

audit_app = typer.Typer(
    name="audit",
    help="Who was sent what, who received it, and who has not: from the database, in UTC.",
    no_args_is_help=True,
)
audit_app.command()(reporting.alert)
audit_app.command()(reading.recipient)
audit_app.command()(reading.unreceived)
audit_app.command()(reading.connections)
audit_app.command()(reading.rejections)
audit_app.command()(reading.callers)
audit_app.command()(reporting.report)
audit_app.command()(verify.verify)
