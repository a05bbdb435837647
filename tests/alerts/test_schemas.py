from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from service.alerts.schemas import AlertIn, CommentIn
from service.timestamps import rfc3339

pytestmark = pytest.mark.unit

LATER = "2999-01-01T00:00:00"
NESTED_8: dict[str, Any] = {"1": [{"3": [{"5": [{"7": ["8 levels"]}]}]}]}


def read(**fields: Any) -> AlertIn:
    return AlertIn.model_validate_json(json.dumps({"title": "It happened", **fields}))


def fault(**fields: Any) -> tuple[str, str]:
    """Return where the only fault of an alert is, and what is said about it."""
    with pytest.raises(ValidationError) as raised:
        read(**fields)
    (error,) = raised.value.errors()
    return "/".join(str(part) for part in error["loc"]), error["msg"]


def test_only_a_title_is_required() -> None:
    alert = read()
    assert (alert.topic, alert.severity, alert.body) == ("default", "info", None)
    assert (alert.attributes, alert.links, alert.recipients) == ({}, [], None)
    assert (alert.dedup_key, alert.expires_at) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "x" * 200},
        {"title": "é" * 200},
        {"title": "حساب 🔔 日本"},
        {"body": "x" * 16_384},
        {"body": "é" * 8_192},
        {"body": ""},
        {"body": "first\r\n\tsecond"},
        {"attributes": {"k": "x" * (16_384 - len('{"k":""}'))}},
        {"attributes": NESTED_8},
        {"attributes": {"": None, "🔑": [True, 1.5, 2**53 - 1, -(2**53) + 1]}},
        {"topic": "a" * 100},
        {"recipients": [f"admin-{number}" for number in range(100)]},
        {"links": [{"title": "t", "url": "https://a.example/?q=1#x"}] * 20},
        {"links": [{"title": "t", "url": "http://a/" + "x" * 1991}]},
        {"dedup_key": "x" * 200},
        {"escalate_after": 604_800},
        {"expires_at": f"{LATER}+00:00"},
        {"expires_at": "9999-12-31T23:59:59.999999Z"},
        {"body": None, "recipients": None, "dedup_key": None, "expires_at": None},
    ],
    ids=lambda fields: ascii(fields)[:40],
)
def test_what_is_within_the_limits_is_taken(fields: dict[str, Any]) -> None:
    alert = read(**fields)
    for name, value in fields.items():
        if name not in ("links", "expires_at"):
            assert getattr(alert, name) == value


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"title": "x" * 201}, "title"),
        ({"title": ""}, "title"),
        ({"title": " \u3000"}, "title"),
        ({"title": None}, "title"),
        ({"title": 5}, "title"),
        ({"body": "x" * 16_385}, "body"),
        ({"body": "é" * 8_193}, "body"),
        ({"body": 5}, "body"),
        ({"attributes": {"k": "x" * (16_385 - len('{"k":""}'))}}, "attributes"),
        ({"attributes": {"é" * 8_192: 1}}, "attributes"),
        ({"attributes": {"0": NESTED_8}}, "attributes"),
        ({"attributes": {"n": float("nan")}}, "attributes"),
        ({"attributes": {"n": [{"m": float("inf")}]}}, "attributes"),
        ({"attributes": {"n": 1e31}}, "attributes"),
        ({"attributes": {"n": -1e-31}}, "attributes"),
        ({"attributes": {"n": 2**53}}, "attributes"),
        ({"attributes": {"n": -(2**53)}}, "attributes"),
        ({"attributes": {"n": 10**400}}, "attributes"),
        ({"attributes": []}, "attributes"),
        ({"attributes": None}, "attributes"),
        ({"topic": "a" * 101}, "topic"),
        ({"topic": ""}, "topic"),
        ({"topic": "A"}, "topic"),
        ({"topic": "a.*"}, "topic"),
        ({"topic": "a..b"}, "topic"),
        ({"topic": "a\n"}, "topic"),
        ({"severity": "fatal"}, "severity"),
        ({"severity": "INFO"}, "severity"),
        ({"recipients": []}, "recipients"),
        ({"recipients": [f"admin-{number}" for number in range(101)]}, "recipients"),
        ({"recipients": ["alice", "alice"]}, "recipients"),
        ({"recipients": "alice"}, "recipients"),
        ({"recipients": ["alice", " bob"]}, "recipients/1"),
        ({"links": [{"title": "t", "url": "https://a"}] * 21}, "links"),
        ({"links": [{"title": "t"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "javascript:alert(1)"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "https://a b"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "https://[::1"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "https://?a"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "https://a\nhttps://b"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "https://a\n"}]}, "links/0/url"),
        ({"links": [{"title": "t", "url": "https://" + "a" * 1993}]}, "links/0/url"),
        ({"links": [{"title": " ", "url": "https://a"}]}, "links/0/title"),
        ({"links": [{"title": "t", "url": "https://a", "rel": "x"}]}, "links/0/rel"),
        ({"dedup_key": ""}, "dedup_key"),
        ({"dedup_key": "x" * 201}, "dedup_key"),
        ({"expires_at": LATER}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": 1e300}, "expires_at"),
        ({"expires_at": 4102444800}, "expires_at"),
        ({"expires_at": "4102444800"}, "expires_at"),
        *(({"escalate_after": value}, "escalate_after") for value in (0, -1, 604_801, "soon", "5", True, 1.5)),
        ({"id": "5"}, "id"),
        ({"seq": 1}, "seq"),
        ({"Title": "twice"}, "Title"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_over_a_limit_is_refused_by_the_name_of_its_field(fields: dict[str, Any], place: str) -> None:
    assert fault(**fields)[0] == place


HOSTILE = ["\0", "\x1b", "\b", "\x7f", "\x9b"]


@pytest.mark.parametrize("character", HOSTILE, ids=ascii)
@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"title": "a{}b"}, "title"),
        ({"body": "a{}b"}, "body"),
        ({"attributes": {"k": "a{}b"}}, "attributes"),
        ({"attributes": {"a{}b": 1}}, "attributes"),
        ({"attributes": {"k": [{"l": ["a{}b"]}]}}, "attributes"),
        ({"recipients": ["a{}b"]}, "recipients/0"),
        ({"dedup_key": "a{}b"}, "dedup_key"),
        ({"links": [{"title": "a{}b", "url": "https://a"}]}, "links/0/title"),
        ({"links": [{"title": "t", "url": "https://a{}b"}]}, "links/0/url"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_control_characters_are_refused(fields: dict[str, Any], place: str, character: str) -> None:
    escaped = json.dumps(character)[1:-1]
    assert fault(**json.loads(json.dumps(fields).replace("{}", escaped)))[0] == place


@pytest.mark.parametrize("character", ["\n", "\r", "\t"], ids=ascii)
def test_one_line_of_text_stays_one_line(character: str) -> None:
    for fields in ({"title": f"a{character}b"}, {"dedup_key": f"a{character}b"}, {"attributes": {f"a{character}b": 1}}):
        assert "U+00" in fault(**fields)[1]
    assert read(body=f"a{character}b", attributes={"k": f"a{character}b"}).body == f"a{character}b"


@pytest.mark.parametrize("field", ["title", "body", "topic", "dedup_key"])
def test_a_lone_surrogate_is_no_text(field: str) -> None:
    with pytest.raises(ValidationError):
        AlertIn.model_validate_json(b'{"title":"a","%b":"a\\ud800b"}' % field.encode())
    with pytest.raises(ValidationError):
        AlertIn.model_validate({"title": "a", field: "a\ud800b"})


def test_times_are_written_in_utc_with_microseconds() -> None:
    assert rfc3339(datetime.fromisoformat("2026-11-21T11:41:07+02:00")) == "2026-11-21T09:41:07.000000Z"


@pytest.mark.parametrize(
    "text", ["", " \n", "a\0b", "ü" * 8193, None, 7, "a\ud800b"], ids=lambda text: ascii(text)[:20]
)
def test_a_comment_that_cannot_be_shown_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        CommentIn.model_validate({"text": text})


def test_a_comment_may_have_lines() -> None:
    assert CommentIn(text="It was the acquirer.\n\tAgain.").text == "It was the acquirer.\n\tAgain."
