"""Recipients who leave and come back: ``/v1/recipients``, on two nodes of one database."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from service.settings import AuthSettings, Settings
from tests.admin.test_revocation_in_effect import REVOKED, client_of, code_of
from tests.admin.test_revocations import handshake, unique
from tests.harness import READ, WRITE, Node, eventually, serving, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

ADMIN = "admin"
ODD = ("a/b", "a/b/../c", "x/deactivate", "x/reactivate", "münchen ☃", "50% off?#&=+", "deactivate", "a//b", "日本/語")


@pytest.fixture(scope="module")
def nodes(shared_url: str) -> Iterator[tuple[Node, Node]]:
    with serving(shared_url) as first, serving(shared_url) as second:
        yield first, second


async def ask(node: Node, recipient: str, action: str, body: Any = None, by: str = "root") -> httpx2.Response:
    async with node.http(by, ADMIN) as client:
        path = f"/v1/recipients/{quote(recipient, safe='')}/{action}"
        return await (client.post(path) if body is None else client.post(path, json=body))


async def set_active(node: Node, recipient: str, action: str, **body: Any) -> dict[str, Any]:
    answer = await ask(node, recipient, action, body or None)
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    assert "unconfirmed" not in state
    return state


async def present(node: Node, subject: str, **claims: Any) -> None:
    """Have somebody connect once, and leave."""
    async with await node.live(subject, claims=claims):
        pass
    await eventually(lambda: node.sql("SELECT FROM recipients WHERE id = $1", subject))


async def unreceived(node: Node, recipient: str) -> list[str]:
    rows = await node.sql("SELECT title FROM audit.unreceived WHERE recipient = $1 ORDER BY seq", recipient)
    return [row["title"] for row in rows]


async def test_a_deactivated_recipient_is_refused_whatever_the_token_until_the_reactivation(
    nodes: tuple[Node, Node],
) -> None:
    subject = unique()
    old = token(subject, f"{READ} {WRITE}")
    streams = [await node.live(subject) for node in nodes]
    await eventually(lambda: nodes[0].sql("SELECT FROM recipients WHERE id = $1", subject))
    state = await set_active(nodes[0], subject, "deactivate", reason="left the company")
    for stream in streams:
        assert await stream.closed() == (1008, "token_revoked")
    assert (state["id"], state["deactivated_by"], state["reason"]) == (subject, "root", "left the company")
    for bearer in (old, token(subject, f"{READ} {WRITE}"), token(subject, ADMIN, jti=unique())):
        for node in nodes:
            async with client_of(node, bearer) as client:
                assert code_of(await client.get("/v1/alerts")) == REVOKED
                assert code_of(await client.post("/v1/alerts", json={"title": "after"})) == REVOKED
            async with await handshake(node, bearer) as stream:
                assert await stream.closed() == (1008, "token_revoked")
    later = token(subject, READ)
    state = await set_active(nodes[1], subject, "reactivate", reason="is back")
    assert (state["id"], state["deactivated_at"], state["deactivated_by"], state["reason"]) == (subject, *[None] * 3)
    for node in nodes:
        async with client_of(node, old) as client:
            assert code_of(await client.get("/v1/alerts")) == REVOKED
        async with await node.live(subject):
            pass
    async with client_of(nodes[0], later) as client:  # of this very second, or refused
        assert code_of(await client.get("/v1/alerts")) in {(200, None), REVOKED}
    rows = await nodes[0].sql("SELECT * FROM audit.deactivations WHERE recipient = $1 ORDER BY at", subject)
    assert [(row["action"], row["actor"], row["reason"], row["is_current"]) for row in rows] == [
        ("deactivated", "root", "left the company", False),
        ("reactivated", "root", "is back", True),
    ]


async def test_a_token_in_whole_seconds_is_accepted_after_a_reactivation(nodes: tuple[Node, Node]) -> None:
    subject = unique()
    await present(nodes[0], subject)
    for _ in range(3):
        await set_active(nodes[0], subject, "deactivate")
        await set_active(nodes[0], subject, "reactivate")
        async with client_of(nodes[1], token_of_whole_second(subject)) as client:
            assert (await client.get("/v1/alerts?limit=1")).status_code == 200


def token_of_whole_second(subject: str) -> str:
    from unittest import mock  # noqa: PLC0415

    now = float(int(time.time()))
    with mock.patch("service.auth.shared_secret.time.time", return_value=now):
        return token(subject, READ)


async def test_it_is_idempotent(nodes: tuple[Node, Node]) -> None:
    subject = unique()
    await present(nodes[0], subject)
    assert (await set_active(nodes[0], subject, "reactivate"))["deactivated_at"] is None
    first = await set_active(nodes[0], subject, "deactivate", reason="left")
    again = [ask(node, subject, "deactivate", {"reason": "left!"}, "eve") for node in nodes * 3]
    answers = await asyncio.gather(*again)
    assert [answer.json() for answer in answers] == [first] * 6
    active = await set_active(nodes[0], subject, "reactivate")
    assert await set_active(nodes[1], subject, "reactivate") == active
    rows = await nodes[0].sql("SELECT action FROM audit.deactivations WHERE recipient = $1 ORDER BY at", subject)
    assert [row["action"] for row in rows] == ["deactivated", "reactivated"]


@pytest.mark.parametrize("recipient", ODD)
async def test_any_id_works_url_encoded(nodes: tuple[Node, Node], recipient: str) -> None:
    await nodes[0].post(recipients=[recipient])
    assert (await set_active(nodes[0], recipient, "deactivate"))["id"] == recipient
    async with client_of(nodes[1], token(recipient)) as client:
        assert code_of(await client.get("/v1/alerts")) == REVOKED
    assert (await set_active(nodes[1], recipient, "reactivate"))["id"] == recipient
    async with client_of(nodes[0], token(recipient)) as client:
        assert (await client.get("/v1/alerts?limit=1")).status_code == 200


async def test_whom_an_alert_names_is_known_before_and_after_it_is_indexed(nodes: tuple[Node, Node]) -> None:
    node = nodes[0]
    alert = await node.post(recipients=["named only"])
    await set_active(node, "named only", "deactivate")
    await eventually(lambda: node.sql("SELECT FROM alert_search WHERE seq = $1", alert["seq"]))
    await node.sql("DELETE FROM revocations WHERE subject = 'named only'")
    await set_active(node, "named only", "deactivate")


async def test_who_is_unknown_is_not_found_unless_the_admin_says_so(nodes: tuple[Node, Node]) -> None:
    subject = unique()
    for action in ("deactivate", "reactivate"):
        answer = await ask(nodes[0], subject, action)
        assert code_of(answer) == (404, "not_found")
        assert subject in answer.json()["detail"]
    await set_active(nodes[0], subject, "deactivate", unknown=True)
    async with client_of(nodes[1], token(subject)) as client:
        assert code_of(await client.get("/v1/alerts")) == REVOKED
    await set_active(nodes[0], subject, "reactivate")


async def test_a_source_can_be_deactivated(nodes: tuple[Node, Node]) -> None:
    source = unique()
    async with nodes[0].http(source) as client:
        assert (await client.post("/v1/alerts", json={"title": "x"})).status_code == 201
        await eventually(lambda: nodes[0].sql("SELECT FROM source_hours WHERE source = $1", source))
        await set_active(nodes[1], source, "deactivate")
        assert code_of(await client.post("/v1/alerts", json={"title": "x"})) == REVOKED


@pytest.mark.parametrize(
    ("body", "word"),
    [({"reason": ""}, "/reason"), ({"reason": "x" * 201}, "/reason"), ({"why": "x"}, "/why"), ([], "body")],
)
async def test_a_bad_body_is_refused(nodes: tuple[Node, Node], body: Any, word: str) -> None:
    for action in ("deactivate", "reactivate"):
        answer = await ask(nodes[0], "alice", action, body)
        assert answer.status_code == 422
        assert word in answer.text


@pytest.mark.parametrize("recipient", [" alice", "a\u202eb", "x" * 201])
async def test_what_is_no_subject_is_refused(nodes: tuple[Node, Node], recipient: str) -> None:
    assert (await ask(nodes[0], recipient, "deactivate")).status_code == 422


@pytest.mark.parametrize("scope", ["", READ, WRITE, "alerts:manage", "audit:read"])
async def test_it_needs_the_scope_of_an_admin(nodes: tuple[Node, Node], scope: str) -> None:
    async with nodes[0].http(scope=scope) as client:
        answers = [
            await client.post("/v1/recipients/alice/deactivate"),
            await client.post("/v1/recipients/alice/reactivate"),
            await client.get("/v1/recipients"),
        ]
    assert {code_of(answer) for answer in answers} == {(403, "scope_missing")}


async def test_one_more_than_the_most_is_refused(database_url: str) -> None:
    with serving(database_url, Settings(auth=AuthSettings(revocations_max=1))) as node:
        await set_active(node, "alice", "deactivate", unknown=True)
        answer = await ask(node, "bob", "deactivate", {"unknown": True})
        assert code_of(answer) == (503, "overloaded")
        assert "TOCSIN_REVOCATIONS_MAX allows. Set it higher" in answer.json()["detail"]
        await set_active(node, "alice", "deactivate")
        await set_active(node, "alice", "reactivate")  # the way back is always open
        assert code_of(await ask(node, "alice", "deactivate")) == (503, "overloaded")


# What waits for whom.


async def test_nobody_waits_for_who_is_deactivated_and_history_stays(node: Node) -> None:
    await present(node, "alice")
    async with await node.live("bob") as bob:
        for title, recipients in (("to all", None), ("to both", ["alice", "bob", "carol"])):
            alert = await node.post(title, recipients=recipients)
            await bob.next_of("event")
        await bob.ack(alert["seq"])
        await eventually(lambda: node.sql("SELECT FROM receipts WHERE seq = $1", alert["seq"]))
        await node.flushed(alert["seq"])
    async with await node.stream("alice") as stream:  # is sent both, and acknowledges none
        await stream.events(2)
    await eventually(lambda: node.sql("SELECT FROM audit.deliveries WHERE recipient = 'alice' OFFSET 1"))
    history = "SELECT * FROM audit.deliveries ORDER BY seq, recipient"
    before, timeline = await node.sql(history), await node.sql("SELECT * FROM audit.timeline")
    assert (await unreceived(node, "alice"), await unreceived(node, "carol")) == (["to all", "to both"], ["to both"])
    for name in ("alice", "carol"):  # carol never connected
        await set_active(node, name, "deactivate")
        assert await unreceived(node, name) == []
    assert await node.sql("SELECT FROM audit.unreceived") == []
    assert await node.sql(history) == before
    assert await node.sql("SELECT * FROM audit.timeline") == timeline
    later = await node.post("later", recipients=["alice", "carol"])
    assert await node.sql("SELECT FROM audit.unreceived") == []
    async with node.http("root", "audit:read alerts:manage") as client:
        for path in (f"/v1/audit/alerts/{alert['id']}", f"/v1/alerts/{alert['id']}/receipts"):
            answer = (await client.get(path)).json()
            assert [one["recipient"] for one in answer["recipients"]] == ["alice", "bob"]
            assert [one["waiting"] for one in answer["recipients"]] == [None, None]
        assert (await client.get("/v1/audit/unreceived")).json()["unreceived"] == []
        assert (await client.get("/v1/audit/report")).json()["unreceived"] == []
    await set_active(node, "alice", "reactivate")
    assert await unreceived(node, "alice") == ["to all", "to both", "later"]
    async with await node.stream("alice") as stream:
        assert (await stream.events(3))[-1]["seq"] == later["seq"]


async def test_who_is_deactivated_is_present_no_more_even_on_a_node_that_is_frozen(node: Node) -> None:
    async with await node.live("alice") as stream, node.http("bob", READ) as client:
        await eventually(lambda: node.sql("SELECT FROM audit.presence WHERE recipient = 'alice'"))
        await set_active(node, "alice", "deactivate")
        assert await stream.closed() == (1008, "token_revoked")
        await eventually(lambda: node.sql("SELECT FROM connections WHERE closed_at IS NOT NULL"))
        # As a node leaves them that cannot write.
        await node.sql("UPDATE connections SET closed_at = NULL WHERE recipient = 'alice'")
        assert (await client.get("/v1/presence")).json() == {"present": []}


# The list.


async def test_the_list_is_paged_by_id_and_says_who_is_deactivated(node: Node) -> None:
    names = sorted(["alice", "bob", "Zoë", "ähm", "a/b", "_x"])
    for name in names:
        await present(node, name, topics=["payments"])
    await set_active(node, "never/here", "deactivate", unknown=True)
    await set_active(node, "bob", "deactivate", reason="left")
    async with node.http("root", ADMIN) as client:
        rows = (await client.get("/v1/recipients")).json()
        assert rows["next"] is None
        listed = rows["recipients"]
        assert [row["id"] for row in listed] == sorted([*names, "never/here"])
        by_id = {row["id"]: row for row in listed}
        assert (by_id["bob"]["deactivated_by"], by_id["bob"]["reason"]) == ("root", "left")
        assert by_id["bob"]["topics"] == ["payments"]
        assert (by_id["never/here"]["topics"], by_id["never/here"]["first_seen_at"]) == (None, None)
        assert by_id["alice"]["deactivated_at"] is None
        cursor: str | None = None
        paged: list[Any] = []
        while True:
            parameters: dict[str, Any] = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await client.get("/v1/recipients", params=parameters)).json()
            assert len(page["recipients"]) <= 2
            paged += page["recipients"]
            if (cursor := page["next"]) is None:
                break
        assert [row["id"] for row in paged] == [row["id"] for row in listed]
        for value, expected in ((True, {"bob", "never/here"}), (False, set(names) - {"bob"})):
            some = (await client.get("/v1/recipients", params={"deactivated": value})).json()["recipients"]
            assert {row["id"] for row in some} == expected
        assert (await client.get("/v1/recipients", params={"cursor": "x"})).status_code == 422
        revocations = (await client.get("/v1/revocations")).json()["revocations"]
    assert [(row["subject"], row["deactivated"], row["expires_at"]) for row in revocations] == [
        ("bob", True, None),
        ("never/here", True, None),
    ]


async def test_a_deactivation_outlives_a_restart_and_housekeeping(database_url: str) -> None:
    from service.settings import LedgerSettings  # noqa: PLC0415

    settings = Settings(
        auth=AuthSettings(jwt_max_lifetime_seconds=3600), ledger=LedgerSettings(housekeeping_interval_seconds=0.1)
    )
    with serving(database_url, settings) as node:
        await set_active(node, "alice", "deactivate", unknown=True)
        await set_active(node, "bob", "deactivate", unknown=True)
        await set_active(node, "bob", "reactivate")
    with serving(database_url, settings) as node:
        async with client_of(node, token("alice")) as client:
            assert code_of(await client.get("/v1/alerts")) == REVOKED
        async with client_of(node, token("bob")) as client:
            assert (await client.get("/v1/alerts")).status_code == 200
        await node.sql("UPDATE revocations SET expires_at = clock_timestamp() WHERE expires_at < '9999-01-01'")
        await eventually(lambda: remaining(node, ["alice"]))
        assert (await node.sql("SELECT recipient FROM deactivated_recipients"))[0]["recipient"] == "alice"


async def remaining(node: Node, subjects: list[str]) -> bool:
    return [row["subject"] for row in await node.sql("SELECT subject FROM revocations")] == subjects
