"""Files that are generated from the code: tables of the reference, the commands in ``docs/other-languages.md``, the
loops in ``docs/loops.md``, the contracts in ``openapi/``, console constants.

``python -m tests.reference`` (``make reference``) writes them; ``test_reference.py`` holds them equal.
"""

from __future__ import annotations

import ast
import inspect
import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from prometheus_client import REGISTRY

import service.metrics  # noqa: F401 - registers the metrics
from service.alerts.batch_request import ITEMS_MAX, LINES_MAX
from service.alerts.event_size import alert_max_bytes
from service.alerts.fields import (
    ATTRIBUTES_MAX_BYTES,
    ATTRIBUTES_MAX_DEPTH,
    BODY_MAX_BYTES,
    ESCALATE_MAX,
    EXCLUDED_MAX,
    LINKS_MAX,
    LISTED_MAX,
    NUMBER_MAX,
    NUMBER_MIN,
    RECIPIENTS_MAX,
    TITLE_MAX,
    URL_MAX,
    WORDS_MAX,
)
from service.alerts.search_index import SPLIT_ALERT_BYTES, SPLIT_BYTES
from service.app import create_app
from service.auth.issuers import load_keyring
from service.auth.principal import SUBJECT_MAX
from service.database.base import STATUSES
from service.database.engine import parse_url
from service.errors import CloseReason, all_refusals
from service.http.request_body import BATCH_VALUES_MAX, VALUES_MAX
from service.http.request_bounds import HEADERS_MAX, PARAMETERS_MAX, PATH_MAX_BYTES, QUERY_MAX_BYTES
from service.http.server_protocol import HEADERS_MAX_BYTES
from service.settings import EVENT_MAX_BYTES, PREFIX, Settings, groups
from service.severity import SEVERITIES
from service.stream.asyncapi import document as asyncapi_document
from service.stream.frames import FrameErrorCode
from service.stream.protocol import SEEN_MAX
from service.topics import PATTERN_REGEX, TOPIC_MAX, TOPIC_REGEX
from tests.generated.generators import GENERATORS
from tests.programs import LOOPS, snippet, snippets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
PROGRAMS = ROOT / "docs" / "other-languages.md"
LOOPS_PAGE = ROOT / "docs" / "loops.md"
OPENAPI = ROOT / "openapi" / "openapi.yaml"
ASYNCAPI = ROOT / "openapi" / "asyncapi.yaml"
WIRE_CONSTANTS = ROOT / "service" / "console" / "stream" / "wire-constants.js"


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
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
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


def wire_constants() -> str:
    """Return the module of the console that holds what the browser has to know of the wire format."""
    policies = "".join(f'  {close.reason}: "{close.policy}",\n' for close in CloseReason)
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

/** How many alerts one `seen` may name. */
export const SEEN_MAX = {SEEN_MAX};
"""


def limits() -> str:
    """Return the table of what a request may have; the settings hold the sizes of bodies."""
    rows = [
        ("an alert", f"{alert_max_bytes(EVENT_MAX_BYTES)} bytes as JSON: `TOCSIN_EVENT_MAX_BYTES` less 6 KiB"),
        ("`title`, the title of a link, `dedup_key`", f"{TITLE_MAX} characters"),
        ("`body`, a comment", f"{BODY_MAX_BYTES} bytes of UTF-8"),
        ("`attributes`", f"{ATTRIBUTES_MAX_BYTES} bytes as JSON, {ATTRIBUTES_MAX_DEPTH} levels"),
        ("an integer in `attributes`", "±(2^53 - 1); send larger ones as text"),
        ("another number in `attributes`", f"{NUMBER_MIN:g} to {NUMBER_MAX:g}, and 0"),
        ("`links`", f"{LINKS_MAX} items"),
        ("the `url` of a link", f"{URL_MAX} characters"),
        ("`recipients`", f"{RECIPIENTS_MAX} items of {SUBJECT_MAX} characters"),
        ("`topic`", f"{TOPIC_MAX} characters"),
        ("`Idempotency-Key`", f"{SUBJECT_MAX} characters"),
        ("`escalate_after`", f"{ESCALATE_MAX} seconds"),
        ("a batch, a notification of Alertmanager", f"{ITEMS_MAX} alerts"),
        ("NDJSON", f"{LINES_MAX} lines, blank ones included"),
        ("`q`", f"{WORDS_MAX} characters, {EXCLUDED_MAX} terms that exclude"),
        (
            "alerts that a search by words reads beside its index",
            f"the newest {SPLIT_BYTES // 1024**2} MiB, each counted as its text and {SPLIT_ALERT_BYTES} bytes",
        ),
        ("a query parameter that is repeated", f"{LISTED_MAX} items"),
        ("the path of an address", f"{PATH_MAX_BYTES} bytes"),
        ("the query of an address", f"{QUERY_MAX_BYTES} bytes, {PARAMETERS_MAX} parameters"),
        ("request line and headers", f"{HEADERS_MAX_BYTES} bytes, {HEADERS_MAX} headers"),
        ("the JSON of one alert", f"{VALUES_MAX} values (commas and opening brackets)"),
        ("the JSON of several alerts, or of CloudEvents", f"{BATCH_VALUES_MAX} values"),
    ]
    return table(("what", "at most"), rows)


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


def generators() -> str:
    """Return the table of the generators of clients."""
    rows = [(generator.language, f"`{generator.command}`") for generator in GENERATORS.values()]
    return table(("language", "command"), rows)


SECTIONS: dict[Path, dict[str, Callable[[], str]]] = {
    PAGE: {
        "settings": settings,
        "problems": problems,
        "closes": closes,
        "limits": limits,
        "frame-errors": frame_errors,
        "metrics": metrics,
    },
    PROGRAMS: {"generators": generators},
    LOOPS_PAGE: {
        f"{name}-{program}": partial(snippet, program, name) for program in LOOPS for name in snippets(program)
    },
}
"""What is generated of each page."""


def written(path: Path) -> str:
    """Return a page with every section as the code has it."""
    page = path.read_text()
    for name, section in SECTIONS[path].items():
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
    for path in SECTIONS:
        path.write_text(written(path))
    WIRE_CONSTANTS.write_text(wire_constants())
    for path, document in DOCUMENTS.items():
        path.write_text(written_out(document()))
