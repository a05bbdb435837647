"""The ``tocsin`` command.

Every command exits 0 on success, 2 on wrong usage, and 1 on failure, with one line on standard
error that says what to do. A command whose reader leaves the pipe has done its work. Only ``serve``,
``migrate`` and ``demo`` make a database. A command imports only what it needs: ``tocsin send``
waits for no web framework and no database driver.
"""

from __future__ import annotations

import sys
from typing import Any

from typer.exceptions import TyperException

from service.cli.lazy_group import LazyGroup
from service.cli.standard_output import ReaderLeft, written_out
from service.errors import TocsinError

app = LazyGroup(
    "tocsin",
    "JWT-secured notifications: stored before answered, pushed at once, audited in SQL.",
    {
        "serve": ("service.cli.serve", "Serve the REST API, the stream and the console."),
        "migrate": ("service.cli.migrate", "Bring the schema of the database up to date."),
        "token": ("service.cli.token", "Print a token and nothing else."),
        "send": ("service.cli.send", "Post an alert and print its id and its seq."),
        "resolve": ("service.cli.resolve", "Resolve what the token's subject sent with a dedup key."),
        "tail": ("service.cli.tail", "Print events as they happen, until Ctrl-C."),
        "people": ("service.cli.people", "Deactivate a recipient who leaves, or reactivate one who is back."),
        "sql": ("service.cli.sql", "Open psql on the database that the service uses."),
        "archive": ("service.cli.archive", "Archive, list, verify and restore partitions of the log."),
        "purge": ("service.cli.purge", "Delete what is older than the retention."),
        "demo": ("service.cli.demo", "Show the whole path on a throwaway instance."),
        "audit": ("service.cli.audit", "Answer who was sent what, who received it, and who has not."),
    },
)


def main() -> None:
    """Run the command line."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(prog_name="tocsin", standalone_mode=False)
        if sys.stdout is not None:
            with written_out():
                pass
    except ReaderLeft:
        return 0
    except TyperException as error:
        print(usage_error(error), file=sys.stderr)
        return error.exit_code
    except TocsinError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def usage_error(error: Any) -> str:
    """Return what is wrong with a command line, in one line."""
    message = " ".join(error.format_message().split())
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "tocsin"
    return f"tocsin: {message} (see {command} --help)"
