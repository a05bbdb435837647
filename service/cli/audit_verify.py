"""``tocsin audit verify``: whether the log and the ledger are what the service wrote."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path  # noqa: TC003 - typer evaluates the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.environment import database_url
from service.database.engine import address_of
from service.errors import CommandFailed
from service.integrity import verifier
from service.integrity.checkpoint import Checkpoint
from service.integrity.link_checks import Anchor
from service.integrity.verifier import LEDGER, LOG
from service.settings import load
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import URL

    from service.integrity.verifier import Chain, Verdict

JOBS = min(4, max(2, os.cpu_count() or 2))
STATE_FILE = "audit-verify.json"
HASH_BYTES = 32
_INDENT = " " * 17


def verify(
    *,
    expect: Annotated[
        list[str] | None, typer.Option(metavar="HASH", help="A head that was noted elsewhere; repeat for several.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many ranges are checked at once.")] = JOBS,
    state: Annotated[
        Path | None, typer.Option(help=f"Where an interrupted run goes on; default: {STATE_FILE} in TOCSIN_DATA_DIR.")
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Forget what earlier runs found.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove that nobody altered the log or the ledger.

    No event, delivery, receipt or closed connection was altered, removed or added since it was written. Prints the
    heads of both chains. Keep them where nobody who can change the database can change them: a later run with --expect
    proves that nothing before them was altered. Without it, a rewrite of everything after some point is not detected.
    The service may keep writing.

    An interrupted run is continued: what it had checked is not checked again, except with --from-start.
    """
    noted = [_hash(text) for text in expect or ()]
    settings = load()
    path = state or settings.server.data_dir / STATE_FILE
    with database_url(settings) as url:
        name = _name(url)
        bookmark = Checkpoint(path, name) if from_start else Checkpoint.read(path, name)
        verdicts = _run(address_of(url), bookmark, noted, jobs)
    found = {hash_: _found(hash_, verdicts) for hash_ in noted}
    print(json.dumps(_as_json(verdicts, found)) if as_json else _as_text(verdicts, found))
    if failure := _failure(verdicts, found):
        raise CommandFailed(failure)


def _run(address: str, bookmark: Checkpoint, noted: Sequence[bytes], jobs: int) -> list[Verdict]:
    """Check both chains, and keep the bookmark.

    Raises:
        CommandFailed: interrupted, or the database cannot be read.

    """
    verdicts = []
    try:
        for chain in (LOG, LEDGER):
            with _progress(chain.name, bookmark) as progress:
                check = partial(
                    verifier.verify,
                    address,
                    chain,
                    reached=bookmark.reached.get(chain.name),
                    noted=bookmark.noted.get(chain.name),
                    expected=noted,
                    jobs=jobs,
                    progress=progress,
                )
                verdicts.append(_unless_purged(address, chain, check))
    except KeyboardInterrupt:
        raise CommandFailed("interrupted: run the command again, it goes on where it was") from None
    if all(verdict.misfit is None for verdict in verdicts):
        bookmark.finish({verdict.chain.name: Anchor(*verdict.head[:2]) for verdict in verdicts})
    return verdicts


def _unless_purged(address: str, chain: Chain, check: Callable[..., Verdict]) -> Verdict:
    """Check a chain; again where retention let go more of it meanwhile, for that looks as if it were missing."""
    while True:
        purged = verifier.purged_from(address, chain)
        verdict = check(purged=purged)
        if verdict.misfit is None or verifier.purged_from(address, chain) == purged:
            return verdict


@contextmanager
def _progress(chain: str, bookmark: Checkpoint) -> Iterator[Callable[[Verdict], None]]:
    """Show how far it got, where standard error is a terminal, and keep it in the bookmark."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"verifying the {chain}", total=None)

        def show(verdict: Verdict) -> None:
            bookmark.reach(chain, verdict.reached)
            begin = verdict.begin.position
            bar.update(task, total=verdict.head.position - begin, completed=verdict.reached.position - begin)

        yield show


def _name(url: URL) -> str:
    """Return what tells a database from another, without a password."""
    return f"{url.host or url.query.get('host', '')}:{url.port or ''}/{url.database}"


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != HASH_BYTES:
        raise typer.BadParameter("must be 64 hexadecimal digits", param_hint="--expect")
    return value


def _found(hash_: bytes, verdicts: Sequence[Verdict]) -> tuple[str, int] | None:
    """Return the chain that a noted hash is in, and where."""
    for verdict in verdicts:
        if (position := verdict.found[hash_]) is not None:
            return verdict.chain.name, position
    return None


# How it is told.


def _as_text(verdicts: Sequence[Verdict], found: dict[bytes, tuple[str, int] | None]) -> str:
    lines = []
    for verdict in verdicts:
        misfit, head = verdict.misfit, verdict.head
        lines.append(f"{verdict.chain.name:<7} {'OK' if misfit is None else 'ALTERED':<8} {_extent(verdict)}")
        if misfit is not None:
            lines.append(f"{_INDENT}{_place(verdict)}: {misfit.what}")
        elif head.linked_at is not None:
            lines.append(f"{_INDENT}head {head.hash.hex()}, linked {rfc3339(head.linked_at)}")
        if verdict.begin.position:
            lines.append(
                f"{_INDENT}up to {verdict.begin.position} as an earlier run found it: --from-start looks again"
            )
    for hash_, place in found.items():
        lines.append(f"noted   {hash_.hex()} {f'is in the {place[0]}, at {place[1]}' if place else 'is in no chain'}")
    return "\n".join(lines)


def _extent(verdict: Verdict) -> str:
    if verdict.chain.name == "log":
        return f"{verdict.rows} events up to {verdict.reached.position} fit their {verdict.links} links"
    return f"{verdict.rows} rows fit their {verdict.links} links, up to link {verdict.reached.position}"


def _place(verdict: Verdict) -> str:
    """Say where the misfit is."""
    misfit = verdict.misfit
    if misfit is None or misfit.first is None:
        return f"the {verdict.chain.name}"
    unit = "event" if verdict.chain.name == "log" else "link"
    where = f"{unit} {misfit.first}" if misfit.first == misfit.last else f"{unit}s {misfit.first} to {misfit.last}"
    return where if misfit.at is None else f"{where}, of {rfc3339(misfit.at)}"


def _as_json(verdicts: Sequence[Verdict], found: dict[bytes, tuple[str, int] | None]) -> dict[str, Any]:
    return {
        "ok": _failure(verdicts, found) is None,
        **{verdict.chain.name: _verdict_as_json(verdict) for verdict in verdicts},
        "expected": [
            {"hash": hash_.hex(), "chain": place[0] if place else None, "position": place[1] if place else None}
            for hash_, place in found.items()
        ],
    }


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    head, misfit = verdict.head, verdict.misfit
    return {
        "ok": misfit is None,
        "head": {"position": head.position, "hash": head.hash.hex(), "linked_at": _time(head.linked_at)},
        "begin": verdict.begin.position,
        "reached": verdict.reached.position,
        "links": verdict.links,
        "rows": verdict.rows,
        "misfit": misfit and {"first": misfit.first, "last": misfit.last, "at": _time(misfit.at), "what": misfit.what},
    }


def _time(at: datetime | None) -> str | None:
    return rfc3339(at) if at is not None else None


def _failure(verdicts: Sequence[Verdict], found: dict[bytes, tuple[str, int] | None]) -> str | None:
    """Say in one line what is wrong, if anything."""
    wrong = [
        f"the {verdict.chain.name} was altered: {_place(verdict)}: {verdict.misfit.what}"
        for verdict in verdicts
        if verdict.misfit is not None
    ]
    wrong += [f"no link has the noted hash {hash_.hex()}" for hash_, place in found.items() if place is None]
    return "; ".join(wrong) or None
