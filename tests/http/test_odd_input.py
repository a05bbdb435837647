"""What is not as it should be is stored as it was meant, or refused with what to do; through every entrance."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from service.http.openapi import operations
from service.settings import LimitSettings, Settings
from tests.harness import PATIENCE, PLAIN, ROOT, eventually, serving, token
from tests.http.test_edge import asked, exchange, head_of, port_of
from tests.test_bounds import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node

OTHER_LANGUAGES = (ROOT / "docs" / "other-languages.md").read_text()
EVERYTHING = "alerts:read alerts:write alerts:manage audit:read admin"
SOME_ID = "01a1fd87-65c3-71a6-ba06-3929d3197295"
EVENT = b'{"specversion":"1.0","source":"/s","type":"t","id":"%b","data":%b}'
ENTRANCES: dict[str, tuple[str, str, bytes]] = {
    "single": ("/v1/alerts", "application/json", b"%b"),
    "batch": ("/v1/alerts/batch", "application/json", b"[%b]"),
    "lines": ("/v1/alerts/batch", "application/x-ndjson", b"%b\n"),
    "alertmanager": (
        "/v1/integrations/alertmanager",
        "application/json",
        b'{"alerts":[{"fingerprint":"%b","annotations":%b}]}',
    ),
    "apprise": ("/v1/integrations/apprise", "application/json", b"%b"),
    "event": ("/v1/integrations/cloudevents", "application/cloudevents+json", EVENT),
    "events": ("/v1/integrations/cloudevents", "application/cloudevents-batch+json", b"[" + EVENT + b"]"),
    "binary event": ("/v1/integrations/cloudevents", "application/json", b"%b"),
}
"""Where alerts come in: the address, the media type, and the body around one."""
OTHERS = {
    "comment": ("/v1/alerts/{}/comments", b'{"text":%b}'),
    "revocation": ("/v1/revocations", b'{"subject":%b}'),
}


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("billing", EVERYTHING) as client:
        yield client


def posted(rest: httpx2.Client, entrance: str, alert: bytes, **options: Any) -> tuple[int, str]:
    """Post an alert, and return the status of its answer and the detail of a refusal."""
    path, media, around = ENTRANCES[entrance]
    key = uuid.uuid4().hex
    body = around % ((key.encode(), alert) if around.count(b"%b") > 1 else alert)
    content = options.get("encode", bytes)(options.get("before", b"") + body)
    headers = {"Content-Type": media + options.get("parameters", ""), **options.get("headers", {})}
    if entrance == "binary event":
        headers |= {"ce-specversion": "1.0", "ce-id": key, "ce-source": "/s", "ce-type": "t"}
    answer = rest.post(path, content=content, headers=headers)
    result = answer.json()
    for one in result.get("results", ()):
        result = one
    return result.get("status", 0) if "results" in answer.json() else answer.status_code, result.get("detail", "")


def newest(rest: httpx2.Client) -> Any:
    return rest.get("/v1/alerts?limit=1").json()["alerts"][0]


# Characters.


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_byte_order_mark_before_json_is_ignored(rest: httpx2.Client, entrance: str) -> None:
    assert posted(rest, entrance, b'{"title":"marked"}', before=b"\xef\xbb\xbf")[0] in (200, 201)
    assert "marked" in json.dumps(newest(rest))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_another_encoding_is_named(rest: httpx2.Client, entrance: str, encoding: str) -> None:
    status, detail = posted(rest, entrance, b'{"title":"t"}', encode=lambda body: body.decode().encode(encoding))
    assert (status, detail) == (400, "The body is UTF-16 or UTF-32: send it as UTF-8.")


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_byte_that_is_not_utf_8_is_named(rest: httpx2.Client, entrance: str) -> None:
    status, detail = posted(rest, entrance, b'{"title":"hall\xf6chen"}')
    assert status == 400
    what = "alert" if entrance == "lines" else "body"
    assert f"The {what} is not UTF-8: the byte 0xF6 at offset" in detail


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "marked"])
@pytest.mark.parametrize(
    ("path", "media", "body"),
    [
        ("/v1/alerts", "application/json", b'{"title":"hall\xf6chen"}'),
        ("/v1/alerts/batch", "application/json", b'[{"title":"t"},{"title":"hall\xf6chen"}]'),
        ("/v1/integrations/cloudevents", "text/plain", b"hall\xf6chen"),
    ],
)
def test_the_byte_that_is_not_utf_8_is_where_it_is_said(
    rest: httpx2.Client, path: str, media: str, body: bytes, mark: bytes
) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "Content-Type": media}
    answer = rest.post(path, content=mark + body, headers=headers)
    offset = (mark + body).index(b"\xf6")
    detail = f"The body is not UTF-8: the byte 0xF6 at offset {offset}. Send it as UTF-8."
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


def test_of_a_batch_of_lines_the_byte_is_that_of_its_alert(rest: httpx2.Client) -> None:
    body = b'{"title":"t"}\n{"title":"hall\xf6chen"}\n'
    answer = rest.post("/v1/alerts/batch", content=body, headers={"Content-Type": "application/x-ndjson"})
    first, second = answer.json()["results"]
    detail = "The alert is not UTF-8: the byte 0xF6 at offset 14. Send it as UTF-8."
    assert (first["status"], second["status"], second["detail"]) == (201, 400, detail)


@pytest.mark.parametrize("half", [rb"\ud800", rb"\uDfFf", rb"\ud83d\u0041", rb"\\\udc00", rb"\ud83d\ude00\ude00"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_half_a_surrogate_pair_is_named(rest: httpx2.Client, entrance: str, half: bytes) -> None:
    for alert in (b'{"title":"a%bb"}', b'{"title":"t","body":"%b"}', b'{"title":"t","%b":1}'):
        status, detail = posted(rest, entrance, alert % half)
        assert status == 400
        assert "is one half of a surrogate pair, and no character: send both halves" in detail


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_pair_is_a_character_and_an_escaped_backslash_begins_none(rest: httpx2.Client, entrance: str) -> None:
    assert posted(rest, entrance, rb'{"title":"\ud83d\ude00 \\ud800"}')[0] in (200, 201)
    assert "\U0001f600 \\ud800" in json.dumps(newest(rest), ensure_ascii=False).replace("\\\\", "\\")


@pytest.mark.parametrize("other", OTHERS)
def test_other_bodies_are_read_alike(lenient: Node, rest: httpx2.Client, other: str) -> None:
    path, around = OTHERS[other]
    path = path.format(rest.post("/v1/alerts", json={"title": "t"}).json()["id"])

    def post(value: bytes, parameters: str = "") -> tuple[int, str]:
        headers = {"Content-Type": f"application/json{parameters}"}
        answer = rest.post(path, content=around % value, headers=headers)
        return answer.status_code, answer.json().get("detail", "")

    assert "0xFF" in post(b'"\xff"')[1]
    assert "surrogate" in post(rb'"\ud800"')[1]
    assert post(b'"x"', "; charset=latin-1")[0] == 415


@pytest.mark.parametrize(
    "charset", ["utf-8", "UTF-8", '"utf-8"', "'Utf-8'", "utf8", "us-ascii", 'utf-8; v="a;charset=x"']
)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_utf_8_may_be_announced(rest: httpx2.Client, entrance: str, charset: str) -> None:
    assert posted(rest, entrance, b'{"title":"t"}', parameters=f";Charset={charset}")[0] in (200, 201)


@pytest.mark.parametrize("charset", ["latin-1", "ISO-8859-1", '"windows-1252"', "utf-16", "utf-8; charset=latin-1"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_another_charset_is_refused(rest: httpx2.Client, entrance: str, charset: str) -> None:
    status, detail = posted(rest, entrance, b'{"title":"t"}', parameters=f"; charset={charset}")
    assert status == 415
    assert detail.endswith("is not read: send UTF-8.")


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_body_that_is_compressed_otherwise_than_with_gzip_is_refused(rest: httpx2.Client, entrance: str) -> None:
    status, detail = posted(rest, entrance, b'{"title":"t"}', headers={"Content-Encoding": "br"})
    assert (status, "The only content coding that is read is gzip" in detail) == (415, True)
    assert "may be compressed with gzip; another coding is refused (415 `unsupported_media_type`)" in OTHER_LANGUAGES
    assert posted(rest, entrance, b'{"title":"t"}', headers={"Content-Encoding": "identity"})[0] in (200, 201)


@pytest.mark.parametrize(
    ("name", "value", "status", "shown"),
    [
        ("ce-subject", "m%C3%BCnchen", 201, "t: münchen"),
        ("ce-subject", "münchen".encode(), 201, "t: münchen"),
        (
            "ce-subject",
            b"m\xfcnchen",
            400,
            "The header ce-subject is not UTF-8: it has the byte 0xFC. Send it as UTF-8.",
        ),
        ("ce-id", "a%FF", 400, "The header ce-id is not UTF-8: it has the byte 0xFF. Send it as UTF-8."),
    ],
)
def test_a_header_of_an_event_is_utf_8(
    rest: httpx2.Client, name: str, value: str | bytes, status: int, shown: str
) -> None:
    headers = {b"ce-specversion": b"1.0", b"ce-id": uuid.uuid4().hex.encode(), b"ce-source": b"/s", b"ce-type": b"t"}
    headers[name.encode()] = value if isinstance(value, bytes) else value.encode()
    answer = rest.post("/v1/integrations/cloudevents", headers=headers)
    assert (answer.status_code, answer.json()["title" if status == 201 else "detail"]) == (status, shown)


# Numbers.

BIG = ["9007199254740993", "18446744073709551617", "-9223372036854775809", "1" * 400]


@pytest.mark.parametrize("number", BIG)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_integer_keeps_its_digits_or_is_refused(rest: httpx2.Client, entrance: str, number: str) -> None:
    own = entrance in ("single", "batch", "lines")
    alert = b'{"title":"t","attributes":{"n":%b}}' if own else b'{"title":"t","n":%b}'
    status, detail = posted(rest, entrance, alert % number.encode())
    if own:
        assert (status, "send them as text" in detail) == (422, True)
    else:
        assert status in (200, 201)
        assert number in json.dumps(newest(rest)["attributes"])


@pytest.mark.parametrize("number", ["1e400", "1" * 400 + ".0", "1" * 5000, "NaN", "-Infinity"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_what_no_reader_holds_as_a_number_is_refused_with_what_to_do(
    rest: httpx2.Client, entrance: str, number: str
) -> None:
    own = entrance in ("single", "batch", "lines")
    alert = b'{"title":"t","attributes":{"n":%b}}' if own else b'{"title":"t","n":[%b]}'
    status, detail = posted(rest, entrance, alert % number.encode())
    assert status in (400, 422)
    assert "send" in detail or "is not valid JSON" in detail


# Addresses.


@pytest.mark.parametrize(
    "target",
    ["/v1/alerts?q=%FF", "/v1/alerts?source=a%FF", "/v1/audit/recipients/a%FF", "/v1/events?consumer=%ED%A0%80"],
)
def test_an_address_that_is_not_utf_8_is_refused(rest: httpx2.Client, lenient: Node, target: str) -> None:
    request = asked(f"Authorization: Bearer {token('billing', EVERYTHING)}", path=target)
    answer = exchange(port_of(lenient), request)
    assert head_of(answer)[0] == 400
    assert b"not UTF-8: percent-encode text as UTF-8." in answer
    assert rest.post("/v1/recipients/a%FF/deactivate", json={"unknown": True}).status_code == 400


def test_an_address_that_is_not_encoded_is_refused_with_what_to_do(lenient: Node) -> None:
    answer = exchange(port_of(lenient), b"GET /v1/alerts?q=m\xc3\xbcnchen HTTP/1.1\r\nHost: node\r\n\r\n")
    assert head_of(answer)[0] == 400
    assert b"percent-encode its address as UTF-8." in answer


# Connections.


def half_closed(node: Node, request: bytes, first: bytes = b"") -> bytes:
    """Send a request, read until ``first`` has come, end this side, and return all that comes."""
    with closing(socket.create_connection(("127.0.0.1", port_of(node)), timeout=PATIENCE)) as client:
        client.sendall(request)
        answer = b""
        while first not in answer:
            chunk = client.recv(65536)
            assert chunk, answer
            answer += chunk
        client.shutdown(socket.SHUT_WR)
        ends_at = time.monotonic() + PATIENCE
        while chunk := client.recv(65536):
            assert time.monotonic() < ends_at
            answer += chunk
    return answer


def test_a_client_that_ends_its_side_after_a_request_is_answered(lenient: Node) -> None:
    bearer = f"Authorization: Bearer {token('billing', EVERYTHING)}"
    body = b'{"title":"nc -N"}'
    lines = (bearer, "Content-Type: application/json", f"Content-Length: {len(body)}")
    posting = asked(*lines, method="POST", path="/v1/alerts", close=False) + body
    assert head_of(half_closed(lenient, posting))[0] == 201
    assert head_of(half_closed(lenient, asked(bearer, path="/v1/alerts?limit=1", close=False)))[0] == 200


@pytest.mark.parametrize("first", [b"", b"welcome"])
async def test_a_stream_whose_client_ends_its_side_ends(lenient: Node, first: bytes) -> None:
    bearer = f"Authorization: Bearer {token('dave', EVERYTHING)}"
    request = asked(bearer, "Accept: text/event-stream", path="/v1/events", close=False)
    answer = await asyncio.to_thread(half_closed, lenient, request, first)
    assert not answer or head_of(answer)[0] == 200
    await eventually(lambda: _has_no_stream(lenient, "dave"))


async def test_a_poll_whose_client_ends_its_side_ends(lenient: Node) -> None:
    request = asked(f"Authorization: Bearer {token('dave', EVERYTHING)}", path="/v1/events?wait=60&after=latest")
    begun = time.monotonic()
    assert await asyncio.to_thread(half_closed, lenient, request) == b""
    assert time.monotonic() - begun < PATIENCE


async def _has_no_stream(node: Node, recipient: str) -> bool:
    opened = "SELECT 1 FROM connections WHERE recipient = $1 AND transport = 'sse' AND closed_at IS NULL"
    return not await node.sql(opened, recipient)


# Methods.


@pytest.mark.parametrize("path", [path for path, method, _ in operations(document()) if method == "get"])
def test_each_get_has_a_head_and_says_its_methods(lenient: Node, rest: httpx2.Client, path: str) -> None:
    alert = rest.post("/v1/alerts", json={"title": "t"}).json()["id"]
    path = path.replace("{alert_id}", alert).replace("{name}", "alice").replace("/names", "/names?subject=alice")
    # Over a socket: a client would not show a body behind the headers.
    bearer = f"Authorization: Bearer {token('billing', EVERYTHING)}"
    answer = exchange(port_of(lenient), asked(bearer, method="HEAD", path=path))
    status, headers = head_of(answer)
    assert (status, answer.partition(b"\r\n\r\n")[2]) == (200, b"")
    assert headers["content-type"]
    allowed = exchange(port_of(lenient), asked(method="OPTIONS", path=path))
    assert head_of(allowed)[0] == 200
    assert {"GET", "HEAD", "OPTIONS"} <= {*head_of(allowed)[1]["allow"].split(", ")}


async def test_the_head_of_a_stream_opens_none_and_that_of_a_poll_counts_nothing_as_sent(lenient: Node) -> None:
    bearer = f"Authorization: Bearer {token('carol', EVERYTHING)}"
    for path, accept in (("/v1/events", "text/event-stream"), ("/v1/events?wait=0", "*/*"), ("/v1/dashboard", "*/*")):
        answer = exchange(port_of(lenient), asked(bearer, f"Accept: {accept}", method="HEAD", path=path))
        assert head_of(answer)[0] == 200
    assert await lenient.sql("SELECT 1 FROM connections WHERE recipient = 'carol'") == []


def test_the_head_of_what_is_not_there_is_that_of_its_get(rest: httpx2.Client) -> None:
    assert rest.head(f"/v1/alerts/{SOME_ID}").status_code == 404
    assert rest.head("/v1/alerts/batch").status_code == 405
    assert rest.head("/v1/alerts", headers={"Authorization": ""}).status_code == 401
    assert rest.options("/v1/nothing").status_code == 404


def test_whoever_wants_to_deliver_events_is_permitted_to(shared_url: str) -> None:
    limits = LimitSettings(write_limit="10/second; 120/minute")
    with serving(shared_url, Settings(limits=limits)) as node, httpx2.Client(base_url=node.base, **PLAIN) as anonymous:
        asks = {"WebHook-Request-Origin": "eventgrid.example", "WebHook-Request-Rate": "1000"}
        answer = anonymous.options("/v1/integrations/cloudevents", headers=asks)
        assert answer.status_code == 200
        assert answer.headers["webhook-allowed-origin"] == "eventgrid.example"
        assert answer.headers["webhook-allowed-rate"] == "120"
        assert answer.headers["allow"] == "POST, OPTIONS"
        plain = anonymous.options("/v1/integrations/cloudevents")
        assert (plain.status_code, "webhook-allowed-origin" in plain.headers) == (200, False)


# Limits.

LIMITS = [
    ({"title": "x" * 201}, "/title: String should have at most 200 characters."),
    ({"dedup_key": "x" * 201}, "/dedup_key: String should have at most 200 characters."),
    (
        {"links": [{"title": "x" * 201, "url": "http://x"}]},
        "/links/0/title: String should have at most 200 characters.",
    ),
    (
        {"links": [{"title": "x", "url": "http://x/" + "x" * 2000}]},
        "/links/0/url: String should have at most 2000 characters.",
    ),
    (
        {"links": [{"title": "x", "url": "http://x"}] * 21},
        "/links: List should have at most 20 items after validation, not 21.",
    ),
    (
        {"recipients": [str(number) for number in range(101)]},
        "/recipients: Value should have at most 100 items after validation, not 101.",
    ),
    ({"escalate_after": 604_801}, "/escalate_after: Input should be less than or equal to 604800."),
    ({"escalate_after": 10**30}, "/escalate_after: Input should be less than or equal to 604800."),
]


@pytest.mark.parametrize(("fields", "detail"), LIMITS, ids=lambda value: str(value)[:30])
def test_a_limit_is_said_with_its_unit(rest: httpx2.Client, fields: dict[str, Any], detail: str) -> None:
    answer = rest.post("/v1/alerts", json={"title": "t", **fields})
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/v1/alerts?q=" + "a" * 201, "/query/q: String should have at most 200 characters."),
        ("/v1/alerts?limit=201", "/query/limit: Input should be less than or equal to 200."),
        ("/v1/alerts?limit=" + "9" * 30, "/query/limit: Input should be less than or equal to 200."),
        ("/v1/events?wait=61", "/query/wait: Input should be less than or equal to 60."),
    ],
)
def test_a_limit_of_a_parameter_is_said_with_its_unit(rest: httpx2.Client, target: str, detail: str) -> None:
    answer = rest.get(target)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


def test_whoever_sends_far_too_much_gets_the_answer(lenient: Node) -> None:
    # http.client reads only after it has sent all, as requests does, and with it Apprise.
    for size in (300_000, 6_000_000):
        connection = http.client.HTTPConnection("127.0.0.1", port_of(lenient), timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {token('billing', EVERYTHING)}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/alerts", json.dumps({"title": "t", "body": "x" * size}), headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "request_too_large")
        connection.close()


# Topics.


@pytest.mark.parametrize("topic", ["zahlungen.münchen", "支付", "платежи", "e\u0301", "a" * 101, "***"])
def test_a_topic_that_cannot_be_one_is_refused_and_not_another(rest: httpx2.Client, topic: str) -> None:
    said = "dot-separated parts of a-z, 0-9, _ and -"
    value = json.dumps(topic).encode()
    for entrance in ("single", "batch", "lines", "apprise"):
        status, detail = posted(rest, entrance, b'{"title":"t","topic":%b}' % value)
        assert (status, said in detail) == (422, True), entrance
    event = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "/s", "type": "t", "topic": topic}
    media = {"Content-Type": "application/cloudevents+json"}
    answer = rest.post("/v1/integrations/cloudevents", content=json.dumps(event), headers=media)
    assert (answer.status_code, said in answer.json()["detail"]) == (422, True)
    mark = uuid.uuid4().hex
    alerts = [{"labels": {"topic": topic, "alertname": "lost"}}, {"labels": {"alertname": mark}}]
    answer = rest.post("/v1/integrations/alertmanager", json={"alerts": alerts})
    assert (answer.status_code, said in answer.json()["detail"]) == (422, True)
    assert "1 alerts are refused; 1 others are stored" in answer.json()["detail"]
    assert newest(rest)["title"] == mark


def test_a_handshake_that_lost_its_upgrade_on_the_way_is_answered_with_what_is_missing(rest: httpx2.Client) -> None:
    answer = rest.get("/v1/ws", headers={"Sec-WebSocket-Version": "13"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "a proxy on the way must pass Upgrade and Connection on" in answer.json()["detail"]
