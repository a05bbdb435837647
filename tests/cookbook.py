"""``docs/audit.md``: its queries, and the incident whose ledger answers them.

``python -m tests.cookbook`` has the incident happen and writes psql's answers into the page.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from service.database.embedded import BINARIES, embedded_postgres
from service.database.engine import address_of, parse_url
from service.database.migrate import migrate
from service.settings import LedgerSettings, Settings
from tests.harness import READ, ROOT, Node, Stream, eventually, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PAGE = ROOT / "docs" / "audit.md"
_QUESTION = re.compile(
    r"^### (?P<question>.+?)\n(?P<words>.*?)```sql\n(?P<query>.*?)```\n(?:\n```text\n(?P<answer>.*?)```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Recipe(NamedTuple):
    """A question of the page, its query, and the answer that the page gives."""

    question: str
    query: str
    answer: str


def recipes() -> list[Recipe]:
    """Return what is on the page."""
    return [Recipe(m["question"], m["query"], m["answer"] or "") for m in _QUESTION.finditer(PAGE.read_text())]


@asynccontextmanager
async def incident(url: str) -> AsyncIterator[dict[str, str]]:
    """Have it happen, and yield what the page's variables stand for while two of the admins are still there."""
    with serving(url, Settings(ledger=LedgerSettings(ledger_flush_seconds=0.02))) as node:
        async with await node.live("alice") as alice, await node.live("bob", claims={"topics": ["payments.*"]}) as bob:
            alert = await _an_evening(node, alice)
            await bob.send({"type": "seen", "alerts": [alert["id"]]})
            for what in (
                "connections WHERE recipient = 'alice' AND closed_at IS NOT NULL",
                "rejections",
                "sightings",
                "tokens WHERE revoked_at IS NOT NULL AND open = 0",
                "sources WHERE refused > 0 AND repeated > 0",
                "deliveries WHERE received_at IS NOT NULL AND kind = 'alert.commented'",
                "deliveries WHERE recipient = 'bob' AND kind = 'alert.repeated'",
            ):
                await eventually(lambda w=what: node.sql(f"SELECT FROM audit.{w}"))  # type: ignore[misc]
            # What an operator looks at has been waiting for a while.
            earlier = "SET created_at = created_at - age, status_at = status_at - age"
            await node.sql(f"UPDATE alerts {earlier} FROM (SELECT interval '3 minutes' AS age) AS earlier")
            yield {"alert": alert["id"], "moment": (await node.sql("SELECT now()::text"))[0][0]}


async def _an_evening(node: Node, alice: Stream) -> dict[str, Any]:
    eu = {"title": "Card acceptance below 80 %", "topic": "payments.eu", "severity": "critical", "dedup_key": "eu"}
    async with (
        await node.live("carol", claims={"jti": "carol-phone"}) as carol,
        node.http("root", "admin") as root,
        node.http("alice", f"{READ} alerts:manage") as duty,
        node.http() as billing,
    ):
        alert = await node.post(**eu)
        await alice.ack((await alice.events(1))[0]["seq"])
        assert (await duty.post(f"/v1/alerts/{alert['id']}/acknowledge")).status_code == 200
        await duty.post(f"/v1/alerts/{alert['id']}/comments", json={"text": "Acquirer X is down, rerouting"})
        await alice.ack((await alice.events(2))[-1]["seq"])
        await node.post("Settlement file is late", topic="payments.eu", severity="error", recipients=["bob", "erin"])
        await node.post("Disk is full", topic="storage", severity="warning")
        assert (await billing.post("/v1/alerts", json=eu)).status_code == 200
        assert (await billing.post("/v1/alerts", json={"severity": "grave"})).status_code == 422
        # The answer to a post does not wait for the fan-out: each has been sent all of it before anybody leaves.
        await carol.events(5)
        await alice.events(2)
        lost = {"jti": "carol-phone", "reason": "phone lost"}
        assert (await root.post("/v1/revocations", json=lost)).status_code == 201
        assert (await carol.closed())[0] == 1008
        await (await node.live("alice")).close()
        assert (await (await node.stream("dave", scope="alerts:write")).closed())[0] == 1008
    return alert


def answer(url: str, query: str, variables: Mapping[str, str]) -> str:
    """Ask psql, as the role that reads the views."""
    given = [f"--variable={name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        [str(BINARIES / "psql"), "-X", "-v", "ON_ERROR_STOP=1", *given, address_of(parse_url(url)), "-f", "-"],
        input=query,
        env={**os.environ, "PGOPTIONS": "-c role=tocsin_auditor -c timezone=UTC"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"


async def answers(url: str) -> dict[str, str]:
    """Return psql's answer to each question of the page, after the incident."""
    async with incident(url) as variables:
        asked = [asyncio.to_thread(answer, url, recipe.query, variables) for recipe in recipes()]
        return dict(zip([recipe.question for recipe in recipes()], await asyncio.gather(*asked), strict=True))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder)) as url:
        address = url.render_as_string(hide_password=False)
        migrate(parse_url(address))
        printed = asyncio.run(answers(address))
    page = _QUESTION.sub(
        lambda m: f"### {m['question']}\n{m['words']}```sql\n{m['query']}```\n\n```text\n{printed[m['question']]}```\n",
        PAGE.read_text(),
    )
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
