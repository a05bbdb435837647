"""The types of the console's JSON, compared with the contracts in ``openapi/``."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import yaml

from service.app import CONSOLE
from tests.reference import ASYNCAPI, OPENAPI

pytestmark = pytest.mark.unit

TEXT = (CONSOLE / "stream" / "wire-types.js").read_text()
SCHEMAS = {
    "Alert": "AlertOut",
    "AlertPage": "AlertPage",
    "AlertReceipts": "AlertReceipts",
    "AlertRecipient": "AlertRecipient",
    "CaughtUpFrame": "CaughtUpFrame",
    "Comment": "CommentText",
    "ErrorFrame": "ErrorFrame",
    "EventFrame": "AlertCommentedFrame",
    "GapFrame": "GapFrame",
    "HeartbeatFrame": "HeartbeatFrame",
    "Me": "MeOut",
    "PresenceFrame": "PresenceFrame",
    "PresenceOut": "PresenceOut",
    "PresentRecipient": "PresentRecipient",
    "RecipientCounts": "RecipientCounts",
    "ResetFrame": "ResetFrame",
    "TimelinePage": "Timeline",
    "WelcomeFrame": "WelcomeFrame",
}
"""The schema of each type that lists its properties."""


@cache
def schemas() -> dict[str, Any]:
    """Return the schemas of the contracts; those of the REST interface come first."""
    found: dict[str, Any] = {}
    for path in (ASYNCAPI, OPENAPI):
        found |= yaml.load(path.read_text(), yaml.CSafeLoader)["components"]["schemas"]
    return found


def documented(schema: str) -> set[str]:
    """Return the properties of a schema of the contracts."""
    if schema in schemas():
        return {*schemas()[schema]["properties"]}
    raise AssertionError(f"the contracts have no {schema}")


def listed() -> dict[str, set[str]]:
    """Return the properties of each type that lists them."""
    types = {}
    for body, name in re.findall(r"@typedef \{\{(.*)\}\} (\w+)", TEXT):
        flat = body
        while (flatter := re.sub(r"\{[^{}]*\}|\([^()]*\)", "", flat)) != flat:
            flat = flatter
        types[name] = set(re.findall(r"(?:^|, )(\w+)\??:", flat))
    for name, body in re.findall(r"@typedef \{object\} (\w+)\n(.*?)\*/", TEXT, re.DOTALL):
        types[name] = set(re.findall(r"@property \{.*\} (\w+)(?:  |$)", body, re.MULTILINE))
    return types


def test_each_property_of_a_type_is_in_the_contract() -> None:
    assert listed().keys() == SCHEMAS.keys()
    for name, properties in listed().items():
        assert properties <= documented(SCHEMAS[name]), name
        assert properties
