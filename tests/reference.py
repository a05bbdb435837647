"""Files that are generated from the code: tables in ``docs/``, the contracts in ``openapi/``, constants of the console.

``python -m tests.reference`` (``make reference``) writes them; ``test_reference.py`` holds them equal.
"""

from __future__ import annotations

import ast
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from prometheus_client import REGISTRY

import service.metrics  # noqa: F401 - registers the metrics
from service.app import create_app
from service.auth.issuers import load_keyring
from service.database.base import STATUSES
from service.database.engine import parse_url
from service.errors import CloseReason
from service.http.openapi import all_refusals
from service.settings import PREFIX, Settings, groups
from service.severity import SEVERITIES
from service.stream.asyncapi import document as asyncapi_document
from service.stream.frames import FrameErrorCode
from service.topics import PATTERN_REGEX, TOPIC_MAX, TOPIC_REGEX

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
CLIENT_PAGE = ROOT / "docs" / "receiving-alerts.md"
OPENAPI = ROOT / "openapi" / "openapi.yaml"
ASYNCAPI = ROOT / "openapi" / "asyncapi.yaml"
WIRE_CONSTANTS = ROOT / "service" / "console" / "stream" / "wire-constants.js"


REFUSED = 1008
"""The close code of a refused stream (RFC 6455, section 7.4.1)."""
POLICIES = {
    "refresh": "ask for a fresh token, then resume; stop where there is none",
    "stop": "stop",
    "retry": "back off, then resume",
    "retry-later": "long back off, then resume",
}


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
        (kind.status, f"`{kind.code}`", plain(kind.__doc__)) for kind in sorted(all_refusals(), key=lambda k: k.status)
    ]
    return table(("status", "code", "meaning"), rows)


def closes() -> str:
    """Return the table of close codes and reasons."""
    rows = [(reason.code, f"`{reason.reason}`", reason.advice) for reason in CloseReason]
    return table(("code", "reason", "what a client does"), rows)


def close_policy(close: CloseReason) -> str:
    """Return what the browser's client does at a close, by what the service advises: refresh, stop or come back.

    A stream that is refused (1008) because there are too many comes back later than one that was lost.
    """
    if close.advice == "stop":
        return "stop"
    if close.advice in ("sign in", "refresh the token, then resume"):
        return "refresh"
    return "retry-later" if close.code == REFUSED else "retry"


def client_closes() -> str:
    """Return the table of what the browser's client does at each close."""
    rows = [(reason.code, f"`{reason.reason}`", POLICIES[close_policy(reason)]) for reason in CloseReason]
    return table(("code", "reason", "what the client does"), rows)


def wire_constants() -> str:
    """Return the module of the console that holds what the browser has to know of the wire format."""
    policies = "".join(f'  {close.reason}: "{close_policy(close)}",\n' for close in CloseReason)
    return f"""/**
 * Constants of the wire format. Generated by `make reference` from the Python code: do not edit.
 */

/** @import {{ ClosePolicy }} from "./close-policy.js" */
/** @import {{ AlertStatus, Severity }} from "./wire-types.js" */

/** What the client does at each close reason. @type {{Readonly<Record<string, ClosePolicy>>}} */
export const CLOSE_POLICIES = {{
{policies}}};

/** The least severe first. @type {{readonly Severity[]}} */
export const SEVERITIES = {json.dumps(SEVERITIES)};

/** @type {{readonly AlertStatus[]}} */
export const STATUSES = {json.dumps(STATUSES)};

export const TOPIC = /{TOPIC_REGEX}/;
export const TOPIC_PATTERN = /{PATTERN_REGEX}/;
export const TOPIC_MAX_LENGTH = {TOPIC_MAX};
"""


def frame_errors() -> str:
    """Return the codes of ``error`` frames."""
    return ", ".join(f"`{code}`" for code in get_args(FrameErrorCode))


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


PAGES = {PAGE: SECTIONS, CLIENT_PAGE: {"client-closes": client_closes}}


def written(path: Path) -> str:
    """Return a page with every section as the code has it."""
    page = path.read_text()
    for name, section in PAGES[path].items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        assert begin in page, f"{path} lacks {begin}"
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
    for page in PAGES:
        page.write_text(written(page))
    WIRE_CONSTANTS.write_text(wire_constants())
    for path, document in DOCUMENTS.items():
        path.write_text(written_out(document()))
