"""Schemathesis over the running service: every check, every operation, alone and in sequence."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.fuzz.hooks import SUBJECT
from tests.harness import ROOT, token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Process

pytestmark = pytest.mark.long

EXAMPLES_MIN = 2_000
SCOPES = "alerts:read alerts:write alerts:manage audit:read admin"
EVERY = "1000000/second"


@pytest.mark.timeout(600)
def test_the_service_does_what_its_document_says(start: Callable[..., Process], tmp_path: Path) -> None:
    limits = ("WRITE", "READ", "AUTH_FAILURE", "ANONYMOUS")
    node = start(**{f"TOCSIN_{name}_LIMIT": EVERY for name in limits})
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/fuzz/schemathesis.toml", "run"]
    run = subprocess.run(
        [
            *command,
            f"{node.base}/openapi.json",
            "--no-color",
            f"--header=Authorization: Bearer {token(SUBJECT, SCOPES)}",
            "--report=json",
            f"--report-json-path={report}",
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert report.exists(), run.stdout + run.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert (found["failures"], found["errors"], run.returncode) == ([], [], 0), run.stdout
    assert found["operations"]["tested"] == found["operations"]["total"], run.stdout
    assert found["test_cases"]["generated"] >= EXAMPLES_MIN
    assert "Traceback" not in node.log.read_text()
