"""The versions that the lock files pin: those of Python packages, and those of npm packages.

There are two of npm: for the tools of the checks and the tests, and for the generators of clients.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packageurl import PackageURL

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
RUNTIME_LOCK = ROOT / "requirements.lock"
DEVELOPMENT_LOCK = ROOT / "requirements-dev.lock"
NPM_LOCKS = (ROOT / "package-lock.json", ROOT / "tests" / "generated" / "typescript" / "package-lock.json")

PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>.+?))? \\$")
REQUIRED_BY = re.compile(r"^    #(?: via)?\s+(?P<name>[\w.-]+)(?: \(.*\))?$")


@dataclass(frozen=True)
class PinnedPackage:
    """One version of a package, the environments that install it (PEP 508), and the packages that require it."""

    purl: PackageURL
    marker: str | None = None
    required_by: tuple[str, ...] = ()


def python_packages(lock: Path) -> list[PinnedPackage]:
    """Return the packages of a lock file that uv wrote. One name may occur twice, for different environments."""
    entries: list[tuple[re.Match[str], list[str]]] = []
    for line in lock.read_text().splitlines():
        if pin := PIN.match(line):
            entries.append((pin, []))
        elif requiring := REQUIRED_BY.match(line):
            entries[-1][1].append(requiring["name"])
    return [
        PinnedPackage(PackageURL("pypi", None, pin["name"], pin["version"]), pin["marker"], tuple(required_by))
        for pin, required_by in entries
    ]


def npm_packages(lock: Path) -> list[PinnedPackage]:
    """Return the packages of a ``package-lock.json``."""
    return [PinnedPackage(purl) for purl in sorted(set(_npm_purls(lock)), key=str)]


def _npm_purls(lock: Path) -> Iterator[PackageURL]:
    for folder, package in json.loads(lock.read_text())["packages"].items():
        if folder:  # the package at "" is this checkout
            # A folder is named after its package, unless package.json gave it another name.
            namespace, _, name = package.get("name", folder.rpartition("node_modules/")[2]).rpartition("/")
            yield PackageURL("npm", namespace or None, name, package["version"])
