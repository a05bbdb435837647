"""The ``tocsin`` command.

Every command exits 0 on success, 2 on wrong usage, and 1 on failure with one line on standard error
that says what to do. A command imports only what it needs: ``tocsin send`` waits for no web
framework and no database driver.
"""

from __future__ import annotations

import sys

from service.cli.lazy_group import LazyGroup
from service.errors import TocsinError

app = LazyGroup(
    "tocsin",
    "JWT-secured notifications: stored before answered, pushed at once, audited in SQL.",
    {
        "serve": ("service.cli.serve", "Serve the REST API, the stream and the console."),
        "migrate": ("service.cli.migrate", "Bring the schema of the database up to date."),
        "token": ("service.cli.token", "Print a token and nothing else."),
        "send": ("service.cli.send", "Post an alert and print its id and its seq."),
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
    try:
        app()
    except TocsinError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        sys.exit(1)
