from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.pooler import MODES, pooling
from tests.harness import new_database

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.fixtures.weak_servers import Weaken

SECRET = "bX2uV9rKq4Lw7NzT1cYh8GmPd5SjF0ae"


def test_without_a_key_a_node_does_not_start(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "TOCSIN_JWT_SECRET" in refused("serve")
    assert not list(tmp_path.iterdir())


def test_with_a_weak_secret_a_node_does_not_start(refused: Callable[..., str]) -> None:
    assert "32 or more" in refused("serve", TOCSIN_JWT_SECRET="hunter2")


def test_with_another_schema_a_node_does_not_start(refused_process: Callable[..., str], empty_url: str) -> None:
    variables = {"TOCSIN_JWT_SECRET": SECRET, "TOCSIN_DATABASE_URL": empty_url, "TOCSIN_PORT": "0"}
    assert "tocsin migrate" in refused_process("serve", **variables)


def test_a_misspelt_variable_is_mentioned(tocsin: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run = tocsin("serve", TOCSIN_JWT_SECRETT=SECRET)
    assert "TOCSIN_JWT_SECRETT is no setting; did you mean TOCSIN_JWT_SECRET?" in run.stderr.splitlines()[0]


# Where no alert can be stored, a node does not start, and says why in one line.


async def refusal(refused_process: Callable[..., str], **variables: str) -> str:
    return await asyncio.to_thread(refused_process, "serve", TOCSIN_JWT_SECRET=SECRET, TOCSIN_PORT="0", **variables)


async def test_a_node_does_not_start_on_a_standby(refused_process: Callable[..., str], standby_url: str) -> None:
    assert "PostgreSQL is a standby" in await refusal(refused_process, TOCSIN_DATABASE_URL=standby_url)


async def test_a_node_does_not_start_where_the_role_is_read_only(
    refused_process: Callable[..., str], role_url: str, weaken: Weaken
) -> None:
    await weaken("ALTER ROLE {role} SET default_transaction_read_only = on")
    assert "read-only" in await refusal(refused_process, TOCSIN_DATABASE_URL=role_url)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param(
            {"ignore_startup_parameters": "default_transaction_isolation,idle_in_transaction_session_timeout"},
            marks=pytest.mark.long,
        ),
    ],
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("command", ["serve", pytest.param("migrate", marks=pytest.mark.long)])
async def test_a_pooler_needs_an_address_to_listen_at(
    refused_process: Callable[..., str], database_url: str, mode: str, settings: dict[str, str], command: str
) -> None:
    with pooling(database_url, mode, **settings) as pooler:
        variables = {"TOCSIN_JWT_SECRET": SECRET, "TOCSIN_DATABASE_URL": pooler, "TOCSIN_PORT": "0"}
        assert "set TOCSIN_LISTEN_URL" in await asyncio.to_thread(refused_process, command, **variables)


async def test_the_address_to_listen_at_is_no_pooler(refused_process: Callable[..., str], database_url: str) -> None:
    with pooling(database_url, "session") as pooler:
        line = await refusal(refused_process, TOCSIN_DATABASE_URL=pooler, TOCSIN_LISTEN_URL=pooler)
    assert "set TOCSIN_LISTEN_URL" in line


async def test_a_node_does_not_start_where_it_would_listen_in_another_database(
    refused_process: Callable[..., str], server_url: str, template: str, database_url: str
) -> None:
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", template) as other:
        with pooling(database_url, "transaction") as pooler:
            line = await refusal(refused_process, TOCSIN_DATABASE_URL=pooler, TOCSIN_LISTEN_URL=other)
    assert "TOCSIN_DATABASE_URL does not lead to the database of TOCSIN_LISTEN_URL" in line


async def test_an_address_to_listen_at_alone_is_not_enough(
    refused_process: Callable[..., str], database_url: str
) -> None:
    assert "needs TOCSIN_DATABASE_URL" in await refusal(refused_process, TOCSIN_LISTEN_URL=database_url)


async def test_a_node_does_not_start_where_a_pooler_leads_to_a_standby(
    refused_process: Callable[..., str], database_url: str, standby_url: str
) -> None:
    with pooling(standby_url, "transaction") as pooler:
        line = await refusal(refused_process, TOCSIN_DATABASE_URL=pooler, TOCSIN_LISTEN_URL=database_url)
    assert "PostgreSQL is a standby" in line
