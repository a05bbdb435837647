from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth.principal import Scope
from service.http.repeated_members import first_repetition

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.harness import Node

BATCH = "/v1/alerts/batch"
TWICE = "the object has this member twice"


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("billing", " ".join(Scope)) as client:
        yield client


texts = st.text('":\\\\ :ab{},\u00e4\u2028', max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-9e9, 9e9) | texts,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(texts, some, max_size=3),
    max_leaves=10,
)
styles = st.sampled_from(
    [{}, {"separators": (",", ":")}, {"indent": 1, "separators": (",", "\t:\n")}, {"ensure_ascii": False}]
)


@pytest.mark.unit
@given(values, styles)
def test_json_whose_members_differ_has_no_repetition(value: Any, style: dict[str, Any]) -> None:
    assert first_repetition(json.dumps(value, **style).encode()) is None


@pytest.mark.unit
@given(values, texts, values, values, styles)
def test_a_repetition_is_found_wherever_it_is(
    around: Any, name: str, first: Any, second: Any, style: dict[str, Any]
) -> None:
    written, one, two, beside = (json.dumps(value, **style) for value in (name, first, second, around))
    for colon in (":", " : ", "\n:"):
        repeated = f"{{{written}{colon}{one}, {written}{colon}{two}}}"
        assert first_repetition(repeated.encode()) == (name,)
        assert first_repetition(f'[{beside}, {{"a:b": [{repeated}]}}]'.encode()) == (1, "a:b", 0, name)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (r'{"a": 1, "\\u0061": "\\u003a"}', ("a",)),
        (r'{"a": "\\u003a", "b": 1, "b": 2}', ("b",)),
        (r'{"a": "\\u003A:", "b": "\\":"}', None),
        ('{"a": 1, "A": 2}', None),
        ('{"a": %s, "a": 1}' % ("9" * 5000), ("a",)),
        ('{"a": NaN, "a": 1}', ("a",)),
        ('{"": 1, "": 2}', ("",)),
    ],
)
def test_escapes_and_numbers_do_not_hide_a_repetition(text: str, place: tuple[str, ...] | None) -> None:
    assert first_repetition(text.replace("\\\\", "\\").encode()) == place


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/alerts", '{"title":"a","topic":"x","topic":"y"}', "/topic"),
        ("/v1/alerts", '{"title":"a: b","attributes":{"a/b":1,"a/b":1}}', "/attributes/a~1b"),
        ("/v1/alerts", '{"title":"a","links":[{"title":"t","url":"https://x","url":"https://y"}]}', "/links/0/url"),
        (BATCH, '[{"title":"a","severity":"critical","severity":"info"}]', "/severity"),
        ("/v1/alerts/resolve", '{"dedup_key":"a","topic":"x","topic":"y"}', "/topic"),
        ("/v1/revocations", '{"subject":"nobody1","subject":"nobody2"}', "/subject"),
        (f"/v1/alerts/{uuid.UUID(int=7)}/comments", '{"text":"a","text":"a"}', "/text"),
        ("/v1/events/seen", '{"alerts":[],"alerts":[]}', "/alerts"),
        ("/v1/recipients/zoe/deactivate", '{"reason":"a","reason":"b"}', "/reason"),
    ],
)
def test_a_member_that_is_there_twice_is_refused(rest: httpx2.Client, path: str, body: str, pointer: str) -> None:
    answer = rest.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    [fault] = (problem["results"][0] if "results" in problem else problem)["errors"]
    assert fault == {"pointer": pointer, "detail": TWICE}


@pytest.mark.parametrize("as_lines", [False, True], ids=["array", "lines"])
def test_an_alert_of_a_batch_with_a_member_twice_is_refused_alone(
    rest: httpx2.Client,
    as_lines: bool,  # noqa: FBT001
) -> None:
    alerts = [
        '{"title":"a : b","attributes":{"n":18446744073709551616}}',
        '{"title":"a","topic":"x","attributes":{"a":1,"a":2},"topic":"y"}',
        '{"title":"\\":"}',
    ]
    body = "\n".join(alerts) if as_lines else f"[{','.join(alerts)}]"
    media = "application/x-ndjson" if as_lines else "application/json"
    results = rest.post(BATCH, content=body, headers={"Content-Type": media}).json()["results"]
    assert [one["status"] for one in results] == [422, 422, 201]
    assert results[1]["errors"] == [{"pointer": "/topic", "detail": TWICE}]


def test_a_filter_with_a_member_twice_is_refused(rest: httpx2.Client) -> None:
    answer = rest.get("/v1/alerts", params={"attributes": '{"a":1,"a":2}'})
    assert answer.json()["errors"] == [{"pointer": "/query/attributes", "detail": "the object has 'a' twice"}]


def test_webhooks_of_other_systems_are_read_as_their_own_parsers_do(rest: httpx2.Client) -> None:
    body = '{"title":"a","title":"b","message":"m"}'
    posted = rest.post("/v1/integrations/apprise", content=body, headers={"Content-Type": "application/json"})
    assert (posted.status_code, posted.json()["title"]) == (201, "b")
