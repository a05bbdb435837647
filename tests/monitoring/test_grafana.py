"""``docs/monitoring/grafana.json``: its queries are run, as the role that the page tells to use, on a real database."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.harness import ROOT, eventually

if TYPE_CHECKING:
    from tests.harness import Node

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "monitoring" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
IN_GRAFANA = (
    (r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN now() - interval '6 hours' AND now()"),
    (r"\$__timeGroup\((\w+), \$__interval\)", r"floor(extract(epoch FROM \1) / 60) * 60"),
    (r"\$\{topic:sqlstring\}", "'payments.eu', 'default'"),
)
"""What Grafana's PostgreSQL data source makes of its macros and of the page's variables."""


def as_sent(query: str) -> str:
    for written, sent in IN_GRAFANA:
        query = re.sub(written, sent, query)
    assert "$" not in query
    return query


async def ask(node: Node, query: str) -> list[Any]:
    connection = await asyncpg.connect(node.database_url)
    try:
        await connection.execute("SET ROLE tocsin_auditor")
        rows: list[Any] = await connection.fetch(as_sent(query))
    finally:
        await connection.close()
    return rows


async def an_eventful_hour(node: Node) -> None:
    """Have something to show in each panel."""
    async with await node.live("alice") as alice, await node.live("bob"):
        for topic in ("payments.eu", "default"):
            await node.post(topic=topic, severity="error")
            await alice.ack((await alice.events(1))[0]["seq"])
        async with node.http() as client:
            assert (await client.post("/v1/alerts", json={})).status_code == 422
        gone = await node.live("carol")
        await gone.close()
        refused = await node.stream("dave", scope="alerts:write")
        assert (await refused.closed())[0] == 1008
        for view, count in (("rejections", 1), ("connections WHERE closed_at IS NOT NULL", 1), ("sources", 1)):
            await eventually(lambda v=view, c=count: has(node, v, c))  # type: ignore[misc]
        await eventually(lambda: has(node, "deliveries WHERE received_at IS NOT NULL", 2))


async def has(node: Node, view: str, count: int) -> bool:
    return bool((await node.sql(f"SELECT count(*) >= $1 FROM audit.{view}", count))[0][0])


async def test_each_panel_shows_something_after_an_eventful_hour(node: Node) -> None:
    await an_eventful_hour(node)
    async with await node.live("alice"):
        await eventually(lambda: has(node, "presence", 1))
        for panel in PANELS:
            for target in panel["targets"]:
                rows = await ask(node, target["rawSql"])
                assert rows, panel["title"]
                if target["format"] == "time_series":
                    assert "time" in rows[0], panel["title"]
        topics = next(variable["query"] for variable in VARIABLES if variable["name"] == "topic")
        assert [row["topic"] for row in await ask(node, topics)] == ["default", "payments.eu"]


@pytest.mark.unit
def test_the_page_is_laid_out_without_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        assert panel["title"]
        assert panel["description"]
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@pytest.mark.unit
@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_asks_the_data_source_that_is_chosen_on_the_page(panel: dict[str, Any]) -> None:
    names = {variable["name"] for variable in VARIABLES}
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert source == {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}
    assert set(re.findall(r"\$\{(\w+)", json.dumps(panel))) <= names
