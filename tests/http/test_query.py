"""Query parameters and members of bodies that do not exist are refused, on every operation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from service.auth.principal import Scope
from service.http.openapi import operations
from tests.alerts.examples import stored
from tests.contract import document
from tests.harness import PLAIN
from tests.reference import OPENAPI
from tests.test_contracts import OPERATIONS, call, contents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Node

SOME_ID = str(stored().id)
WITH_TOKEN = [name for name, operation in OPERATIONS.items() if "security" in operation]
FREE_FORM = {"CloudEvent", "AppriseNotification", "AlertmanagerNotification"}
"""Bodies of other systems, whose further members become attributes of the alert."""


@pytest.fixture(scope="module")
def rest(lenient: Node) -> Iterator[httpx2.Client]:
    with lenient.rest("billing", " ".join(Scope)) as client:
        yield client


def refused(answer: httpx2.Response) -> tuple[str, list[dict[str, str]]]:
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    return answer.json()["detail"], answer.json()["errors"]


@pytest.mark.parametrize("name", WITH_TOKEN)
def test_an_operation_refuses_a_parameter_that_it_does_not_have(rest: httpx2.Client, name: str) -> None:
    detail, errors = refused(call(rest, name, params={"dry_run": "true"}))
    assert detail.startswith("/query/dry_run: there is no such parameter")
    assert [fault["pointer"] for fault in errors] == ["/query/dry_run"]
    declared = [one["name"] for one in OPERATIONS[name].get("parameters", ()) if one["in"] == "query"]
    assert detail.endswith(f"The parameters are: {', '.join(declared)}." if declared else "It takes no parameters.")


def test_the_operations_without_a_token_are_those_tried_below() -> None:
    paths = {path for path, _, operation in operations(document(OPENAPI)) if "security" not in operation}
    assert paths == {"/healthz", "/readyz", "/metrics"}


def test_nothing_is_stored_where_a_parameter_is_refused(rest: httpx2.Client) -> None:
    before = rest.get("/v1/alerts").json()["head"]
    refused(rest.post("/v1/alerts?dry_run=true", json={"title": "t"}))
    refused(rest.post("/v1/alerts/batch?dry_run=true", json=[{"title": "t"}]))
    assert rest.get("/v1/alerts").json()["head"] == before


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("dedupkey=a", "there is no such parameter; did you mean dedup_key"),
        ("dedup-key=a", "there is no such parameter; did you mean dedup_key"),
        ("topics=a", "there is no such parameter; did you mean topic"),
        ("Topic=a", "there is no such parameter; did you mean topic"),
        ("state=open", "there is no such parameter; did you mean status"),
        ("id=1", "there is no such parameter; did you mean alert_id"),
        ("page=2", "pages have no numbers: send the `next` of one answer as `cursor` for the next"),
        ("offset=50", "pages have no numbers: send the `next` of one answer as `cursor` for the next"),
        ("token=a", "there is no such parameter here: send the token in the header Authorization"),
        ("wait=5", "there is no such parameter here: it is one of GET /v1/events"),
        ("xyz=1", "there is no such parameter"),
        ("a/b=1", "there is no such parameter"),
        ("=1", "there is no such parameter"),
        ("limit=1&limit=1", "this takes one value"),
    ],
)
def test_a_refusal_names_the_near_one(rest: httpx2.Client, query: str, detail: str) -> None:
    text, errors = refused(rest.get(f"/v1/alerts?{query}"))
    name = query.partition("=")[0]
    assert errors == [{"pointer": f"/query/{name.replace('/', '~1')}", "detail": detail}]
    assert text.startswith(f"/query/{name}: {detail}. The parameters are: topic, severity, min_severity, ")


def test_what_cannot_be_printed_of_a_name_is_shown_escaped(rest: httpx2.Client) -> None:
    text, [fault] = refused(rest.get("/v1/alerts?a%00%0A=1"))
    assert text.startswith(r"/query/a\x00\n: there is no such parameter")
    assert fault["pointer"] == r"/query/a\x00\n"


def test_text_that_is_not_utf_8_names_its_parameter(lenient: Node) -> None:
    for query, part in (("q=a&source=%FF", "parameter source"), ("q=a&%FF=1", "name of a parameter")):
        answer = httpx2.get(f"{lenient.base}/v1/alerts?{query}", **PLAIN)
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"The {part} has the byte %FF, which is not UTF-8")


def test_a_refusal_repeats_no_more_than_so_much_of_what_was_sent(rest: httpx2.Client) -> None:
    _, errors = refused(rest.get("/v1/alerts", params={f"{'x' * 500}{number}": 1 for number in range(30)}))
    assert all(len(fault["pointer"]) < 220 for fault in errors)
    assert len(refused(rest.get("/v1/alerts", params={f"x{number}": 1 for number in range(30)}))[1]) == 20


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_each_method_of_a_path_refuses(rest: httpx2.Client, method: str) -> None:
    answer = rest.request(method, "/v1/alerts?nothing=1", json={"title": "t"} if method == "POST" else None)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("severity=high", "Input should be 'info', 'warning', 'error' or 'critical'"),
        ("min_severity=high", "Input should be 'info', 'warning', 'error' or 'critical'"),
        ("status=new", "Input should be 'open', 'acknowledged', 'resolved' or 'expired'"),
        ("topic=a,B", "'B' is no topic, and no pattern such as payments.* or *"),
        ("topic=a,", "'' is no topic, and no pattern such as payments.* or *"),
        ("topic=a,%20b", "' b' is no topic, and no pattern such as payments.* or *"),
        ("topic=", "'' is no topic, and no pattern such as payments.* or *"),
        ("topic=" + "a," * 100 + "a", "this takes at most 100 topics or patterns"),
        ("cursor=2", "send the `next` of the page before, as it was"),
        ("limit=0", "Input should be greater than or equal to 1"),
        ("since=yesterday", "must be a time such as 2026-11-21T09:41:07Z (RFC 3339)"),
        ("attributes=a", 'it takes a JSON object such as {"rate": 1}'),
        ("alert_id=1", "Input should be a valid UUID"),
        ("dedup_key=", "must not be blank"),
    ],
)
def test_a_value_that_is_not_valid_names_the_parameter_and_what_is_allowed(
    rest: httpx2.Client, query: str, fault: str
) -> None:
    _, [found] = refused(rest.get(f"/v1/alerts?{query}"))
    assert re.fullmatch(rf"/query/{query.partition('=')[0]}(/0)?", found["pointer"])
    assert fault in found["detail"]


def test_who_may_not_ask_learns_that_first(lenient: Node) -> None:
    with httpx2.Client(base_url=lenient.base, **PLAIN) as nobody:
        assert nobody.get("/v1/alerts?x=1").status_code == 401
    with lenient.rest(scope="") as poor:
        assert poor.get("/v1/alerts?x=1").status_code == 403


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/openapi.json", "/console/client.js"])
def test_probes_and_pages_take_any_query(rest: httpx2.Client, path: str) -> None:
    for query in ("x=1", "x=%FF", "%"):
        assert rest.get(f"{path}?{query}").status_code == 200
    assert rest.head(f"{path}?x=1").status_code == 200


def test_metrics_and_preflights(rest: httpx2.Client) -> None:
    assert "/query/name[]" in refused(rest.get("/metrics?name[]=a"))[0]
    assert rest.options("/v1/alerts?x=1").status_code == 200
    assert rest.options("/v1/integrations/cloudevents?x=1").status_code == 200


# Bodies.


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if "requestBody" in operation])
def test_a_member_of_a_body_that_does_not_exist_is_refused_or_kept(name: str) -> None:
    components = document(OPENAPI)["components"]["schemas"]
    for content in contents(OPERATIONS[name]["requestBody"]).values():
        schema: dict[str, Any] = content["schema"]
        schema = schema.get("items", schema)
        if "$ref" not in schema:
            assert schema["type"] == "string"  # NDJSON
            continue
        model = schema["$ref"].rpartition("/")[2]
        assert (components[model].get("unevaluatedProperties") is False) != (model in FREE_FORM), model


@pytest.mark.parametrize(
    ("path", "body", "pointer", "detail"),
    [
        ("/v1/alerts", {"titel": "a"}, "/titel", "there is no such member; did you mean title"),
        ("/v1/alerts", {"title": "a", "message": "b"}, "/message", "there is no such member; did you mean body"),
        ("/v1/alerts", {"title": "a", "xyz": 1}, "/xyz", "there is no such member"),
        (
            "/v1/alerts",
            {"title": "a", "links": [{"title": "t", "url": "https://x", "ulr": 1}]},
            "/links/0/ulr",
            "there is no such member; did you mean url",
        ),
        ("/v1/alerts/resolve", {"key": "a"}, "/key", "there is no such member; did you mean dedup_key"),
        ("/v1/revocations", {"subjects": "a"}, "/subjects", "there is no such member; did you mean subject"),
        ("/v1/alerts", [], "", "must be a JSON object"),
        ("/v1/alerts", {"title": "a", "links": [5]}, "/links/0", "must be a JSON object"),
        ("/v1/alerts", {"title": "a", "attributes": [5]}, "/attributes", "must be a JSON object"),
    ],
)
def test_a_refusal_of_a_body_says_what_may_be_meant(
    rest: httpx2.Client, path: str, body: Any, pointer: str, detail: str
) -> None:
    text, errors = refused(rest.post(path, json=body))
    assert {"pointer": pointer, "detail": detail} in errors
    assert text.startswith("/" if pointer else "The body: ")


@pytest.mark.parametrize("action", ["acknowledge", "resolve", "reopen"])
def test_an_action_takes_no_body(rest: httpx2.Client, action: str) -> None:
    posted = rest.post("/v1/alerts", json={"title": "t"}).json()
    path = f"/v1/alerts/{posted['id']}/{action}"
    answer = rest.post(path, json={"comment": "fixed"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert rest.get(f"/v1/alerts/{posted['id']}").json()["status"] == "open"
    bodies: list[dict[str, Any]] = [{}, {"json": {}}, {"content": b""}, {"content": b" { \r\n\t} "}]
    for body in bodies:
        rest.post(f"/v1/alerts/{posted['id']}/acknowledge")
        assert rest.post(path, **body).status_code == 200


# Filters.


def test_the_list_is_filtered_by_dedup_key_and_id(rest: httpx2.Client) -> None:
    for key in ("backup", "restore", "other"):
        rest.post("/v1/alerts", json={"title": key, "topic": "filters", "dedup_key": key})
    found = rest.get("/v1/alerts", params={"topic": "filters"}).json()["alerts"]
    ids = {alert["title"]: alert["id"] for alert in found}

    def titles(**query: Any) -> list[str]:
        return [alert["title"] for alert in rest.get("/v1/alerts", params=query).json()["alerts"]]

    assert titles(topic="filters,other.*", dedup_key="backup") == ["backup"]
    assert titles(topic="filters", dedup_key=["backup", "restore"]) == ["restore", "backup"]
    assert titles(topic="filters", dedup_key="nothing") == []
    assert titles(alert_id=ids["other"]) == ["other"]
    assert titles(alert_id=[ids["other"], ids["backup"]], dedup_key="backup") == ["backup"]
    assert titles(alert_id=SOME_ID) == []
