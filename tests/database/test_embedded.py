"""The embedded PostgreSQL, where the path of its folder is not plain."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.database.embedded import embedded_postgres
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
