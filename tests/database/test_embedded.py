"""The embedded PostgreSQL: where the path of its folder is not plain, and when it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import asyncpg
import pytest
from structlog.testing import capture_logs

from service.database import embedded
from service.database.embedded import BINARIES, WATCH_SECONDS, embedded_postgres
from service.errors import ConfigurationError
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@pytest.mark.parametrize("name", ["plain", "not plain", "x" * 100])
def test_no_other_user_of_the_machine_reaches_its_socket(tmp_path: Path, links: Path, name: str) -> None:
    with embedded_postgres(tmp_path / name) as url:
        asyncio.run(data_directory(url.render_as_string(hide_password=False)))
        private = tmp_path / name / "postgres"
        assert (Path(str(url.query["host"])) / ".s.PGSQL.5432").resolve().is_relative_to(private)
        assert private.stat().st_mode & 0o077 == 0
    assert not list(links.iterdir())


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


USER = "pgserver" if os.geteuid() == 0 else None
"""Who runs the server."""


def stop(folder: Path, mode: str) -> None:
    control = [str(BINARIES / "pg_ctl"), "-w", "-D", str(folder / "postgres"), "-m", mode, "stop"]
    subprocess.run(control, check=True, user=USER, stdout=subprocess.DEVNULL)
    assert not (folder / "postgres" / "postmaster.pid").exists()


def test_a_server_that_was_stopped_stays_so(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path, restart=True):
        stop(tmp_path, "fast")
        time.sleep(4 * WATCH_SECONDS)  # there is nothing to wait for
        assert not (tmp_path / "postgres" / "postmaster.pid").exists()


async def test_a_server_that_ended_without_a_shutdown_is_started_again(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path, restart=True) as url:
        stop(tmp_path, "immediate")
        await eventually(lambda: answers(url))


@pytest.mark.long
async def test_a_restart_that_fails_is_tried_until_it_succeeds_and_the_log_says_why(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    with capture_logs() as log, embedded_postgres(tmp_path, restart=True) as url:
        (data / "pg_wal").rename(data / "away")
        os.kill(postmaster(tmp_path), signal.SIGKILL)
        await eventually(lambda: len([line for line in log if line["log_level"] == "error"]) == 3)
        (data / "away").rename(data / "pg_wal")
        await eventually(lambda: answers(url))
        await eventually(lambda: log[-1]["event"] == "the embedded PostgreSQL runs again")
    started, *failed, _ = log
    assert started["event"] == "the embedded PostgreSQL was killed: starting it again"
    assert {line["event"] for line in failed} == {"the embedded PostgreSQL does not start; trying again"}
    assert {line["reason"] for line in failed} == {'required WAL directory "pg_wal" does not exist'}
    assert [line["after_seconds"] for line in failed] == [2 * WATCH_SECONDS, 4 * WATCH_SECONDS, 8 * WATCH_SECONDS]


@pytest.fixture
def other_process() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"], user=USER) as process:
        yield process.pid
        assert process.poll() is None  # nobody took it for the server, and stopped it
        process.kill()


@pytest.fixture(params=["gone", "empty", "unfinished", "of another process"])
def leave_lock_files(request: pytest.FixtureRequest, other_process: int) -> Callable[[Path], None]:
    """Kill the server, and leave its lock files so."""

    def leave(folder: Path) -> None:
        killed = postmaster(folder)
        for file in (folder / "postgres" / "postmaster.pid", folder / "postgres" / ".s.PGSQL.5432.lock"):
            pid, rest = file.read_text().split("\n", 1)
            if request.param == "gone":
                file.unlink()
            else:
                contents = {"empty": "", "unfinished": f"{pid}\n", "of another process": f"{other_process}\n{rest}"}
                file.write_text(contents[request.param])
        os.kill(killed, signal.SIGKILL)

    return leave


async def test_whatever_its_lock_files_say_a_killed_server_is_started_again(
    tmp_path: Path, leave_lock_files: Callable[[Path], None]
) -> None:
    with embedded_postgres(tmp_path, restart=True) as url:
        leave_lock_files(tmp_path)
        await eventually(lambda: answers(url))
    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


async def test_whatever_the_lock_files_of_a_killed_server_say_the_next_one_starts(
    tmp_path: Path, leave_lock_files: Callable[[Path], None]
) -> None:
    with embedded_postgres(tmp_path):
        leave_lock_files(tmp_path)
    with embedded_postgres(tmp_path) as url:
        assert await answers(url)


async def answers(url: URL) -> bool:
    with suppress(OSError, asyncpg.PostgresError):
        connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        await connection.close()
        return True
    return False


async def test_a_process_without_file_descriptors_does_not_say_that_the_server_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_family: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with capture_logs() as log, embedded_postgres(tmp_path, restart=True):
        monkeypatch.setattr(embedded, "socket", SimpleNamespace(socket=exhausted, AF_UNIX=socket.AF_UNIX))
        await eventually(lambda: len(log) >= 2)
        monkeypatch.undo()
    assert {line["event"] for line in log} == {
        "no file descriptor is free to look whether the embedded PostgreSQL runs"
    }
