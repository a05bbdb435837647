"""The OpenAPI document in the form that generators of clients read.

FastAPI and pydantic write what JSON Schema allows. Generators of Go, Java, Rust and TypeScript
clients read less, each something else, so ``simplify`` leaves what all of them compile:

- one media type for each body and answer; the others stand beside it, under ``x-other-content``;
- one schema for each enumeration that several fields share;
- a width for every integer (``int64`` where it may pass 2^31), and no ``exclusiveMinimum``;
- ``unevaluatedProperties`` for ``additionalProperties: false``, at which the generator of Java gives
  up on the nullable fields;
- no ``title`` of a field, which some take for the name of a class;
- no ``default`` of a field, which some take for a promise that the field is there, nor beside a
  ``$ref``, which Rust then takes for a plain text: it is described;
- no apostrophe in prose, which some copy into a quoted text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMAS = "#/components/schemas/"
OTHER_CONTENT = "x-other-content"
INT32_MAX = 2**31 - 1
_JSON = "application/json"
_VALUES = ("example", "examples", "enum", "const", "default")
"""Keywords whose values are data, whatever their members are called."""
_PROSE = ("description", "summary")


def simplify(document: dict[str, Any], enumerations: Mapping[str, Sequence[str]]) -> None:
    """Change a complete document into the form above; ``enumerations`` are the shared ones, by name."""
    schemas = document["components"]["schemas"]
    names = {tuple(values): name for name, values in enumerations.items()}
    for node in _objects(document):
        if len(node.get("content", ())) > 1:
            _keep_main_content(node)
        for name in _PROSE:
            if isinstance(node.get(name), str):
                node[name] = node[name].replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
    for root in [*schemas.values(), *(node["schema"] for node in _objects(document) if "schema" in node)]:
        for schema in _parts(root):
            _simplify_schema(schema, names)
    for node in _objects(document):
        if "$ref" in (schema := node.get("schema", {})) and "default" in schema:
            _describe_default(node, schema.pop("default"))
    schemas.update({name: {"type": "string", "enum": list(values)} for name, values in enumerations.items()})


def _keep_main_content(node: dict[str, Any]) -> None:
    """Keep the JSON of a body or an answer, or what it has first."""
    content = node["content"]
    main = _JSON if _JSON in content else next(iter(content))
    node["content"] = {main: content.pop(main)}
    node[OTHER_CONTENT] = content


def _simplify_schema(schema: dict[str, Any], names: Mapping[tuple[str, ...], str]) -> None:
    schema.pop("title", None)
    if (name := names.get(tuple(schema.get("enum", ())))) is not None:
        del schema["enum"], schema["type"]
        schema["$ref"] = SCHEMAS + name
    if schema.get("additionalProperties") is False:
        schema["unevaluatedProperties"] = schema.pop("additionalProperties")
    if "exclusiveMinimum" in schema:
        schema["minimum"] = schema.pop("exclusiveMinimum")
    if schema.get("type") == "integer":
        is_small = schema.get("minimum", 0) >= -INT32_MAX and schema.get("maximum", 2**63) <= INT32_MAX
        schema.setdefault("format", "int32" if is_small else "int64")
    for field in schema.get("properties", {}).values():
        if (default := field.pop("default", None)) not in (None, [], {}):
            _describe_default(field, default)


def _describe_default(described: dict[str, Any], default: Any) -> None:
    words = [described["description"]] if "description" in described else []
    shown = default if isinstance(default, str) else json.dumps(default)
    described["description"] = "; ".join([*words, f"default: `{shown}`"])


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    """Yield each object of the document, outermost first, that is not an example or another value."""
    if isinstance(node, dict):
        yield node
        for name, child in node.items():
            if name not in _VALUES:
                yield from _objects(child)
    elif isinstance(node, list):
        for child in node:
            yield from _objects(child)


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and each schema in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for name in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(name, ()):
            yield from _parts(option)
    for name in ("items", "additionalProperties", "propertyNames"):
        yield from _parts(schema.get(name))
    for field in schema.get("properties", {}).values():
        yield from _parts(field)
