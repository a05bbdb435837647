"""Tools that the tests use and that live apart from the service's own packages, each in a pinned version.

``openapi-python-client`` wants an older typer than the service has, so uv keeps it in an environment of its own.
Spectral, a linter of contracts, TypeScript, which checks the types of the console's JavaScript, axe, which finds what
keeps people out of a page, and oidc-provider, where a person can sign in, are installed with npm into
``node_modules/``. ``python -m tests.tools`` gets them all, and says in one line each what will be skipped where one
cannot be had; ``python -m tests.tools types`` (in ``make check``) gets TypeScript alone and checks. In CI nothing is
skipped.
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
PACKAGES = {
    "spectral": "@stoplight/spectral-cli@6.16.3",
    "tsc": "typescript@7.0.2",
    "axe": "axe-core@4.14.1",
    "oidc": "oidc-provider@9.13.3",
    "node": "node@22.23.3",
}
"""The npm package of each command, and of two that are scripts: what looks at a page, and a place to sign in.

Node is for machines whose own is older than the tests need.
"""
SCRIPTS = {"axe": "axe-core/axe.min.js", "oidc": "oidc-provider/lib/index.js"}
NO_NPM = "there is no npm; install the packages nodejs and npm"
NODE_AT_LEAST = (20, 19)
"""It knows ES modules by their content, and WebSockets."""
TYPES = ROOT / "tests" / "console" / "tsconfig.json"


def in_generator(*command: str) -> list[str]:
    """Return a command that runs in the environment of the generator of clients."""
    return [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", GENERATOR, *command]


def generator() -> bool:
    """Say whether there is a generator of clients, once it is installed."""
    return _works(in_generator("openapi-python-client", "--version"))


def node_tool(name: str) -> Path | None:
    """Return the path of a command or script that npm installs, or None."""
    found = ROOT / "node_modules" / SCRIPTS.get(name, f".bin/{name}")
    return found if shutil.which("node") and found.exists() else None


def install_node_tools(*names: str) -> bool:
    """Install commands, and npm where apt is at hand, and say whether they are there."""
    if all(map(node_tool, names)):
        return True
    if not shutil.which("npm") and os.geteuid() == 0 and shutil.which("apt-get"):
        _works(["apt-get", "update", "-qq"])
        _works(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "npm"])
    if npm := shutil.which("npm"):
        # npm removes what is not named and in no package.json: so what is there already is named again.
        wanted = [package for name, package in PACKAGES.items() if name in names or node_tool(name)]
        quietly = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
        _works([npm, "install", "--prefix", str(ROOT), *quietly, *wanted])
    return all(map(node_tool, names))


def node() -> str | None:
    """Return the path of a Node that is new enough for the tests of the stream client, or None."""
    candidates = (shutil.which("node"), str(ROOT / "node_modules" / ".bin" / "node"))
    return next((path for path in candidates if path and _node_version(path) >= NODE_AT_LEAST), None)


def _node_version(path: str) -> tuple[int, ...]:
    try:
        run = subprocess.run([path, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return (0,)
    return tuple(map(int, run.stdout.strip().removeprefix("v").split(".")))


def check_types() -> int:
    """Check the types of the console's modules, and return the exit code of ``make check``."""
    if not node_tool("tsc"):
        print("Installing TypeScript for the types of the console …", flush=True)
    if not install_node_tools("tsc"):
        print(f"Skipping the types of the console: {NO_NPM}.")
        return 1 if os.environ.get("CI") else 0
    return subprocess.run([str(node_tool("tsc")), "--project", str(TYPES)], check=False).returncode


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


def install_node() -> bool:
    """Install a newer Node beside the machine's, where the tests of the stream client need one."""
    return bool(node()) or (install_node_tools("node") and bool(node()))


def main() -> None:
    if not generator():
        print(f"Skipping the generated client: uv cannot install {GENERATOR}.")
    tools = ("spectral", "tsc", "axe", "oidc")
    if not all(map(node_tool, tools)):
        print("Installing Spectral, TypeScript, axe and oidc-provider for the contracts and the console …", flush=True)
    if not install_node_tools(*tools):
        print(f"Skipping the linting of the contracts, the looks of axe and OpenID Connect: {NO_NPM}.")
    if not install_node():
        print(f"Skipping the tests of the stream client under Node: {NO_NPM}.")


if __name__ == "__main__":
    if sys.argv[1:] == ["types"]:
        sys.exit(check_types())
    main()
