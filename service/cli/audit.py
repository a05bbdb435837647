"""``tocsin audit``: the questions of operators, asked of the database in use."""

from __future__ import annotations

import typer

from service.cli import audit_lists, audit_reports, audit_verify

audit = typer.Typer(
    name="audit",
    help="Who was sent what, who received it, and who has not: from the database, in UTC.",
    no_args_is_help=True,
    add_completion=False,
)
audit.command()(audit_reports.alert)
audit.command()(audit_lists.recipient)
audit.command()(audit_lists.unreceived)
audit.command()(audit_lists.connections)
audit.command()(audit_lists.rejections)
audit.command()(audit_lists.callers)
audit.command()(audit_reports.report)
audit.command()(audit_verify.verify)
