"""Keys that rotate under a serving node, at a real JWKS server."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from service.settings import AuthSettings, LimitSettings, Settings
from tests.auth.issuer import P256, Publisher, publishing, signed
from tests.harness import PLAIN, WEBSOCKET, Node, Stream, eventually, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

NEW = ec.generate_private_key(ec.SECP256R1())
PAUSE = 0.1
CACHE = 0.3


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as running:
        running.publish(old=P256)
        yield running


def node_of(
    database_url: str, publisher: Publisher, auth_failure_limit: str = "1000000/second", **changes: Any
) -> AbstractContextManager[Node]:
    auth = AuthSettings(
        **{
            "jwt_jwks_url": publisher.url,
            "jwks_min_refresh_interval_seconds": PAUSE,
            "jwks_ttl_seconds": CACHE,
            "jwks_timeout_seconds": 2,
            **changes,
        }
    )
    limits = LimitSettings(auth_failure_limit=auth_failure_limit, read_limit="1000000/second")
    return serving(database_url, Settings(auth=auth, limits=limits))


async def status_of(node: Node, token: str) -> int:
    async with httpx2.AsyncClient(base_url=node.base, **PLAIN) as client:
        return (await client.get("/v1/alerts", headers={"Authorization": f"Bearer {token}"})).status_code


async def answers(node: Node, token: str, status: int) -> bool:
    return await status_of(node, token) == status


async def opened(node: Node, token: str) -> Stream:
    return Stream(await connect(node.ws, additional_headers={"Authorization": f"Bearer {token}"}, **WEBSOCKET))


async def test_a_new_key_is_believed_and_a_withdrawn_one_is_not_without_a_restart(
    database_url: str, publisher: Publisher
) -> None:
    old, new = signed(P256, "ES256", "old"), signed(NEW, "ES256", "new")
    with node_of(database_url, publisher) as node:
        assert (await status_of(node, old), await status_of(node, new)) == (200, 401)
        publisher.publish(old=P256, new=NEW)
        await eventually(lambda: answers(node, new, 200))
        assert await status_of(node, old) == 200
        publisher.publish(new=NEW)
        await eventually(lambda: answers(node, old, 401))
        assert await status_of(node, new) == 200
        async with await opened(node, old) as stream:
            assert await stream.closed() == (1008, "token_invalid")


async def test_a_handshake_and_a_frame_wait_for_the_key_that_they_need(database_url: str, publisher: Publisher) -> None:
    """The cache would hold for an hour: only the token's own kid makes the node ask again."""
    with node_of(database_url, publisher, jwks_ttl_seconds=3600) as node:
        async with await opened(node, signed(P256, "ES256", "old")) as stream:
            await stream.next_of("caught_up")
            publisher.publish(old=P256, new=NEW)

            async def renewed() -> bool:
                await stream.send({"type": "authenticate", "token": signed(NEW, "ES256", "new")})
                return bool((await stream.next())["type"] == "authenticated")

            await eventually(renewed)
        newer = ec.generate_private_key(ec.SECP256R1())
        publisher.publish(newer=newer)

        async def welcomed() -> bool:
            async with await opened(node, signed(newer, "ES256", "newer")) as stream:
                with contextlib.suppress(ConnectionClosed):
                    return bool((await stream.next())["type"] == "welcome")
            return False

        await eventually(welcomed)


async def test_while_the_server_is_down_the_last_good_keys_are_kept(database_url: str) -> None:
    with publishing() as publisher:
        publisher.publish(old=P256)
        with node_of(database_url, publisher) as node:
            assert await status_of(node, signed(P256, "ES256", "old")) == 200
            publisher.status, publisher.content = 503, b"down"
            failed = publisher.requests + 3
            await eventually(lambda: publisher.requests >= failed)
            assert await status_of(node, signed(P256, "ES256", "old")) == 200
            assert await status_of(node, signed(NEW, "ES256", "new")) == 401
            publisher.status = 200
            publisher.publish(new=NEW)
            await eventually(lambda: answers(node, signed(NEW, "ES256", "new"), 200))


async def test_a_node_starts_without_its_issuer_and_refuses_with_come_back(
    database_url: str, publisher: Publisher
) -> None:
    publisher.status = 500
    token = signed(P256, "ES256", "old")
    with node_of(database_url, publisher, auth_failure_limit="1/hour") as node:
        for _ in range(3):  # those who come too early are no attackers
            async with httpx2.AsyncClient(base_url=node.base, **PLAIN) as client:
                answer = await client.get("/v1/alerts", headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["code"]) == (503, "keys_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
            async with await opened(node, token) as stream:
                assert await stream.closed() == (1013, "keys_unavailable")
        publisher.status = 200
        await eventually(lambda: answers(node, token, 200))


async def test_a_flood_of_unknown_names_makes_one_fetch_and_delays_nobody(
    database_url: str, publisher: Publisher
) -> None:
    with node_of(database_url, publisher, jwks_min_refresh_interval_seconds=600, jwks_ttl_seconds=3600) as node:
        good = signed(P256, "ES256", "old")
        assert publisher.requests == 1

        async def one(number: int) -> int:
            return await status_of(node, signed(P256, "ES256", f"{number} {uuid.uuid4()}"))

        statuses = [await asyncio.gather(*(one(number) for number in range(20))) for _ in range(5)]
        assert {status for some in statuses for status in some} == {401}
        assert await status_of(node, good) == 200
        assert publisher.requests == 1


async def test_while_a_flood_waits_for_a_slow_server_known_keys_are_served(
    database_url: str, publisher: Publisher
) -> None:
    with node_of(database_url, publisher, jwks_ttl_seconds=3600, jwks_timeout_seconds=60) as node:
        good = signed(P256, "ES256", "old")
        assert await status_of(node, good) == 200
        publisher.gate.clear()
        asked = publisher.requests

        async def asks_again() -> bool:
            flood.append(asyncio.create_task(status_of(node, signed(NEW, "ES256", f"{len(flood)}"))))
            return publisher.requests > asked

        flood: list[asyncio.Task[int]] = []
        await eventually(asks_again)
        for _ in range(20):
            flood.append(asyncio.create_task(status_of(node, signed(NEW, "ES256", f"{len(flood)}"))))
        assert await status_of(node, signed(P256, "ES256", "old", sub="bob")) == 200
        assert publisher.requests == asked + 1
        publisher.gate.set()
        assert set(await asyncio.gather(*flood)) == {401}
