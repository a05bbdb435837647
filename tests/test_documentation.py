"""What the documentation names exists: files, links, settings, metrics, views, commands, operations.

The documentation is the Markdown pages, and the docstrings of the Python code.
"""

from __future__ import annotations

import ast
import re
from itertools import chain
from typing import TYPE_CHECKING

import pytest
import yaml

from service.auth.principal import Scope
from service.cli import app
from service.database.privileges import AUDITOR
from service.settings import PREFIX, groups
from service.settings.secret_files import secrets_of
from tests.harness import ROOT
from tests.reference import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.unit

PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    path for folder in ("service", "tests", "benchmarks", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))
]
FOLDERS = ("service", "tests", "benchmarks", "scripts", "alembic", "docs", "openapi", ".ci")
EXISTING = [
    f"/{path.relative_to(ROOT).as_posix()}"
    for path in chain(ROOT.iterdir(), *((ROOT / folder).rglob("*") for folder in FOLDERS))
]

FILE_NAME = re.compile(r"(?<![\w/.$*<:-])(?:[\w-]+/)*[\w-]+\.(?:py|js|sql|css|md|yaml|toml)\b(?![/(])")
FOLDER_NAME = re.compile(r"``?((?:[a-z_]+/)+)``?(?!\w)")
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([\w-]+))?\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", re.DOTALL)
NOT_PROSE = ("|", "![", "<")

SERVED_WITHOUT_OPENAPI = {"/v1/ws"}
IN_PG_STAT_ACTIVITY = {"dashboard"}
"""Of the application names of connections, ``tocsin …``, those that look like a command."""


def docstrings(path: Path) -> Iterator[str]:
    """Yield every text that stands alone as a statement: docstrings, and those of attributes and constants."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def names_of_files(text: str) -> Iterator[str]:
    yield from (match[0] for match in FILE_NAME.finditer(text))
    yield from (match[1].rstrip("/") for match in FOLDER_NAME.finditer(text))


def missing(texts: Iterable[str]) -> set[str]:
    """Return the files and folders that ``texts`` name, by a path or by the end of one, and that do not exist."""
    names = {name for text in texts for name in names_of_files(text)}
    return {name for name in names if not any(path.endswith(f"/{name}") for path in EXISTING)}


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words_of_pages(pattern: str) -> dict[str, str]:
    """Return what ``pattern`` finds in the pages, and a page with each."""
    return {found: page.name for page in PAGES for found in re.findall(pattern, page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_names_files_that_exist(page: Path) -> None:
    assert missing([page.read_text()]) == set()


@pytest.mark.parametrize("folder", sorted({path.parent for path in CODE}), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_files_that_exist(folder: Path) -> None:
    found = {path.name: missing(docstrings(path)) for path in CODE if path.parent == folder}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_ends_at_100_columns(page: Path) -> None:
    prose = FENCE.sub("", GENERATED.sub("", page.read_text())).splitlines()
    assert [line for line in prose if len(line) > 100 and not line.startswith(NOT_PROSE)] == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = {path for path, _ in LINK.findall((folder / "README.md").read_text())}
    assert linked == {path.name for path in folder.glob("0*.md")}


def test_the_pages_name_settings_that_exist() -> None:
    known = {f"{PREFIX}{name.upper()}" for group in groups().values() for name in group.model_fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for group in groups().values() for name in secrets_of(group)}
    named = words_of_pages(rf"\b{PREFIX}[A-Z0-9_]+\b")
    assert {name: page for name, page in named.items() if name not in known} == {}


def test_the_pages_name_metrics_that_exist() -> None:
    known = set(re.findall(r"`(tocsin_\w+?)(?:_total)?`", metrics())) | {AUDITOR}
    named = words_of_pages(r"`(tocsin_\w+?)(?:_total)?`")
    assert {name: page for name, page in named.items() if name not in known} == {}


def test_the_pages_name_views_that_exist() -> None:
    files = (ROOT / "alembic" / "sql").glob("*.sql")
    known = {name for file in files for name in re.findall(r"CREATE VIEW audit\.(\w+)", file.read_text())}
    named = words_of_pages(r"\baudit\.(?!md\b)([a-z_]+)")
    assert {name: page for name, page in named.items() if name not in known} == {}


def test_the_pages_name_commands_that_exist() -> None:
    known = set(app.commands) | {f"audit {name}" for name in app.load("audit").commands}
    named = words_of_pages(r"(?:`|^|/)tocsin ((?:audit )?[a-z]+)")
    assert {name: page for name, page in named.items() if name not in known | IN_PG_STAT_ACTIVITY} == {}


def test_the_threat_model_says_of_each_scope_what_it_may() -> None:
    assert re.findall(r"^\| `([\w:]+)` \| \w", (ROOT / "SECURITY.md").read_text(), re.MULTILINE) == list(Scope)


def test_the_pages_name_operations_that_exist() -> None:
    document = yaml.safe_load((ROOT / "openapi" / "openapi.yaml").read_text())
    known = {re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]} | SERVED_WITHOUT_OPENAPI
    named = words_of_pages(r"`(?:GET|POST|DELETE) (/v1/[\w/{}]+)`")
    assert {path: page for path, page in named.items() if re.sub(r"\{\w+\}", "{}", path) not in known} == {}
