"""The names that subjects are shown by: from tokens, in one table, for whoever shows subjects."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.auth.test_tokens import signed
from tests.harness import PLAIN, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.harness import Node, Stream


def http(node: Node, subject: str, scope: str, **claims: Any) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {signed(sub=subject, scope=scope, **claims)}"}
    return httpx2.AsyncClient(base_url=node.base, headers=headers, **PLAIN)


async def live(node: Node, subject: str, **claims: Any) -> Stream:
    authorization = f"Bearer {signed(sub=subject, **claims)}"
    return await node.live(subject, options={"additional_headers": {"Authorization": authorization}})


async def names(node: Node, *subjects: str) -> dict[str, str]:
    async with http(node, "reader", "alerts:read") as client:
        answer = await client.get("/v1/names", params=[("subject", one) for one in subjects])
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()["names"]
    return found


def named(node: Node, name: str, *subjects: str) -> Callable[[], Awaitable[bool]]:
    async def is_named() -> bool:
        return await names(node, *subjects) == dict.fromkeys(subjects, name)

    return is_named


async def act(node: Node, subject: str, **claims: Any) -> None:
    async with http(node, subject, "alerts:read alerts:write", **claims) as client:
        assert (await client.post("/v1/alerts", json={"title": "x"})).status_code == 201


async def test_whoever_acts_is_shown_by_the_name_that_their_newest_token_says(lenient: Node) -> None:
    subject = str(uuid.uuid4())
    assert await names(lenient, subject) == {}
    await act(lenient, subject, name="Alice Liddell", email="alice@example.com")
    await eventually(named(lenient, "Alice Liddell", subject))
    await act(lenient, subject)  # a token without a name takes none away
    await act(lenient, subject, preferred_username="alice")
    await eventually(named(lenient, "alice", subject))
    [row] = await lenient.sql("SELECT name FROM audit.names WHERE subject = $1", subject)
    assert row["name"] == "alice"


async def test_the_token_that_was_issued_last_counts_in_whatever_order_they_are_verified(lenient: Node) -> None:
    subject, now = str(uuid.uuid4()), time.time()
    await act(lenient, subject, name="Alice Married", iat=now - 5)
    await eventually(named(lenient, "Alice Married", subject))
    await act(lenient, subject, name="Alice Maiden", iat=now - 300)
    await act(lenient, other := str(uuid.uuid4()), name="Bob")
    await eventually(named(lenient, "Bob", other))
    assert await names(lenient, subject) == {subject: "Alice Married"}
    await act(lenient, subject, name="Alice Liddell", iat=now)
    await eventually(named(lenient, "Alice Liddell", subject))


async def test_a_name_is_in_no_alert_event_or_row_of_the_ledger(lenient: Node) -> None:
    subject, name = str(uuid.uuid4()), f"Alice {uuid.uuid4()}"
    async with await live(lenient, subject, name=name) as stream:
        await act(lenient, subject, name=name)
        event = await stream.next_of("event")
        assert event["actor"] == event["alert"]["source"] == subject
        assert name not in str(event)
        await lenient.flushed(event["seq"])
        await eventually(named(lenient, name, subject))
        tables = await lenient.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        holding = [
            table
            for (table,) in tables
            if await lenient.sql(f"SELECT FROM {table} AS row WHERE row::text LIKE $1", f"%{name}%")
        ]
        assert holding == ["subject_names"]


async def test_presence_holds_the_name_and_says_when_it_changes(lenient: Node) -> None:
    subject = str(uuid.uuid4())
    async with await live(lenient, subject, name="Alice") as stream:

        async def present() -> dict[str, Any] | None:
            async with http(lenient, "reader", "alerts:read") as client:
                everybody = (await client.get("/v1/presence")).json()["present"]
            return next((one for one in everybody if one["recipient"] == subject and one.get("name") == "Alice"), None)

        assert await eventually(present)
        await act(lenient, subject, name="Alice Liddell")
        while True:
            frame = await stream.next_of("presence")
            entries = {one["recipient"]: one.get("name") for one in frame["joined"] + frame["changed"]}
            if entries.get(subject) == "Alice Liddell":
                break


async def test_two_subjects_may_have_one_name_and_stay_two(lenient: Node) -> None:
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    for subject in (one, other):
        await act(lenient, subject, name="Alice")
    await eventually(named(lenient, "Alice", one, other))


async def test_who_may_do_nothing_here_leaves_no_name(lenient: Node) -> None:
    outsider = str(uuid.uuid4())
    async with http(lenient, outsider, "openid", name="Outsider") as client:
        assert (await client.get("/v1/alerts")).status_code == 403
    await act(lenient, other := str(uuid.uuid4()), name="Alice")
    await eventually(named(lenient, "Alice", other))
    assert await names(lenient, outsider) == {}


async def test_a_refused_or_revoked_token_names_nobody(lenient: Node) -> None:
    subject, jti = str(uuid.uuid4()), uuid.uuid4().hex
    async with http(lenient, "root", "admin") as client:
        assert (await client.post("/v1/revocations", json={"jti": jti})).status_code == 201
    async with http(lenient, subject, "alerts:read", name="Eve", jti=jti) as client:
        assert (await client.get("/v1/alerts")).status_code == 401
    async with http(lenient, subject, "alerts:read", name="Eve", aud="eve") as client:
        assert (await client.get("/v1/alerts")).status_code == 401
    await act(lenient, other := str(uuid.uuid4()), name="Alice")
    await eventually(named(lenient, "Alice", other))
    assert await names(lenient, subject) == {}


async def test_whose_names_are_asked_for_is_bounded_and_needs_alerts_read(lenient: Node) -> None:
    async with http(lenient, "reader", "alerts:read") as client:
        assert (await client.get("/v1/names")).status_code == 422
        for count, status in ((100, 200), (101, 422)):
            subjects = [f"s{number}" for number in range(count)]
            assert (await client.get("/v1/names", params={"subject": subjects})).status_code == status
        assert (await client.get("/v1/names", params={"subject": "a\0"})).status_code == 422
    async with http(lenient, "billing", "alerts:write") as client:
        assert (await client.get("/v1/names", params={"subject": "alice"})).status_code == 403


@pytest.mark.parametrize("scope", ["alerts:write", "audit:read alerts:read unknown", ""])
async def test_me_is_the_token_as_it_is_read_here(lenient: Node, scope: str) -> None:
    async with http(lenient, "alice", scope, name="Alice", topics=["payments.*"]) as client:
        answer = await client.get("/v1/me")
    if not scope:
        assert answer.status_code == 403
        return
    me = answer.json()
    assert me.pop("expires_at").endswith("Z")
    assert me == {
        "subject": "alice",
        "name": "Alice",
        "scopes": sorted(scope.split()),
        "topics": ["payments.*"],
    }


NONE = "none: no value of its scope claims is a scope here, or mapped to one"


@pytest.mark.parametrize(
    ("scope", "granted"),
    [("openid", NONE), ("", NONE), ("alerts:raed <b>", NONE), ("x admin alerts:write", "alerts:write, admin")],
)
async def test_a_refusal_for_want_of_a_scope_says_which_were_read(lenient: Node, scope: str, granted: str) -> None:
    async with http(lenient, "alice", scope) as client:
        for path in ("/v1/alerts", f"/v1/alerts/{uuid.uuid4()}", *(["/v1/me"] if granted is NONE else [])):
            detail = (await client.get(path)).json()["detail"]
            assert detail.startswith("This requires a token with the scope alerts:")
            assert detail.endswith(f". This one grants {granted}.")
