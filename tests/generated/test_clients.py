"""Clients that are generated from ``openapi.yaml``, with each generator of ``docs/other-languages.md``, and used."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.client.flaky_proxy import Fault, FlakyProxy
from tests.generated.generators import GENERATORS
from tests.harness import PATIENCE, READ, WRITE, eventually, token
from tests.running import FIRST_EVENTS, lines, started

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Node

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # cargo compiles a hundred crates
SCOPE = f"{READ} {WRITE} alerts:manage"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what several generators use."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("name", GENERATORS)
async def test_a_generated_client_posts_lists_acknowledges_and_follows(
    name: str, node: Node, tmp_path: Path, shared: Path
) -> None:
    generator = GENERATORS[name]
    command = await generator.build(generator, tmp_path, shared)
    errors = tmp_path / "stderr"
    with FlakyProxy(node.base).running() as proxy:
        proxy.faults = [Fault.ANSWER_LOST]  # the alert is stored, and the program posts it again
        settings = {"TOCSIN_URL": proxy.base, "TOCSIN_TOKEN": token(name, SCOPE)}
        async with started(command, errors, settings) as program:
            assert await lines(program, 9) == [
                "posted 1 error",
                "batch 201 2",
                "batch 201 3",
                "batch 422 invalid_request",
                "listed Disk is 97 % full",
                "listed Disk is 91 % full",
                "listed Backup failed",
                f"status acknowledged {name}",
                "refused 422 invalid_request true",
            ], errors.read_text()
            assert await lines(program, 4) == FIRST_EVENTS, errors.read_text()

            proxy.cut()
            async with node.http("alice", SCOPE) as alice:
                [alert] = (await alice.get("/v1/alerts", params={"status": "acknowledged"})).json()["alerts"]
                await alice.post(f"/v1/alerts/{alert['id']}/resolve")
            assert await lines(program, 1) == ["event 5 alert.resolved Backup failed"], errors.read_text()
            async with asyncio.timeout(PATIENCE):
                assert await program.wait() == 0, errors.read_text()
    received = "SELECT max(received_seq) FROM audit.connections WHERE recipient = $1"

    async def are_received() -> bool:
        [row] = await node.sql(received, name)
        return bool(row[0] == 4)  # the poll that brought the last event acknowledged those before it

    await eventually(are_received)
