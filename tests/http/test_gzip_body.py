"""Bodies that are announced as gzip are decompressed on every POST, within the limits."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import uuid
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from service.auth.principal import Scope
from service.errors import MalformedRequest, RequestTooLarge
from service.http.gzip_body import MEMBERS_MAX, PIECE_BYTES, GzipBody
from service.http.request_body import read_body
from service.settings import ServerSettings
from tests.harness import PATIENCE
from tests.http.requests import request
from tests.http.test_odd_input import ENTRANCES, posted
from tests.test_contracts import OPERATIONS, call, examples

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node

GZIP = {"Content-Encoding": "gzip"}
TEXT = bytes(range(256)) * 1000
LIMIT = 1024


async def read(*chunks: bytes, limit: int = LIMIT, coding: str = "gzip") -> bytes:
    settings = ServerSettings(request_max_bytes=limit, request_timeout_seconds=PATIENCE)
    return await read_body(request(settings, headers={"Content-Encoding": coding}, body=chunks))


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.unit
@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
async def test_a_body_is_decompressed_however_it_arrives(size: int) -> None:
    body = gzip.compress(TEXT)
    assert await read(*in_pieces(body, size), limit=len(TEXT)) == TEXT
    assert (
        await read(*in_pieces(body + gzip.compress(b"more") + gzip.compress(b""), size), limit=10**6) == TEXT + b"more"
    )


@pytest.mark.unit
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
async def test_a_coding_may_be_named_so(coding: str) -> None:
    assert await read(gzip.compress(b"text"), coding=coding) == b"text"


@pytest.mark.unit
async def test_a_body_that_is_not_there_is_empty() -> None:
    assert await read(b"") == b""


@pytest.mark.unit
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        gzip.compress(TEXT)[:-1],
        gzip.compress(TEXT)[:100],
        gzip.compress(b"text")[:5],
        gzip.compress(b"text") + b"garbage",
        gzip.compress(b"text") + b"\0",
        gzip.compress(b"text") + gzip.compress(b"more")[:-1],
        gzip.compress(b"text")[:-8] + b"\0" * 8,
        zlib.compress(b"text"),
        gzip.compress(b"") * (MEMBERS_MAX + 1),
    ],
    ids=range(10),
)
async def test_what_is_not_gzip_is_refused(body: bytes) -> None:
    for chunks in ([body], in_pieces(body, 3)):
        with pytest.raises(MalformedRequest, match="gzip"):
            await read(*chunks, limit=10**6)


@pytest.mark.unit
async def test_the_limit_holds_before_and_after() -> None:
    assert await read(gzip.compress(b"x" * LIMIT)) == b"x" * LIMIT
    with pytest.raises(RequestTooLarge, match=str(LIMIT)):
        await read(gzip.compress(b"x" * (LIMIT + 1)))
    with pytest.raises(RequestTooLarge, match=str(LIMIT)):
        await read(*[gzip.compress(b"")] * (LIMIT // 20 + 1))  # which become nothing


@pytest.mark.unit
async def test_a_bomb_makes_no_more_than_a_piece_beyond_the_limit() -> None:
    bomb = gzip.compress(b"\0" * 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            await read(bomb, limit=200_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert max(map(len, GzipBody().pieces(bomb))) == PIECE_BYTES


# Over HTTP.


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("billing", " ".join(Scope)) as client:
        yield client


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_every_entrance_of_alerts_reads_gzip(rest: httpx2.Client, entrance: str) -> None:
    for coding in ("gzip", "x-gzip", "identity, gzip", "GZIP ,"):
        title = uuid.uuid4().hex
        alert = json.dumps({"title": title}).encode()
        status, detail = posted(rest, entrance, alert, encode=gzip.compress, headers={"Content-Encoding": coding})
        assert status in (200, 201), detail
        assert title in json.dumps(rest.get("/v1/alerts?limit=1").json()["alerts"][0])


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if "requestBody" in operation])
def test_every_operation_reads_gzip(rest: httpx2.Client, name: str) -> None:
    [content] = OPERATIONS[name]["requestBody"]["content"].values()
    body = json.dumps(examples(content)[0]).encode()
    plain = call(rest, name, content=body)
    compressed = call(rest, name, content=gzip.compress(body), headers=GZIP)
    assert compressed.status_code in {plain.status_code, 200}  # where the first changed what the second finds


@pytest.mark.parametrize(
    "codings",
    [["deflate"], ["br"], ["zstd"], ["compress"], ["gzip, gzip"], ["gzip", "gzip"], ["gzip, br"], ["gzip; q=1"]],
)
@pytest.mark.parametrize("path", ["/v1/alerts", "/v1/alerts/batch", "/v1/integrations/apprise"])
def test_another_coding_is_refused_with_those_that_are_read(rest: httpx2.Client, path: str, codings: list[str]) -> None:
    headers = [("Content-Type", "application/json"), *(("Content-Encoding", coding) for coding in codings)]
    answer = rest.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "gzip, identity"


@pytest.mark.parametrize("codings", [[], [""], ["identity"], ["identity, identity"], ["", ","], ["Identity", ""]])
def test_a_body_without_a_coding_is_read_as_it_is(rest: httpx2.Client, codings: list[str]) -> None:
    headers = [("Content-Type", "application/json"), *(("Content-Encoding", coding) for coding in codings)]
    assert rest.post("/v1/alerts", content=b'{"title": "t"}', headers=headers).status_code == 201


def test_several_headers_are_one_list(rest: httpx2.Client) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    assert rest.post("/v1/alerts", content=gzip.compress(b'{"title": "t"}'), headers=headers).status_code == 201


@pytest.mark.parametrize("entrance", [name for name in ENTRANCES if name != "binary event"])
def test_gzip_that_is_not_announced_is_named(rest: httpx2.Client, entrance: str) -> None:
    status, detail = posted(rest, entrance, b'{"title":"t"}', encode=gzip.compress)
    assert (status, "Content-Encoding: gzip" in detail) == (400, True)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_is_announced_and_is_not_gzip_is_refused(rest: httpx2.Client, entrance: str) -> None:
    before = rest.get("/v1/alerts").json()["head"]
    encodings: dict[str, Any] = {"plain": bytes, "truncated": lambda body: gzip.compress(body)[:-3]}
    for encode in encodings.values():
        status, detail = posted(rest, entrance, b'{"title":"t"}', encode=encode, headers=GZIP)
        assert (status, "gzip" in detail) == (400, True)
    assert rest.get("/v1/alerts").json()["head"] == before


def test_a_bomb_is_refused(rest: httpx2.Client) -> None:
    bomb = gzip.compress(b'{"title": "' + b"x" * 50_000_000)
    for path in ("/v1/alerts", "/v1/alerts/batch", "/v1/integrations/alertmanager"):
        answer = rest.post(path, content=bomb, headers={**GZIP, "Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


def test_a_large_batch_of_many_members_is_read(rest: httpx2.Client) -> None:
    lines = [json.dumps({"title": f"alert {number}"}).encode() + b"\n" for number in range(500)]
    body = b"".join(map(gzip.compress, lines))
    answer = rest.post("/v1/alerts/batch", content=body, headers={**GZIP, "Content-Type": "application/x-ndjson"})
    assert [result["status"] for result in answer.json()["results"]] == [201] * 500
