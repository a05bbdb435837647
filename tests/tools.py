"""Tools that the tests use and that live apart from the service's own packages, each in a pinned version.

``openapi-python-client`` wants an older typer than the service has, so uv keeps it in an environment of its own.
Spectral, a linter of contracts, is installed with npm into ``node_modules/``. ``python -m tests.tools`` gets both, and
says in one line each what will be skipped where one cannot be had. In CI nothing is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
GENERATOR = "openapi-python-client==0.29.1"
INSTALL_SECONDS = 300
SPECTRAL = "@stoplight/spectral-cli@6.16.3"


def in_generator(*command: str) -> list[str]:
    """Return a command that runs in the environment of the generator of clients."""
    return [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", GENERATOR, *command]


def generator() -> bool:
    """Say whether there is a generator of clients, once it is installed."""
    return _works(in_generator("openapi-python-client", "--version"))


def spectral() -> Path | None:
    """Return the path of Spectral, or None."""
    found = ROOT / "node_modules" / ".bin" / "spectral"
    return found if shutil.which("node") and found.exists() else None


def install_spectral() -> bool:
    """Install Spectral, and npm where apt is at hand, and say whether it is there."""
    if spectral() is None and not shutil.which("npm") and os.geteuid() == 0 and shutil.which("apt-get"):
        _works(["apt-get", "update", "-qq"])
        _works(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "npm"])
    if spectral() is None and (npm := shutil.which("npm")):
        quietly = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
        _works([npm, "install", "--prefix", str(ROOT), *quietly, SPECTRAL])
    return spectral() is not None


def missing(reason: str) -> None:
    """Skip the test that lacks a tool; in CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _works(command: Sequence[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = subprocess.DEVNULL
    try:
        run = subprocess.run(command, check=False, env=environment, stdout=quiet, stderr=quiet, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


def main() -> None:
    if not generator():
        print(f"Skipping the generated client: uv cannot install {GENERATOR}.")
    if spectral() is None:
        print("Installing Spectral for the linting of the contracts …", flush=True)
    if not install_spectral():
        print("Skipping the linting of the contracts: there is no npm; install the packages nodejs and npm.")


if __name__ == "__main__":
    main()
