"""One word for each thing: words that the glossary replaced are in no identifier, and stock phrases in no prose.

Identifiers are the names of files and what Python defines, and every name in SQL and JavaScript; a banned word may be a
part of one, as in ``OldCaller``. Prose is docstrings, comments and Markdown.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.unit

WORDS = {
    "admitted": "reserved",
    "book": "unit_of_work",
    "bookmark": "checkpoint",
    "books": "purge_log",
    "caller": "source",
    "callers": "sources",
    "foresee": "preview",
    "foresight": "preview",
    "graver": "more_severe",
    "heard": "received",
    "janitor": "housekeeping",
    "noted": "expected",
    "poster": "source",
    "posters": "sources",
    "sender": "source",
    "streamer": "recipient",
    "sweep": "housekeeping",
    "sweeper": "due_alerts",
    "token_id": "jti",
    "token_jti": "jti",
    "told": "received",
    "unfit": "unacceptable",
    "viewer": "recipient",
    "wanted": "requested",
    "watcher": "recipient",
}
"""Each banned word, most of them of ``docs/glossary.md``, with one to use instead."""
PHRASES = (
    "anew",
    "as it were",
    "bookmark",
    "for ever",
    "foresee",
    "graver",
    "heard",
    "held against",
    "janitor",
    "lets? go",
    "told",
    "turned away",
)
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = ("service", "alembic", "tests", "benchmarks", "scripts")

_MAYBE = re.compile("|".join(word.replace("_", "_?") for word in WORDS), re.IGNORECASE)
_WORD = re.compile("|".join(f"_{word}_" for word in WORDS))
_PHRASE = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
_COMMENT = r"--[^\n]*|//[^\n]*|/\*.*?\*/"
_COMMENTS = re.compile(_COMMENT, re.DOTALL)
_NO_CODE = re.compile(rf"""{_COMMENT}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`""", re.DOTALL)
"""Comments and strings of SQL and JavaScript."""
LANGUAGES = (".py", ".sql", ".js", ".mjs")


def files() -> Iterator[tuple[Path, str]]:
    """Yield the files with code, except for this one, and their text."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")):
        if path.suffix in LANGUAGES and path != Path(__file__):
            yield path, path.read_text()


def names_in(path: Path, text: str) -> set[str]:
    """Return the name of a file, and the names in it."""
    if path.suffix != ".py":
        return {path.stem, *re.findall(r"\w+", _NO_CODE.sub("", text))}
    names = {path.stem}
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
    return names


def words_of(name: str) -> str:
    """Return a name in lower case, with an underscore around each of its words."""
    return f"_{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name.replace('-', '_')).lower()}_"


def prose_in(path: Path, text: str) -> Iterator[str]:
    """Yield the docstrings and comments of a file."""
    if path.suffix != ".py":
        yield from _COMMENTS.findall(text)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def test_no_name_has_a_word_that_the_glossary_replaced() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in files()
        if _MAYBE.search(path.stem + text)
        for name in sorted(names_in(path, text))
        if _WORD.search(words_of(name))
    ]
    assert found == [], f"say {WORDS}"


def test_no_prose_has_a_stock_phrase() -> None:
    found = []
    for path, text in files():
        if _PHRASE.search(text):
            found += [f"{path.relative_to(ROOT)}: {prose}" for prose in prose_in(path, text) if _PHRASE.search(prose)]
    for path in {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {GLOSSARY}:
        found += [f"{path.relative_to(ROOT)}: {line}" for line in path.read_text().splitlines() if _PHRASE.search(line)]
    assert found == []


def test_no_two_public_classes_of_the_service_share_a_name() -> None:
    modules = defaultdict(list)
    for path in sorted((ROOT / "service").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in modules.items() if len(paths) > 1} == {}
