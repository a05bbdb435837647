"""``docs/other-languages.md``: each program of the page is compiled, and run against a real node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.client.flaky_proxy import Fault, FlakyProxy
from tests.harness import PATIENCE, READ, ROOT, SECRET, WRITE, Node, eventually, token
from tests.programs import LANGUAGES, compile_java, run
from tests.running import FIRST_EVENTS, lines, started

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # cargo compiles sixty crates


async def connections(node: Node, recipient: str) -> list[Any]:
    query = "SELECT * FROM audit.connections WHERE recipient = $1 ORDER BY opened_at"
    return await node.sql(query, recipient)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_program_of_the_page_posts_lists_acknowledges_and_follows(
    language: str, node: Node, tmp_path: Path
) -> None:
    command = await LANGUAGES[language](tmp_path)
    errors = tmp_path / "stderr"
    with FlakyProxy(node.base).running() as proxy:
        proxy.faults = [Fault.ANSWER_LOST]  # the alert is stored, and the program posts it again
        settings = {"TOCSIN_URL": proxy.base, "TOCSIN_JWT_SECRET": SECRET, "PYTHONPATH": str(ROOT)}
        async with started(command, errors, settings) as program:
            assert await lines(program, 9) == [
                "posted 1",
                "batch 201",
                "batch 201",
                "batch 422 invalid_request",
                "listed Disk is 97 % full",
                "listed Disk is 91 % full",
                "listed Backup failed",
                f"status acknowledged {language}",
                "refused 422 invalid_request",
            ], errors.read_text()
            assert await lines(program, 4) == FIRST_EVENTS, errors.read_text()

            proxy.cut()
            large = {"body": "é" * 8000, "attributes": {"output": "x" * 9_000}}
            await node.post("Disk is full", topic="jobs.backup", **large)
            assert await lines(program, 1) == ["event 5 alert.created Disk is full"], errors.read_text()

            async def when_received() -> list[Any]:
                rows = await connections(node, language)  # a row follows its first frames
                return rows if rows and rows[-1]["received_seq"] == 5 else []

            first, last = await eventually(when_received)
            assert (first["after_seq"], last["after_seq"]) == (0, 4)
            async with node.http("root", "admin") as root:
                assert (await root.delete(f"/v1/connections/{last['connection']}")).status_code == 204
            async with asyncio.timeout(PATIENCE):
                assert await program.wait() != 0
    assert "kicked" in errors.read_text()


async def test_what_java_posts_with_its_defaults_is_stored(node: Node, tmp_path: Path) -> None:
    """Java's client offers h2c in the first request to a server, with the body behind it."""
    await compile_java(Path(__file__).parent / "http" / "OffersOfJava.java", tmp_path)
    bearer = token("java", f"{READ} {WRITE}")
    printed = await run("java", "-cp", tmp_path, "OffersOfJava", node.base, bearer, folder=tmp_path)
    offers = ["small", "large", "chunked", "expecting"]
    assert printed.splitlines() == [f"{offer} 201" for offer in offers]
    assert [row[0] for row in await node.sql("SELECT title FROM alerts ORDER BY seq")] == offers
