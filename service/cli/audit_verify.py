"""``tocsin audit verify``: prove that the log and the ledger are as the service wrote them."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path  # noqa: TC003 - typer evaluates the annotations
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.environment import database_url, say_database
from service.cli.invocation import suggest
from service.database.engine import address_of
from service.errors import CommandFailed
from service.integrity import verifier
from service.integrity.chain_sources import LEDGER, LOG, TablesMissing
from service.integrity.checkpoint import Checkpoint
from service.integrity.link_checks import LinkRef
from service.settings import load
from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import URL

    from service.integrity.chain_sources import Chain
    from service.integrity.verifier import Verification

JOBS = min(4, max(2, os.cpu_count() or 2))
STATE_FILE = "audit-verify.json"
HASH_BYTES = 32
_INDENT = " " * 17


class _FoundLink(NamedTuple):
    """Where an expected hash is: the name of the chain, and the position in it."""

    chain: str
    position: int


def verify(
    *,
    expect: Annotated[
        list[str] | None, typer.Option(metavar="HASH", help="A head of an earlier run; repeat for several.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many ranges are verified at once.")] = JOBS,
    state: Annotated[
        Path | None, typer.Option(help=f"The file of the checkpoint; default: {STATE_FILE} in TOCSIN_DATA_DIR.")
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Ignore the checkpoint of earlier runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove that nobody altered the log or the ledger.

    No event, delivery, receipt, sighting or closed connection was altered, removed or added since it was
    written. Prints the heads of both chains. Keep them where nobody who can change the database can
    change them: a later run with --expect proves that nothing before them was altered. Without it,
    a rewrite of everything after some point is not detected. The service may keep writing.

    An interrupted run is continued: what it had checked is not checked again, except with
    --from-start.
    """
    expected = [_hash(text) for text in expect or ()]
    settings = load()
    if state is not None and not os.access(state.parent, os.W_OK | os.X_OK):
        raise CommandFailed(f"{state.parent} is no folder that can be written to: name another file with --state")
    path = state or settings.server.data_dir / STATE_FILE
    with database_url(settings) as url:
        name = _name(url)
        checkpoint = Checkpoint(path, name) if from_start else Checkpoint.read(path, name)
        results = _run(address_of(url), checkpoint, expected, jobs)
    found = {hash_: _found(hash_, results) for hash_ in expected}
    print(json.dumps(_as_json(results, found)) if as_json else _as_text(results, found))
    if failure := _failure(results, found):
        raise CommandFailed(failure)
    say_database(settings)


def _run(address: str, checkpoint: Checkpoint, expected: Sequence[bytes], jobs: int) -> list[Verification]:
    """Verify both chains, and keep the checkpoint.

    Raises:
        CommandFailed: interrupted, or the database cannot be read.

    """
    results = []
    try:
        for chain in (LOG, LEDGER):
            with _progress(chain.name, checkpoint) as progress:
                check = partial(
                    verifier.verify,
                    address,
                    chain,
                    resume_after=checkpoint.progress.get(chain.name),
                    earlier_head=checkpoint.heads.get(chain.name),
                    expected=expected,
                    jobs=jobs,
                    progress=progress,
                )
                results.append(_unless_purged(address, chain, check))
    except KeyboardInterrupt:
        raise CommandFailed("interrupted: run the command again, and it continues") from None
    except TablesMissing as error:
        raise CommandFailed(f"{error}: run {suggest('migrate')}") from None
    if all(result.mismatch is None for result in results):
        checkpoint.save_heads({result.chain.name: LinkRef(*result.head[:2]) for result in results})
    return results


def _unless_purged(address: str, chain: Chain, check: Callable[..., Verification]) -> Verification:
    """Verify a chain, and again if retention purged a part of it meanwhile."""
    while True:
        purged = verifier.purged_prefix(address, chain)
        result = check(purged=purged)
        if result.mismatch is None or verifier.purged_prefix(address, chain) == purged:
            return result


@contextmanager
def _progress(chain: str, checkpoint: Checkpoint) -> Iterator[Callable[[Verification], None]]:
    """Show the progress on a terminal, and keep it in the checkpoint."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"verifying the {chain}", total=None)

        def show(result: Verification) -> None:
            checkpoint.save_progress(chain, result.checked_to)
            begin = result.checked_from.position
            bar.update(task, total=result.head.position - begin, completed=result.checked_to.position - begin)

        yield show


def _name(url: URL) -> str:
    """Return what identifies a database, without its password."""
    return f"{url.host or url.query.get('host', '')}:{url.port or ''}/{url.database}"


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != HASH_BYTES:
        raise typer.BadParameter("must be 64 hexadecimal digits", param_hint="--expect")
    return value


def _found(hash_: bytes, results: Sequence[Verification]) -> _FoundLink | None:
    """Return the link that has an expected hash."""
    for result in results:
        if (position := result.found[hash_]) is not None:
            return _FoundLink(result.chain.name, position)
    return None


# Output.


def _as_text(results: Sequence[Verification], found: dict[bytes, _FoundLink | None]) -> str:
    lines = []
    for result in results:
        mismatch, head = result.mismatch, result.head
        lines.append(f"{result.chain.name:<7} {'OK' if mismatch is None else 'ALTERED':<8} {_extent(result)}")
        if mismatch is not None:
            lines.append(f"{_INDENT}{_position(result)}: {mismatch.reason}")
        elif head.linked_at is not None:
            lines.append(f"{_INDENT}head {head.hash.hex()}, linked {rfc3339(head.linked_at)}")
        if result.checked_from.position:
            lines.append(
                f"{_INDENT}up to {result.checked_from.position} as an earlier run found it: --from-start looks again"
            )
    for hash_, link in found.items():
        lines.append(
            f"expected {hash_.hex()} {f'is in the {link.chain}, at {link.position}' if link else 'is in no chain'}"
        )
    return "\n".join(lines)


def _extent(result: Verification) -> str:
    if result.chain.name == "log":
        return f"{result.rows} events up to {result.checked_to.position} fit their {result.links} links"
    return f"{result.rows} rows fit their {result.links} links, up to link {result.checked_to.position}"


def _position(result: Verification) -> str:
    """Return where the mismatch is, in words."""
    mismatch = result.mismatch
    if mismatch is None or mismatch.first is None:
        return f"the {result.chain.name}"
    unit = "event" if result.chain.name == "log" else "link"
    where = (
        f"{unit} {mismatch.first}"
        if mismatch.first == mismatch.last
        else f"{unit}s {mismatch.first} to {mismatch.last}"
    )
    return where if mismatch.linked_at is None else f"{where}, of {rfc3339(mismatch.linked_at)}"


def _as_json(results: Sequence[Verification], found: dict[bytes, _FoundLink | None]) -> dict[str, Any]:
    return {
        "ok": _failure(results, found) is None,
        **{result.chain.name: _result_as_json(result) for result in results},
        "expected": [
            {"hash": hash_.hex(), "chain": link.chain if link else None, "position": link.position if link else None}
            for hash_, link in found.items()
        ],
    }


def _result_as_json(result: Verification) -> dict[str, Any]:
    head, mismatch = result.head, result.mismatch
    return {
        "ok": mismatch is None,
        "head": {"position": head.position, "hash": head.hash.hex(), "linked_at": _time(head.linked_at)},
        "checked_from": result.checked_from.position,
        "checked_to": result.checked_to.position,
        "links": result.links,
        "rows": result.rows,
        "mismatch": mismatch
        and {
            "first": mismatch.first,
            "last": mismatch.last,
            "linked_at": _time(mismatch.linked_at),
            "reason": mismatch.reason,
        },
    }


def _time(at: datetime | None) -> str | None:
    return rfc3339(at) if at is not None else None


def _failure(results: Sequence[Verification], found: dict[bytes, _FoundLink | None]) -> str | None:
    """Return in one line what is wrong, if anything."""
    wrong = [
        f"the {result.chain.name} was altered: {_position(result)}: {result.mismatch.reason}"
        for result in results
        if result.mismatch is not None
    ]
    wrong += [f"no link has the expected hash {hash_.hex()}" for hash_, link in found.items() if link is None]
    return "; ".join(wrong) or None
