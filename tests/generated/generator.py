"""``openapi-python-client``, which generates a client from ``openapi.yaml``.

It needs an older typer than the service does, so uv runs it in an environment of its own.
"""

from __future__ import annotations

import subprocess
import sys

GENERATOR = "openapi-python-client==0.29.1"
INSTALL_SECONDS = 300


def in_generator(*command: str) -> list[str]:
    """Return a command that runs in the environment of the generator."""
    return [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", GENERATOR, *command]


def is_installed() -> bool:
    """Install the generator where that is needed, and return whether it runs."""
    command = in_generator("openapi-python-client", "--version")
    try:
        run = subprocess.run(command, check=False, capture_output=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0
