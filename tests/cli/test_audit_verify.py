from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.cli.invocation import suggest
from tests.fixtures.weak_servers import execute
from tests.harness import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    Tocsin = Callable[..., subprocess.CompletedProcess[str]]


def verified(tocsin: Tocsin, url: str, *options: str, code: int = 0) -> dict[str, Any]:
    run = tocsin("audit", "verify", "--json", *options, TOCSIN_DATABASE_URL=url)
    assert run.returncode == code, run
    answer: dict[str, Any] = json.loads(run.stdout)
    assert answer["ok"] is (code == 0)
    return answer


async def test_both_heads_are_printed_where_all_fits(tocsin: Tocsin, copy_url: str) -> None:
    answer = verified(tocsin, copy_url)
    run = tocsin("audit", "verify", TOCSIN_DATABASE_URL=copy_url)
    assert (run.returncode, run.stderr) == (0, "")
    log, ledger = answer["log"]["head"], answer["ledger"]["head"]
    assert f"log     OK       {log['position']} events up to {log['position']} fit" in run.stdout
    assert f"head {log['hash']}, linked {log['linked_at']}" in run.stdout
    assert f"head {ledger['hash']}, linked {ledger['linked_at']}" in run.stdout


async def test_what_was_altered_is_named_and_the_command_fails(tocsin: Tocsin, copy_url: str) -> None:
    await execute(copy_url, "UPDATE events SET topic = 'shop' WHERE seq = 3")
    run = tocsin("audit", "verify", TOCSIN_DATABASE_URL=copy_url)
    assert run.returncode == 1
    assert "log     ALTERED" in run.stdout
    assert "event 3: its topic is not what its body says" in run.stdout
    assert "ledger  OK" in run.stdout
    assert run.stderr.startswith("tocsin: the log was altered: event")
    assert run.stderr.count("\n") == 1
    mismatch = verified(tocsin, copy_url, code=1)["log"]["mismatch"]
    assert mismatch["first"] <= 3 <= mismatch["last"]
    assert mismatch["linked_at"].endswith("Z")


async def test_an_expected_head_is_looked_for_in_both_chains(tocsin: Tocsin, copy_url: str) -> None:
    before = verified(tocsin, copy_url)
    heads = [before[chain]["head"]["hash"] for chain in ("log", "ledger")]
    answer = verified(tocsin, copy_url, "--expect", heads[0], "--expect", heads[1].upper())
    assert [(found["chain"], found["position"]) for found in answer["expected"]] == [
        (chain, before[chain]["head"]["position"]) for chain in ("log", "ledger")
    ]
    other = "ab" * 32
    run = tocsin("audit", "verify", "--expect", other, TOCSIN_DATABASE_URL=copy_url)
    assert (run.returncode, run.stderr) == (1, f"tocsin: no link has the expected hash {other}\n")
    assert f"expected {other} is in no chain" in run.stdout


async def test_a_tail_that_was_cut_off_since_the_last_run_is_found(
    tocsin: Tocsin, copy_url: str, tmp_path: Path
) -> None:
    """The heads of the last run are kept in its state."""
    head = verified(tocsin, copy_url)["log"]["head"]["position"]
    await execute(copy_url, f"DELETE FROM log_chain WHERE last_seq > {head - 3}")
    await execute(copy_url, "DELETE FROM events WHERE seq > (SELECT max(last_seq) FROM log_chain)")
    mismatch = verified(tocsin, copy_url, code=1)["log"]["mismatch"]
    assert mismatch["first"] == head
    assert mismatch["reason"].startswith("an earlier run found another link there")
    verified(tocsin, copy_url, "--state", str(tmp_path / "elsewhere.json"))
    verified(tocsin, copy_url, "--from-start")
    verified(tocsin, copy_url)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_a_run_that_was_killed_is_gone_on_with(tocsin: Tocsin, copy_url: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    intruder = await asyncpg.connect(copy_url)
    transaction = intruder.transaction()
    await transaction.start()
    await intruder.execute("LOCK TABLE receipts")  # the log is checked before the ledger
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "audit", "verify", "--state", str(state)),
        cwd=ROOT,
        env={**os.environ, "TOCSIN_DATABASE_URL": copy_url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        head = await intruder.fetchval("SELECT max(last_seq) FROM log_chain")
        await eventually(
            lambda: state.exists() and json.loads(state.read_text())["progress"]["log"]["position"] == head
        )
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await transaction.rollback()
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq = 3")
    await intruder.close()
    answer = verified(tocsin, copy_url, "--state", str(state))
    assert (answer["log"]["checked_from"], answer["log"]["rows"], answer["ledger"]["checked_from"]) == (head, 0, 0)
    answer = verified(tocsin, copy_url, "--state", str(state), code=1)
    assert answer["log"]["mismatch"]["first"] <= 3


async def test_a_state_of_another_database_is_none(
    tocsin: Tocsin, copy_url: str, database_url: str, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    verified(tocsin, copy_url, "--state", str(state))
    verified(tocsin, database_url, "--state", str(state))
    assert json.loads(state.read_text())["database"].endswith(database_url.split("/")[3].split("?", maxsplit=1)[0])


def test_a_state_that_cannot_be_used_is_said_in_one_line(
    refused: Callable[..., str], database_url: str, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    state.write_text("{}")
    arguments = ("audit", "verify", "--state", str(state))
    assert "--from-start" in refused(*arguments, TOCSIN_DATABASE_URL=database_url)
    for folder in (state, tmp_path / "nowhere", tmp_path / ("x" * 300)):
        arguments = ("audit", "verify", "--state", str(folder / "below"))
        assert f"{folder} is no folder that can be written to: " in refused(
            *arguments, TOCSIN_DATABASE_URL=database_url
        )
    assert list(tmp_path.iterdir()) == [state]


def test_a_database_that_cannot_be_read_is_said_in_one_line(
    refused: Callable[..., str], empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"up to date: run {suggest('migrate')}" in refused("audit", "verify", TOCSIN_DATABASE_URL=empty_url)
    away = "postgresql://tocsin:hunter2@127.0.0.1:9/tocsin"
    assert "cannot be used" in refused("audit", "verify", TOCSIN_DATABASE_URL=away)


@pytest.mark.parametrize("options", [("--expect", "abc"), ("--jobs", "0")])
def test_wrong_usage_is_refused(tocsin: Tocsin, options: tuple[str, ...]) -> None:
    assert tocsin("audit", "verify", *options).returncode == 2


@pytest.mark.long
def test_the_embedded_database_is_verified_too(tocsin: Tocsin, tocsin_process: Tocsin, tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    assert tocsin_process("migrate", TOCSIN_DATA_DIR=folder).returncode == 0
    run = tocsin("audit", "verify", TOCSIN_DATA_DIR=folder)
    assert (run.returncode, run.stderr) == (0, "")
    assert "log     OK       0 events" in run.stdout
    assert Path(folder, "audit-verify.json").exists()
