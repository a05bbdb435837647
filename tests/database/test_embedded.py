"""The embedded PostgreSQL, where the path of its folder is not plain."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.database.embedded import BINARIES, WATCH_SECONDS, embedded_postgres
from service.errors import ConfigurationError
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, whose path is short."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-links-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


async def data_directory(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()


def test_the_path_of_its_folder_may_have_spaces_quotes_and_letters_of_every_language(
    tmp_path: Path, links: Path
) -> None:
    folder = tmp_path / "on-call's clone, #1 (50 % + ü)"
    for _ in range(2):
        with embedded_postgres(folder) as url:
            data = asyncio.run(data_directory(url.render_as_string(hide_password=False)))
            [link] = links.glob("*/socket")
            assert link.resolve().parent == folder / "postgres"
        assert Path(data) == folder / "postgres"
        assert not list(links.iterdir())
        assert not (folder / "postgres" / "postmaster.pid").exists()


@pytest.mark.parametrize("character", '"$`\\\n')
def test_a_path_that_cannot_be_passed_on_is_refused(tmp_path: Path, character: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="set TOCSIN_DATA_DIR to another folder"),
        embedded_postgres(tmp_path / f"a{character}b"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def postmaster(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


@pytest.mark.parametrize("name", ["plain", "not plain"])
async def test_a_server_that_was_killed_is_started_again_at_the_same_address(
    tmp_path: Path, links: Path, name: str
) -> None:
    folder = tmp_path / name
    with embedded_postgres(folder, restart=True) as url:
        for _ in range(2):
            killed = postmaster(folder)
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: answers(url))
            assert postmaster(folder) != killed
    assert not (folder / "postgres" / "postmaster.pid").exists()
    assert not await asyncio.to_thread(lambda: list(links.iterdir()))


def test_a_server_that_was_stopped_stays_so(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path, restart=True):
        control = [str(BINARIES / "pg_ctl"), "-w", "-D", str(tmp_path / "postgres"), "-m", "immediate", "stop"]
        subprocess.run(control, check=True, user="pgserver" if os.geteuid() == 0 else None, stdout=subprocess.DEVNULL)
        time.sleep(3 * WATCH_SECONDS)  # there is nothing to wait for
        assert not (tmp_path / "postgres" / "postmaster.pid").exists()


async def answers(url: URL) -> bool:
    with suppress(OSError, asyncpg.PostgresError):
        connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        await connection.close()
        return True
    return False
