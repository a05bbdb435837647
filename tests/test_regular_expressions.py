"""Every regular expression of the service takes time in proportion to the text, whatever the text is.

The patterns are found, not listed: those that modules compile, and those of the documents, which
clients may check in an engine that backtracks. The texts are made of the pattern itself: what its
parts match, repeated, before and after something that it does not match.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import re._parser as parser  # type: ignore[import-not-found] # it has no types
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import pytest

import service
from service import logs
from service.alerts import fields
from service.auth.issuers import load_keyring
from service.database.engine import parse_url
from service.settings import Settings
from service.stream.asyncapi import document as stream_document
from tests.growth import is_superlinear
from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit

METHODS = get_args(Literal["fullmatch", "match", "search"])


class Use(NamedTuple):
    """A pattern, and how it is used: to match a whole text, or to search in one."""

    pattern: re.Pattern[Any]
    method: Literal["fullmatch", "match", "search"]


def compiled_patterns() -> dict[str, Use]:
    """Return the patterns of all modules, by where they stand."""
    found = {}
    for info in pkgutil.walk_packages(service.__path__, "service."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                source = inspect.getsource(module)
                used = [how for how in METHODS if f"{name}.{how}(" in source]
                found[f"{info.name}.{name}"] = Use(value, used[0] if len(used) == 1 else "search")
    return found


def documented_patterns() -> dict[str, Use]:
    """Return the patterns of the OpenAPI and AsyncAPI documents."""
    settings = Settings()
    app = importlib.import_module("service.app").create_app(
        settings, parse_url("postgresql://nobody@localhost/none"), load_keyring(settings.auth, SECRET.encode())
    )
    texts = sorted(set(patterns_in([app.openapi(), stream_document()])))
    return {f"document {text}": Use(re.compile(text), "search") for text in texts}


def patterns_in(node: Any) -> Iterator[str]:
    """Yield the patterns of a JSON schema."""
    if isinstance(node, dict):
        if isinstance(text := node.get("pattern"), str):
            yield text
        for child in node.values():
            yield from patterns_in(child)
    elif isinstance(node, list):
        for child in node:
            yield from patterns_in(child)


def pieces(tree: Any) -> set[str]:
    """Return texts that parts of a pattern match: each literal, a sample of each class, and runs of both."""
    found: set[str] = set()
    run = ""
    for operation, argument in tree:
        sample = _sample(operation, argument)
        if sample is None:
            found |= {run} | _nested(argument)
            run = ""
        else:
            run += sample
            found.add(sample)
    return (found | {run}) - {""}


def _nested(argument: Any) -> set[str]:
    found: set[str] = set()
    if isinstance(argument, parser.SubPattern):
        found |= pieces(argument)
    elif isinstance(argument, tuple | list):
        for part in argument:
            found |= _nested(part)
    return found


def _sample(operation: Any, argument: Any) -> str | None:
    name = str(operation)
    if name == "LITERAL":
        return chr(argument)
    if name == "ANY":
        return "a"
    if name == "IN":
        return next((c for c in "ae0 ._-J\t%\\\x00" if re.match(_class(argument), c)), None)
    if name == "NOT_LITERAL":
        return next(c for c in "ab" if ord(c) != argument)
    return None


def _class(members: Any) -> re.Pattern[str]:
    text = ""
    for kind, value in members:
        match str(kind):
            case "NEGATE":
                text += "^"
            case "LITERAL":
                text += re.escape(chr(value))
            case "RANGE":
                text += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
            case "CATEGORY":
                text += {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w", "NOT_SPACE": r"\S", "NOT_WORD": r"\W"}[
                    str(value).removeprefix("CATEGORY_")
                ]
    return re.compile(f"[{text}]")


def attacks(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what stands before, what is repeated, and what stands after."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    found = sorted({piece[:20] for piece in pieces(parser.parse(text, pattern.flags & ~re.ASCII & ~re.UNICODE))})
    pumps = {*found, *(a + b for a, b in product(found[:6], repeat=2)), " ", "a"}
    yield from product(("", *found[:3]), sorted(pumps), ("", "\x00"))


PATTERNS = {**compiled_patterns(), **documented_patterns()}


def test_the_patterns_are_found() -> None:
    assert {"service.logs._SECRETS", "service.topics._TOPIC", "service.alerts.fields._TIME"} <= PATTERNS.keys()
    assert f"document {fields.LINE_PATTERN}" in PATTERNS


@pytest.mark.parametrize("name", PATTERNS)
def test_a_text_that_is_longer_takes_longer_in_proportion(name: str) -> None:
    pattern, method = PATTERNS[name]
    is_bytes = isinstance(pattern.pattern, bytes)
    for before, pump, after in attacks(pattern):

        def make(length: int, before: str = before, pump: str = pump, after: str = after) -> Any:
            text = before + pump * (length // len(pump)) + after
            return text.encode("latin-1") if is_bytes else text

        assert not is_superlinear(getattr(pattern, method), make), (
            f"{method} of {pump!r} after {before!r}, before {after!r}"
        )


@pytest.mark.parametrize(
    "pump",
    ["eyJ", "eyJ-", "eyJ.", "e", "token=", "?token=&", "bearer ", "bearer.", "Bearer,", "?code=", "%74", " ", "\x00"],
)
def test_redaction_takes_time_in_proportion(pump: str) -> None:
    assert not is_superlinear(logs.redact, lambda length: pump * (length // len(pump)))


def test_a_pattern_that_backtracks_is_noticed() -> None:
    for text in (r"eyJ[\w-]{8,}\.[\w.-]*", r"^\s*\S\s*\s*$", r"(a+)b", r"\d*\s*\d*x"):
        pattern = re.compile(text)
        assert any(
            is_superlinear(use, lambda length, b=before, p=pump, a=after: b + p * (length // len(p)) + a)  # type: ignore[misc]
            for before, pump, after in attacks(pattern)
            for use in (pattern.search, pattern.fullmatch)
        ), text
