"""A client that is generated from ``openapi.yaml``, and used."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.generated.generator import in_generator, is_installed
from tests.harness import token
from tests.reference import OPENAPI
from tests.requirements import missing

if TYPE_CHECKING:
    from tests.harness import Node

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).parent / "client_script.py"


def run(*command: str, **environment: str) -> str:
    """Run a command in the generator's environment, and return what it printed."""
    done = subprocess.run(
        in_generator(*command),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_generated_client_posts_lists_acknowledges_and_batches(node: Node, tmp_path: Path) -> None:
    if not is_installed():
        missing("uv cannot install openapi-python-client")
    made = run("openapi-python-client", "generate", f"--path={OPENAPI}", f"--output-path={tmp_path / 'made'}")
    warnings = [line for line in made.splitlines() if line.startswith(("WARNING", "Unable", "Unsupported"))]
    assert warnings == [], made
    run("python", "-W", "error", "-m", "compileall", "-q", str(tmp_path / "made"))
    scope = "alerts:read alerts:write alerts:manage"
    kinds = run(
        "python",
        str(SCRIPT),
        node.base,
        token("alice", scope),
        token("bob", scope),
        PYTHONPATH=str(tmp_path / "made"),
        NO_PROXY="127.0.0.1",
    )
    assert json.loads(kinds) == ["alert.created", "alert.acknowledged", "alert.commented"]
