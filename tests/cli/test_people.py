"""``tocsin people deactivate`` and ``reactivate`` against a real node."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.harness import Node, token

if TYPE_CHECKING:
    from collections.abc import Callable

Run = subprocess.CompletedProcess[str]


@pytest.fixture
def recipient(lenient: Node, tocsin: Callable[..., Run]) -> Callable[..., Run]:
    """Run ``tocsin people`` as root."""

    def run(*arguments: str, scope: str = "admin") -> Run:
        return tocsin("people", *arguments, TOCSIN_URL=lenient.base, TOCSIN_TOKEN=token("root", scope))

    return run


async def test_somebody_leaves_and_comes_back(lenient: Node, recipient: Callable[..., Run]) -> None:
    name = f"a/b ☃ {uuid.uuid4().hex}"
    await lenient.post(recipients=[name])
    run = recipient("deactivate", name, "--reason", "left the company")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"{name} is deactivated since 20")
    assert run.stdout.endswith(" UTC by root: left the company\n")
    async with lenient.http(name, "alerts:read") as client:
        assert (await client.get("/v1/alerts")).json()["code"] == "token_revoked"
    state = json.loads(recipient("deactivate", name, "--json").stdout)
    assert (state["id"], state["deactivated_by"], state["unconfirmed"]) == (name, "root", [])
    run = recipient("reactivate", name, "--reason", "is back")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{name} is active\n", "")
    async with lenient.http(name, "alerts:read") as client:
        assert (await client.get("/v1/alerts?limit=1")).status_code == 200


@pytest.mark.parametrize("name", [".", "..", "a.b", "%2E"])
def test_every_name_reaches_the_service(recipient: Callable[..., Run], name: str) -> None:
    assert json.loads(recipient("deactivate", name, "--unknown", "--json").stdout)["id"] == name
    assert recipient("reactivate", name).stdout == f"{name} is active\n"


async def test_who_is_unknown_is_said_in_one_line_with_what_to_do(recipient: Callable[..., Run]) -> None:
    name = uuid.uuid4().hex
    run = recipient("deactivate", name)
    assert (run.returncode, run.stdout) == (1, "")
    assert name in run.stderr
    assert "unknown" in run.stderr
    assert run.stderr.count("\n") == 1
    assert recipient("deactivate", name, "--unknown").returncode == 0


def test_it_needs_the_scope_of_an_admin_and_a_name(recipient: Callable[..., Run]) -> None:
    run = recipient("deactivate", "alice", scope="alerts:manage")
    assert run.returncode == 1
    assert "admin" in run.stderr
    assert recipient("deactivate").returncode == 2
    assert recipient("deactivate", "").returncode == 2
