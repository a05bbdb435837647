"""What schemathesis has to know of Tocsin beyond ``openapi.yaml``; it loads this module by name.

The document says some rules with words only. They are said here in a form to generate from: names, cursors, times that
lie ahead, and the values of attributes. And some refusals depend on what was stored before, not on the request alone.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import schemathesis
from hypothesis import strategies as st

from service.alerts.fields import ATTRIBUTE_PATTERN, INTEGER_MAX, TEXT_PATTERN, VISIBLE_PATTERN
from service.http.openapi_schemas import OTHER_CONTENT
from service.http.pagination import encode_cursor

if TYPE_CHECKING:
    from schemathesis import Case, HookContext, Response
    from schemathesis.core.failures import Failure

PRINTABLE = st.characters(exclude_categories=("C", "Z"))
CONNECTION = "01a1fd7d-0b7c-7e1a-9d43-5d8f1f1c2b3a"
AT = datetime(2026, 11, 21, 9, 41, 7, 123456, UTC)
LOG_POLL_INTERVAL_SECONDS = 0.05
WAIT_MAX_SECONDS = 60
SUBJECT = "fuzzer"
REQUEST_HEADER_FIELDS_TOO_LARGE = 431

for_others: set[str] = set()

NULL = {"type": "null"}

# Twice as deep and so on is refused, and with words said so: what is generated stays far from there.
_SCALARS = [
    {"type": ["null", "boolean"]},
    {"type": "integer", "minimum": -INTEGER_MAX, "maximum": INTEGER_MAX},
    {"enum": [0.5, -0.25, 78.25]},
    {"type": "string", "pattern": TEXT_PATTERN},
]
_LISTS = {"type": "array", "items": {"anyOf": _SCALARS}}
_OBJECTS = {
    "type": "object",
    "propertyNames": {"pattern": ATTRIBUTE_PATTERN},
    "additionalProperties": {"anyOf": [*_SCALARS, _LISTS]},
}
ATTRIBUTES = {"anyOf": [*_SCALARS, _LISTS, _OBJECTS]}

ONE_TARGET = [
    {"required": ["jti"], "properties": {"jti": {"type": "string"}, "subject": NULL, "before": NULL}},
    {"required": ["subject"], "properties": {"jti": NULL, "subject": {"type": "string"}}},
]
TITLE_OR_MESSAGE = [
    {"required": [name], "properties": {name: {"type": "string", "pattern": VISIBLE_PATTERN}}}
    for name in ("title", "message")
]
MAKES_A_TOPIC = "^[A-Za-z0-9][A-Za-z0-9 ._/-]{0,99}$"
EVENT = {
    "propertyNames": {"pattern": "^([a-z0-9]+|data_base64)$"},
    "additionalProperties": {
        "type": ["string", "integer", "boolean", "null"],
        "minimum": -(2**31),
        "maximum": 2**31 - 1,
    },
    "not": {"required": ["data", "data_base64"]},
}

# Of a request that is in itself right: its key was used before, or its time has come.
NOT_OF_THE_REQUEST_ALONE = (
    "idempotency_mismatch",
    "/expires_at: must lie in the future.",
    "/before: no token has been issued before 1970, nor in the future.",
)


def later(year: int, month: int, day: int, second: int) -> str:
    """Return a time that lies ahead, as RFC 3339."""
    return f"{year}-{month:02}-{day:02}T09:41:{second:02}Z"


schemathesis.openapi.format("name", st.text(PRINTABLE, min_size=1, max_size=200))
schemathesis.openapi.format("cursor", st.integers(0, 10**9).map(lambda seq: str(encode_cursor((seq,)))))
for _name, _places in {
    "alert": ((("alice",), (AT, 4711, 2, "alice", UUID(CONNECTION))), (None, (AT, 0, 1, "é", UUID(int=0)))),
    "delivery": (((4711, UUID(CONNECTION), "alice"),), ((0, UUID(int=0), "é"),)),
    "receipt": ((("alice",),), (("a b",),)),
    "recipient": (((4711, UUID(CONNECTION)),), ((0, UUID(int=0)),)),
    "unreceived": (((4711, "alice"),), ((0, "a b"),)),
    "connection": (((AT, UUID(CONNECTION)),),),
    "rejection": (((AT, UUID(CONNECTION)),), ((AT, UUID(int=0)),)),
    "source": (((AT, ""),), ((AT, "billing"),)),
}.items():
    schemathesis.openapi.format(f"{_name}-cursor", st.sampled_from([str(encode_cursor(*places)) for places in _places]))
schemathesis.openapi.format(
    "json-object", st.dictionaries(st.sampled_from(["rate", "a b", "é"]), st.integers(0, 9)).map(json.dumps)
)
schemathesis.openapi.format(
    "date-time",
    st.builds(later, st.integers(2100, 9998), st.integers(1, 12), st.integers(1, 28), st.integers(0, 59)),
)
schemathesis.openapi.format("topics", st.lists(st.sampled_from(["payments.*", "search", "*"])).map(",".join))
schemathesis.openapi.format(
    "link", st.sampled_from(["https://runbooks.example/acquirer", "http://[::1]:8080/?a=b#c", "https://é.example"])
)
schemathesis.openapi.format(
    "alerts",
    st.lists(
        st.text(PRINTABLE, min_size=1, max_size=200).map(lambda title: json.dumps({"title": title})), min_size=1
    ).map("\n".join),
)


@schemathesis.serializer("application/x-ndjson")
def lines(_context: schemathesis.SerializationContext, value: object) -> bytes:
    """Send lines as they are."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook
def before_load_schema(_context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Say with JSON Schema what the document says with words, or in a form for generators of clients."""
    schemas = raw_schema["components"]["schemas"]
    for schema in schemas.values():
        attributes = schema.get("properties", {}).get("attributes", {})
        if "propertyNames" in attributes:
            attributes["additionalProperties"] = ATTRIBUTES
        if "unevaluatedProperties" in schema:
            schema["additionalProperties"] = schema.pop("unevaluatedProperties")
    schemas["RevocationIn"]["oneOf"] = ONE_TARGET
    schemas["CloudEvent"].update(EVENT)
    schemas["CloudEvent"]["properties"]["type"]["pattern"] = MAKES_A_TOPIC
    schemas["AppriseNotification"]["anyOf"] = TITLE_OR_MESSAGE
    for item in raw_schema["paths"].values():
        for operation in item.values():
            for node in (operation.get("requestBody", {}), *operation["responses"].values()):
                node.get("content", {}).update(node.pop(OTHER_CONTENT, {}))


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Poll for a moment only, and send a key as UTF-8: headers are sent as Latin-1 otherwise."""
    if isinstance(key := case.headers.get("Idempotency-Key"), str):
        case.headers["Idempotency-Key"] = key.encode().decode("latin-1")
    declared = {parameter.name for parameter in case.operation.query}
    if "wait" in declared:
        case.query["wait"] = _soon(case.query.get("wait", 0))


def _soon(wait: Any) -> Any:
    try:
        return LOG_POLL_INTERVAL_SECONDS if LOG_POLL_INTERVAL_SECONDS < float(wait) <= WAIT_MAX_SECONDS else wait
    except (TypeError, ValueError):
        return wait


@schemathesis.hook
def after_call(_context: HookContext, case: Case[Any], response: Response) -> None:
    """Note the alerts that were posted for others, which the one who posted them does not see."""
    if response.status_code == 201 and case.operation.path == "/v1/alerts":
        alert = response.json()
        if alert["recipients"] and SUBJECT not in alert["recipients"]:
            for_others.add(alert["id"])


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Drop what is said of a request alone, where the service answers for more than that."""
    kind = type(failure).__name__
    if response.status_code == REQUEST_HEADER_FIELDS_TOO_LARGE:
        return False  # the server's answer to a URL that is too long, before it is any operation's
    if kind == "RejectedPositiveData":
        document = response.json()
        return not {document["code"], document["detail"]}.intersection(NOT_OF_THE_REQUEST_ALONE)
    if kind == "EnsureResourceAvailability":
        return not any(alert_id in response.text for alert_id in for_others)
    if kind == "AcceptedNegativeData" and case.operation.path.startswith("/v1/integrations/"):
        return False  # what other programs send beside what makes the alert is read leniently
    if kind == "AcceptedNegativeData" and "batch" in f"{case.operation.path} {case.media_type}":
        # What is wrong with one alert is its own answer, not that of the batch.
        return all(result["status"] < 400 for result in response.json()["results"])
    return True
