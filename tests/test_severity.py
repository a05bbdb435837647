from __future__ import annotations

import json

import pytest

import service.client
from service.severity import SEVERITIES, Severity
from tests.harness import ROOT

pytestmark = pytest.mark.unit


def test_the_client_and_the_console_know_the_same_severities() -> None:
    """Neither of them imports the server."""
    assert service.client.Severity == Severity
    console = ROOT / "service" / "console" / "stream"
    assert f"SEVERITIES = {json.dumps(SEVERITIES)};" in (console / "wire-constants.js").read_text()
    assert " | ".join(map(json.dumps, SEVERITIES)) in (console / "wire-types.js").read_text()
