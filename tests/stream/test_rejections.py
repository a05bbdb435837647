"""Which refusals are rejected handshakes, whatever carries the stream, and what they leave behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.harness import READ, WRITE, eventually
from tests.http_streams import PATH, EventSource, Poller
from tests.stream.conftest import FEW, READS

if TYPE_CHECKING:
    from tests.harness import Node

SSE = {"Accept": "text/event-stream"}
POLL = {"Accept": "application/json"}


async def rejected(node: Node, agent: str) -> list[tuple[str, str]]:
    """Return the path and the reason of what a client was rejected for, once a last rejection of it is written."""
    async with await node.stream(agent, scope=WRITE, options={"user_agent_header": agent}) as stream:
        await stream.closed()
    query = "SELECT path, reason FROM handshake_rejections WHERE user_agent = $1 ORDER BY at"
    written = await eventually(lambda: _ended(node, query, agent))
    return [tuple(row) for row in written[:-1]]


async def _ended(node: Node, query: str, agent: str) -> list[Any] | None:
    rows = await node.sql(query, agent)
    return rows if rows and rows[-1]["reason"] == "scope_missing" else None


async def test_streams_that_are_rejected_after_the_head_are_counted_too(narrow: Node, subject: str) -> None:
    sources = [EventSource(narrow, subject) for _ in range(2 * FEW)]
    for source in sources:
        source.http.headers["User-Agent"] = subject
    async with AsyncExitStack() as streams:
        for source in sources:
            await streams.enter_async_context(source)
        opened = [streams.enter_async_context(source.http.stream("GET", PATH, headers=SSE)) for source in sources]
        answers = await asyncio.gather(*opened)
        firsts = [await anext(answer.aiter_bytes()) for answer in answers]
    assert sum(b"rate_limited" in first for first in firsts) == FEW
    assert await rejected(narrow, subject) == [(PATH, "rate_limited")] * FEW


QUERIES = ("after=xyz", "min_severity=foo", "topic=UPPER", "consumer=a%20b", "unknown=1")


async def test_a_wrong_query_is_a_rejected_handshake_on_each_transport(narrow: Node, subject: str) -> None:
    async with narrow.http(subject, READ) as client:
        client.headers["User-Agent"] = subject
        for query in (*QUERIES, "wait=99", "connection=x"):
            for accepted in (SSE, POLL):
                assert (await client.get(f"{PATH}?{query}", headers=accepted)).status_code == 422
        assert (await client.get(PATH, headers={**SSE, "Last-Event-ID": "x"})).status_code == 422
        assert (await client.get(f"{PATH}?after={'9' * 30_000}")).status_code == 414
        assert (await client.head(f"{PATH}?after=xyz")).status_code == 422, "it opens no stream"
    for query in QUERIES:
        name, _, value = query.partition("=")
        async with await narrow.stream(
            subject, options={"user_agent_header": subject}, **dict[str, Any]({name: unquote(value)})
        ) as stream:
            await stream.closed()
    reasons = [reason for _, reason in await rejected(narrow, subject)]
    assert reasons == ["invalid_request"] * 15 + ["target_too_long"] + ["invalid_request"] * len(QUERIES)


async def test_what_is_over_the_limit_of_reads_is_a_rejected_handshake(narrow: Node, subject: str) -> None:
    async with narrow.http(subject, READ) as client:
        client.headers["User-Agent"] = subject
        for _ in range(READS):
            assert (await client.get("/v1/alerts")).status_code == 200
        for accepted in (SSE, POLL):
            assert (await client.get(PATH, headers=accepted)).status_code == 429
    assert await rejected(narrow, subject) == [(PATH, "rate_limited")] * 2


async def test_a_poll_of_an_open_connection_that_is_refused_is_no_handshake(narrow: Node, subject: str) -> None:
    async with Poller(narrow, subject) as poller:
        poller.http.headers["User-Agent"] = subject
        await poller.poll(after="latest")
        for _ in range(FEW):
            await poller.poll()
        query = {"after": poller.after, "connection": poller.connection, "wait": 0}
        for _ in range(READS + 2):  # over the limit of messages, and then over that of reads
            refused = await poller.http.get(PATH, params=query)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert 60 < int(refused.headers["retry-after"]) <= 1200, "not before it is let in"
            assert (refused.json()["limit"], refused.json()["remaining"]) == (FEW, 0)
    assert await rejected(narrow, subject) == []
