"""``tocsin audit``: what operators ask."""

from __future__ import annotations

import typer

from service.cli import verify

audit_app = typer.Typer(name="audit", help="What operators ask of the ledger.", no_args_is_help=True)
audit_app.command()(verify.verify)
