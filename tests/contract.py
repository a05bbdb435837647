"""Checks against ``openapi/`` of each frame and each documented answer that a test receives.

The clients of ``harness.py`` and ``reader.py`` check here. What the documents do not describe fails the test
that saw it, with a message that says what is missing.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema_rs import ValidationError, Validator, validator_for

from service.http.openapi_schemas import OTHER_CONTENT
from tests.reference import ASYNCAPI, OPENAPI

if TYPE_CHECKING:
    import httpx2


class NotInTheContract(AssertionError):
    """The service did something that its documents do not describe."""


def checked_frame(frame: dict[str, Any], operation: str = "push") -> dict[str, Any]:
    """Return a frame that the service sent (``push``) or a client (``listen``), once ``asyncapi.yaml`` describes it."""
    name = frame.get("kind") or frame.get("type")
    validator = _frames(operation).get(str(name))
    if validator is None:
        raise NotInTheContract(f"openapi/asyncapi.yaml has no {name} (service/stream/frame_schemas.py): {frame}")
    try:
        validator.validate(frame)
    except ValidationError as error:
        where = "/".join(map(str, error.instance_path))
        raise NotInTheContract(f"openapi/asyncapi.yaml on {name}, at /{where}: {error.message}: {frame}") from None
    return frame


def checked_answer(response: httpx2.Response) -> None:
    """Accept an answer whose body was read, once ``openapi.yaml`` describes it, or knows nothing of the operation."""
    request = response.request
    operation = _operation(request.method.lower(), request.url.path)
    if operation is None:
        return
    path, description = operation
    where = f"{request.method} {path} answered {response.status_code}"
    answer = description["responses"].get(str(response.status_code))
    if answer is None:
        raise NotInTheContract(f"openapi.yaml does not say that {where}; name it with refusals(…): {response.text}")
    media_type = response.headers.get("content-type", "").partition(";")[0]
    described = {**answer.get("content", {}), **answer.get(OTHER_CONTENT, {})}
    if described and media_type not in described:
        raise NotInTheContract(f"openapi.yaml does not say that {where} with {media_type}")
    for name, header in answer.get("headers", {}).items():
        if header.get("required") and name not in response.headers:
            raise NotInTheContract(f"{where} without {name}")
    if media_type.endswith("json"):
        try:
            _body(path, request.method.lower(), response.status_code, media_type).validate(response.json())
        except ValidationError as error:
            raise NotInTheContract(f"openapi.yaml on {where}: {error.message}: {response.text}") from None
        if "x-problem-codes" in answer and (code := response.json()["code"]) not in answer["x-problem-codes"]:
            raise NotInTheContract(f"openapi.yaml does not say that {where} with {code}; name it with refusals(…)")


def ends(response: httpx2.Response) -> bool:
    """Say whether an answer ends, so that its body can be read."""
    return not response.headers.get("content-type", "").startswith("text/event-stream")


@cache
def document(path: Any) -> dict[str, Any]:
    """Return one of the two documents."""
    loaded: dict[str, Any] = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def validator(schema: dict[str, Any], path: Any) -> Validator:
    """Compile a schema of a document, formats and all."""
    return validator_for({**schema, "components": document(path)["components"]}, validate_formats=True)


@cache
def _frames(operation: str) -> dict[str, Validator]:
    described = document(ASYNCAPI)
    names = [message["$ref"].rpartition("/")[2] for message in described["operations"][operation]["messages"]]
    messages = [described["components"]["messages"][name] for name in names]
    return {message["name"]: validator(message["payload"], ASYNCAPI) for message in messages}


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return the paths as patterns, those without parameters first."""
    paths = sorted(document(OPENAPI)["paths"], key=lambda path: path.count("{"))
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in paths]


def _operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    for pattern, template in _patterns():
        if pattern.fullmatch(path):
            operation = document(OPENAPI)["paths"][template].get(method)
            return (template, operation) if operation is not None else None
    return None


@cache
def _body(path: str, method: str, status: int, media_type: str) -> Validator:
    answer = document(OPENAPI)["paths"][path][method]["responses"][str(status)]
    return validator(answer["content"][media_type]["schema"], OPENAPI)
