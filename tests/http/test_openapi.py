"""The rules of the OpenAPI document that make generated clients compile, in every language."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

import pytest

from service.alerts.alert_record import Status
from service.alerts.lifecycle import EventKind
from service.errors import all_refusals
from service.http.openapi import operations
from service.http.openapi_schemas import OTHER_CONTENT, simplify
from service.severity import SEVERITIES
from tests.contract import document
from tests.reference import OPENAPI

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit

DOCUMENT = document(OPENAPI)
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {f"{method.upper()} {path}": operation for path, method, operation in operations(DOCUMENT)}
ACTIONS = ("acknowledge", "resolve", "reopen", "deactivate", "reactivate")
NULL = {"type": "null"}
DATA = ("example", "examples")


def nodes(node: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of the document that is not an example, with where it stands."""
    if isinstance(node, dict):
        yield where, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        if name not in DATA:
            yield from nodes(child, f"{where}/{name}")


NODES = dict(nodes(DOCUMENT))
SCHEMA_NODES = {where: node for where, node in NODES.items() if not where.endswith("/properties")}
CONTENTS = {where: node for where, node in NODES.items() if "content" in node and "/properties" not in where}


def identifier(name: str) -> str:
    """Return a name as the generators that keep the least of it write it."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or the one that it refers to."""
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def test_no_schema_has_a_list_of_types() -> None:
    assert [where for where, node in SCHEMA_NODES.items() if isinstance(node.get("type"), list)] == []


def test_a_choice_is_one_schema_or_null() -> None:
    """Go, Java and Rust have no unions; a ``oneOf`` with null does not compile there."""
    for where, node in SCHEMA_NODES.items():
        assert not {"oneOf", "allOf", "not", "discriminator", "exclusiveMinimum"} & node.keys(), where
        if "anyOf" in node:
            assert len(node["anyOf"]) == 2, where
            assert node["anyOf"].count(NULL) == 1, where


def test_every_integer_has_a_width_that_it_fits() -> None:
    integers = {where: node for where, node in SCHEMA_NODES.items() if node.get("type") == "integer"}
    assert len(integers) > 50
    for where, node in integers.items():
        is_small = node.get("minimum", -(2**63)) >= -(2**31) and node.get("maximum", 2**63) < 2**31
        assert node["format"] == ("int32" if is_small else "int64"), where
    seqs = [node for where, node in integers.items() if re.search(r"/(\w+_)?seq(/|$)", where)]
    assert len(seqs) > 10
    assert {node["format"] for node in seqs} == {"int64"}


def test_every_refusal_is_a_problem_with_a_code_of_the_enumeration() -> None:
    codes = SCHEMAS["Problem"]["properties"]["code"]["enum"]
    assert codes == [kind.code for kind in all_refusals()]
    for name, operation in OPERATIONS.items():
        for status, answer in operation["responses"].items():
            if status >= "400":
                content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
                assert answer["content"] == content, f"{name} {status}"
                statuses = {kind.code: str(kind.status) for kind in all_refusals()}
                assert {statuses[code] for code in answer["x-problem-codes"]} == {status}, f"{name} {status}"


def test_every_answer_with_a_body_has_one_named_schema() -> None:
    for name, operation in OPERATIONS.items():
        for status, answer in operation["responses"].items():
            if status == "204":
                assert "content" not in answer
                continue
            [(media_type, content)] = answer["content"].items()
            assert "$ref" in content["schema"] or media_type == "text/plain", f"{name} {status}"


def test_every_body_and_answer_has_one_media_type_and_the_others_stand_beside_it() -> None:
    assert [where for where, node in CONTENTS.items() if len(node["content"]) != 1] == []
    others = {where: list(node[OTHER_CONTENT]) for where, node in CONTENTS.items() if OTHER_CONTENT in node}
    assert others == {
        "#/paths//v1/alerts/batch/post/requestBody": ["application/x-ndjson"],
        "#/paths//v1/integrations/cloudevents/post/requestBody": ["application/cloudevents-batch+json"],
        "#/paths//v1/events/get/responses/200": ["text/event-stream"],
        "#/paths//v1/dashboard/get/responses/200": ["text/event-stream"],
    }


@pytest.mark.parametrize(
    ("name", "values"),
    [("Severity", SEVERITIES), ("AlertStatus", get_args(Status)), ("EventKind", get_args(EventKind))],
)
def test_an_enumeration_that_several_fields_share_is_one_schema(name: str, values: tuple[str, ...]) -> None:
    assert SCHEMAS[name] == {"type": "string", "enum": list(values)}
    elsewhere = [where for where, node in SCHEMA_NODES.items() if node.get("enum") == list(values)]
    assert elsewhere == [f"#/components/schemas/{name}"]


def test_names_differ_as_identifiers_too() -> None:
    parts = DOCUMENT["components"]
    operation_ids = [operation["operationId"] for operation in OPERATIONS.values()]
    for names in ([*SCHEMAS, *parts["headers"]], operation_ids, SCHEMAS["Problem"]["properties"]["code"]["enum"]):
        assert [name for name, times in Counter(map(identifier, names)).items() if times > 1] == []
    values = {value for node in SCHEMA_NODES.values() for value in node.get("enum", ()) if isinstance(value, str)}
    types = {identifier(name) for name in SCHEMAS}
    assert {value for value in values if identifier(value) in types} == set()


def test_operation_ids_are_a_verb_and_what_it_applies_to() -> None:
    for name, operation in OPERATIONS.items():
        method, _, path = name.partition(" ")
        action = path.rpartition("/")[2]
        verb = action if action in ACTIONS else method.lower()
        assert re.fullmatch(rf"{verb}(_[a-z]+)+", operation["operationId"]), name


def test_prose_and_values_have_no_apostrophes() -> None:
    for where, node in NODES.items():
        texts = [
            node.get("description"),
            node.get("summary"),
            node.get("title"),
            node.get("const"),
            node.get("pattern"),
        ]
        texts += [*node.get("enum", ())] if isinstance(node.get("enum"), list) else []
        assert not [text for text in texts if isinstance(text, str) and "'" in text], where


def test_fields_have_no_titles_and_no_defaults() -> None:
    """A title becomes a second name of a type, and TypeScript takes a field with a default for required."""
    fields = {
        f"{where}/{name}": field
        for where, node in NODES.items()
        if where.endswith("/properties")
        for name, field in node.items()
    }
    assert len(fields) > 200
    assert [where for where, field in fields.items() if {"title", "default"} & field.keys()] == []
    assert SCHEMAS["AlertIn"]["required"] == ["title"]
    assert SCHEMAS["AlertIn"]["properties"]["topic"]["description"] == "default: `default`"
    assert SCHEMAS["AlertIn"]["properties"]["severity"]["description"] == "default: `info`"


def test_nothing_but_a_description_stands_beside_a_reference() -> None:
    """The generator of Rust has no type for a reference that has a default."""
    beside = {where: node.keys() - {"$ref", "description"} for where, node in SCHEMA_NODES.items() if "$ref" in node}
    assert {where: names for where, names in beside.items() if names} == {}


def test_no_schema_forbids_additional_properties_with_false() -> None:
    """The generator of Java gives up on the nullable fields of such a schema."""
    assert [where for where, node in SCHEMA_NODES.items() if node.get("additionalProperties") is False] == []
    assert SCHEMAS["AlertIn"]["unevaluatedProperties"] is False


def test_a_long_poll_answers_with_typed_frames() -> None:
    fields = SCHEMAS["PollOut"]["properties"]
    assert {"seq", "cursor", "kind", "at", "alert", "comment"} <= resolved(fields["events"]["items"])[
        "properties"
    ].keys()
    for name in ("welcome", "gap", "reset", "closed"):
        [frame] = [option for option in fields[name]["anyOf"] if option != NULL]
        assert "type" in resolved(frame)["properties"], name


def test_data_that_looks_like_a_schema_stays_as_it_is() -> None:
    example = {"type": "integer", "title": "It's", "description": "It's", "content": {"a/b": {}, "c/d": {}}}
    made: dict[str, Any] = {
        "components": {
            "schemas": {"One": {"type": "object", "properties": {"title": {"type": "string", "title": "T"}}}}
        },
        "paths": {"/": {"get": {"content": {"a/b": {"schema": {"type": "integer"}, "example": dict(example)}}}}},
    }
    simplify(made, {})
    assert made["components"]["schemas"]["One"]["properties"] == {"title": {"type": "string"}}
    content = made["paths"]["/"]["get"]["content"]["a/b"]
    assert content == {"schema": {"type": "integer", "format": "int64"}, "example": example}
