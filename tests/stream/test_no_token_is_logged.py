from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.harness import PLAIN, READ, WEBSOCKET, WRITE, Process, token

if TYPE_CHECKING:
    from collections.abc import Callable


async def converse(process: Process, request: str) -> None:
    """Send bytes to a node, and read until it hangs up or says nothing more."""
    address = urlsplit(process.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request.encode("latin-1"))
    writer.write_eof()
    await reader.read(-1)
    writer.close()


async def open_and_close(address: str, **options: object) -> None:
    async with connect(address, **{**WEBSOCKET, **options}) as stream:
        with contextlib.suppress(ConnectionClosed):
            await stream.recv()


UPGRADE = (
    "GET /v1/ws?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
)


def encoded(text: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in text)


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_token_reaches_the_log_whatever_way_it_comes(start: Callable[..., Process], log_format: str) -> None:
    process = start(TOCSIN_LOG_FORMAT=log_format, TOCSIN_LOG_LEVEL="debug")
    tokens: list[str] = []

    def fresh(subject: str = "alice", scope: str = f"{READ} {WRITE}", ttl_seconds: float = 600) -> str:
        tokens.append(token(subject, scope, ttl_seconds=ttl_seconds, jti=f"jti {len(tokens)}"))
        return tokens[-1]

    def broken() -> str:
        return fresh()[:-4] + "AAAA"

    # The stream: each transport, with a token that is good and with ones that are not.
    for make in (fresh, broken, lambda: fresh(ttl_seconds=-1), lambda: fresh(scope="audit:read")):
        await open_and_close(process.ws, additional_headers={"Authorization": f"Bearer {make()}"})
        await open_and_close(process.ws, subprotocols=["tocsin.v1", f"bearer.{make()}"])
        await open_and_close(f"{process.ws}?token={make()}")
        await open_and_close(f"{process.ws}?after=1&token={make()}&topic=a")
    for name in ("%74oken", "t%6Fken", "to%6ben", "tok%65n", "toke%6E", encoded("token"), "TOKEN", "access_token"):
        await open_and_close(f"{process.ws}?{name}={fresh()}")
        await open_and_close(f"{process.ws}?x=1&{name}=%65{fresh()[1:]}")
        await open_and_close(f"{process.ws}?{name}={fresh().replace('.', '%2E')}")
        await open_and_close(f"{process.ws}?{name}={encoded(fresh())}")
    async with await process.live() as stream:
        await stream.send({"type": "authenticate", "token": fresh()})
        await stream.next_of("authenticated")
        await stream.send({"type": "authenticate", "token": broken()})
        await stream.next_of("error")
        await stream.send({"type": "authenticate", "token": fresh(), "more": 1})
        await stream.connection.send(json.dumps({"type": fresh()}))
        await stream.closed()

    # REST.
    async with httpx2.AsyncClient(base_url=process.base, **PLAIN) as client:
        for make in (fresh, broken):
            await client.get("/v1/alerts", headers={"Authorization": f"Bearer {make()}"})
            await client.post("/v1/alerts", headers={"Authorization": f"bearer {make()}"}, json={"title": "t"})
            await client.get(f"/v1/alerts?token={make()}&cursor={make()}")
            await client.get(f"/v1/alerts/{make()}")
            await client.get(f"/{make()}?access_token={make()}")
            await client.get("/v1/alerts", headers={"Authorization": make(), "User-Agent": make(), "X-Token": make()})
            await client.post("/v1/alerts", json={"title": "t"}, headers={"Idempotency-Key": make()})

    # What is no request.
    await converse(process, f"GET /v1/alerts?token={fresh()}\xff HTTP/1.1\r\nHost: x\r\n\r\n")
    await converse(process, f"GET /v1/ws?token={fresh()} HTTP/9.9\r\nAuthorization: Bearer {fresh()}\r\n\r\n")
    await converse(process, f"Bearer {fresh()}\r\n\r\n")
    await converse(process, f"GET / HTTP/1.1\r\nAuthorization Bearer {fresh()}\r\n\r\n")
    await converse(process, UPGRADE.format(query=f"token={fresh()}&x=\xff", more=""))
    await converse(process, UPGRADE.format(query=f"token={fresh()}", more="").replace("Version: 13", "Version: 1"))
    await converse(process, UPGRADE.format(query=f"token={fresh()}&x={'x' * 9000}", more=""))
    await converse(process, UPGRADE.format(query="", more=f"Authorization: Bearer {fresh()}\xff\r\n"))
    await converse(process, UPGRADE.format(query=f"token={fresh()}", more="").replace("/v1/ws", f"/v1/{fresh()}"))

    assert process.stop() == 0
    assert process.process.stdout is not None
    output = process.log.read_text() + process.process.stdout.read()
    assert "/v1/ws" in output
    assert "[redacted]" in output
    for one in tokens:
        _, claims, signature = one.split(".")
        for part in (claims[8:], signature[:-4], signature[8:], encoded(one)[60:]):
            assert part not in output, [line for line in output.splitlines() if part in line]
    if log_format == "json":
        assert all(json.loads(line) for line in process.log.read_text().splitlines())
    assert not [row for row in await stored(process) if any(one in row for one in tokens)]


async def stored(process: Process) -> list[str]:
    """Return every row that the node wrote about its connections."""
    rows = await process.sql("SELECT row_to_json(c)::text FROM connections c")
    rows += await process.sql("SELECT row_to_json(r)::text FROM handshake_rejections r")
    return [row[0] for row in rows]
