from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.database.engine import parse_url
from service.database.migrate import is_current

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


async def test_the_schema_is_brought_up_to_date_and_stays_so(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]], empty_url: str
) -> None:
    for _ in range(2):
        run = await asyncio.to_thread(tocsin_process, "migrate", TOCSIN_DATABASE_URL=empty_url)
        assert (run.returncode, run.stdout) == (0, "The schema is up to date.\n")
        assert await asyncio.to_thread(is_current, parse_url(empty_url))


def test_a_database_that_cannot_be_reached_is_one_line(refused_process: Callable[..., str]) -> None:
    url = "postgresql://tocsin:hunter2@127.0.0.1:1/tocsin"
    assert "check TOCSIN_DATABASE_URL" in refused_process("migrate", TOCSIN_DATABASE_URL=url)


def test_a_database_that_does_not_exist_is_one_line(refused_process: Callable[..., str], server_url: str) -> None:
    url = parse_url(server_url).set(drivername="postgresql", database="nowhere")
    assert "nowhere" in refused_process("migrate", TOCSIN_DATABASE_URL=url.render_as_string(hide_password=False))
