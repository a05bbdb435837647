"""What is written from the code: the tables of ``docs/reference.md``, ``openapi/openapi.yaml`` and ``asyncapi.yaml``.

``python -m tests.reference`` (``make reference``) writes them; ``test_reference.py`` holds them equal.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from prometheus_client import REGISTRY

import service.metrics  # noqa: F401 - registers the metrics
from service.app import create_app
from service.auth.issuers import load_keyring
from service.database.engine import parse_url
from service.errors import CloseReason
from service.http.openapi import every_refusal
from service.settings import PREFIX, Settings, groups
from service.stream.asyncapi import document as asyncapi_document
from service.stream.frames import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
OPENAPI = ROOT / "openapi" / "openapi.yaml"
ASYNCAPI = ROOT / "openapi" / "asyncapi.yaml"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(docstring: str | None) -> str:
    """Return a docstring as one line of Markdown."""
    return " ".join((docstring or "").split()).replace("``", "`")


def shown(default: Any) -> str:
    """Return a default as it would be written in the environment."""
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, dict):
        return f"`{', '.join(f'{name}={value}' for name, value in default.items())}`"
    return f"`{default}`"


def docstrings(group: type) -> dict[str, str]:
    """Return the docstring under each attribute of a class."""
    [definition] = ast.parse(inspect.getsource(group)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        statement.target.id: below.value.value
        for statement, below in pairwise(definition.body)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def settings() -> str:
    """Return a table of the settings for each group."""
    parts = []
    for group in groups().values():
        described = docstrings(group)
        rows = [
            (f"`{PREFIX}{name.upper()}`", shown(info.default), plain(described[name]))
            for name, info in group.model_fields.items()
        ]
        parts.append(f"### {plain(group.__doc__)}\n\n{table(('variable', 'default', 'what it does'), rows)}")
    return "\n\n".join(parts)


def problems() -> str:
    """Return the table of problem codes."""
    rows = [
        (kind.status, f"`{kind.code}`", plain(kind.__doc__)) for kind in sorted(every_refusal(), key=lambda k: k.status)
    ]
    return table(("status", "code", "meaning"), rows)


def closes() -> str:
    """Return the table of close codes and reasons."""
    rows = [(reason.code, f"`{reason.reason}`", reason.advice) for reason in CloseReason]
    return table(("code", "reason", "what a client does"), rows)


def frame_errors() -> str:
    """Return the codes of ``error`` frames."""
    return ", ".join(f"`{code}`" for code in get_args(ErrorCode))


def metrics() -> str:
    """Return the table of the service's metrics."""
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("tocsin_")]
    rows = [
        (f"`{m.name}{'_total' if m.type == 'counter' else ''}`", m.type, m.documentation)
        for m in sorted(ours, key=lambda metric: metric.name)
    ]
    return table(("metric", "type", "what it counts"), rows)


SECTIONS = {
    "settings": settings,
    "problems": problems,
    "closes": closes,
    "frame-errors": frame_errors,
    "metrics": metrics,
}


def written(page: str) -> str:
    """Return the page with every section as the code has it."""
    for name, section in SECTIONS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        assert begin in page, f"docs/reference.md lacks {begin}"
        head, _, rest = page.partition(begin)
        page = f"{head}{begin}\n{section()}\n{end}{rest.partition(end)[2]}"
    return page


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    app = create_app(Settings(), parse_url("postgresql://"), load_keyring(Settings().auth, b"never used" * 4))
    return app.openapi()


class _Dumper(yaml.SafeDumper):
    """Writes everything out: no anchors for what the code says once and the document twice."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def written_out(document: dict[str, Any]) -> str:
    """Return a document as YAML."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


DOCUMENTS = {OPENAPI: openapi_document, ASYNCAPI: asyncapi_document}


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
    for path, document in DOCUMENTS.items():
        path.write_text(written_out(document()))
