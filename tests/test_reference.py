from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from service.errors import CloseReason, all_refusals
from service.http import problems
from service.stream import frames
from tests.harness import ROOT
from tests.reference import DOCUMENTS, PAGE, SECTIONS, WIRE_CONSTANTS, wire_constants, written, written_out

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

TEXT = PAGE.read_text()


@pytest.mark.parametrize("path", SECTIONS, ids=lambda path: path.name)
def test_what_is_generated_of_a_page_is_as_the_code_has_it(path: Path) -> None:
    assert written(path) == path.read_text(), "run make reference"


def test_the_constants_of_the_console_are_those_of_the_service() -> None:
    assert wire_constants() == WIRE_CONSTANTS.read_text(), "run make reference"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_contract_is_that_of_the_code(path: Path) -> None:
    assert written_out(DOCUMENTS[path]()) == path.read_text(), "run make reference"


def test_every_frame_type_is_documented() -> None:
    documented = set(re.findall(r'^\{"type": ?"(\w+)"', TEXT, re.MULTILINE))
    assert documented == {*frames.SERVER_FRAMES, *frames.CLIENT_FRAMES}


def test_every_operation_is_documented() -> None:
    """A cell of the table may name several that end alike, such as ``…/resolve``."""
    table = TEXT.partition("## REST")[2].partition("**Posting.**")[0]
    named = set()
    for method, first, others in re.findall(r"^\| `(\w+) ([^`?]+)`((?:, `…/\w+`)*)", table, re.MULTILINE):
        named |= {(method, first)} | {
            (method, f"{first.rpartition('/')[0]}/{other}") for other in re.findall(r"…/(\w+)", others)
        }
    document = yaml.safe_load((ROOT / "openapi" / "openapi.yaml").read_text())
    assert named >= {
        (method.upper(), re.sub(r"\{(alert_id|connection_id)\}", "{id}", path))
        for path, operations in document["paths"].items()
        for method in operations
    }


def test_a_refused_handshake_and_a_refused_request_share_their_names() -> None:
    codes = {kind.code for kind in all_refusals()}
    for name in ("token_missing", "token_invalid", "token_expired", "scope_missing", "topic_forbidden", "rate_limited"):
        assert name in codes
        assert CloseReason.named(name).reason == name


def test_the_tree_of_errors_is_drawn_whole() -> None:
    import service.errors  # noqa: PLC0415 - its docstring is what is read

    drawing = service.errors.__doc__ or ""
    for kind in all_refusals():
        assert re.search(rf"{kind.__name__} +{kind.status} +{kind.code}\b", drawing), kind.__name__


def test_problem_types_are_urns_of_their_codes() -> None:
    for kind in all_refusals():
        assert f'"type":"urn:tocsin:problem:{kind.code}"' in bytes(problems.problem_response(kind("why")).body).decode()
