"""Known advisories about what the lock files pin, from the database of OSV, which includes PyPA's and GitHub's.

``python -m scripts.audit`` (``make audit``) asks about each package of ``requirements.lock``, ``requirements-dev.lock``
and each ``package-lock.json``, on whatever platform it would be installed. It exits with 0 if no advisory is known,
with 1 if one is, and with 3 if the database could not be asked, or answered otherwise than documented: then nothing is
known.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx2
from packageurl import PackageURL

from scripts.lock_files import DEVELOPMENT_LOCK, NPM_LOCKS, RUNTIME_LOCK, npm_packages, python_packages

if TYPE_CHECKING:
    from collections.abc import Iterable

URL = "https://api.osv.dev/v1/querybatch"
"""https://google.github.io/osv.dev/post-v1-querybatch/"""
QUERIES_MAX = 1000
"""Queries of one request; the limit of OSV."""
TIMEOUT_SECONDS = 30
CANARY = PackageURL("pypi", None, "jinja2", "2.4.1")
"""A package with advisories: whoever knows none about it is no database of them."""

NOTHING_KNOWN, ADVISORIES, NOT_CHECKED = 0, 1, 3


def locked_packages() -> list[PackageURL]:
    """Return every package of every lock file, once."""
    packages = [*python_packages(RUNTIME_LOCK), *python_packages(DEVELOPMENT_LOCK)]
    packages += [package for lock in NPM_LOCKS for package in npm_packages(lock)]
    return sorted({package.purl for package in packages}, key=str)


def advisories(client: httpx2.Client, packages: Iterable[PackageURL]) -> dict[PackageURL, list[str]]:
    """Return the ids of the advisories about each package that has some.

    Raises ``httpx2.HTTPError`` if the database cannot be asked, and ``ValueError`` if its answer is not as documented.
    """
    found: dict[PackageURL, list[str]] = {}
    waiting: list[tuple[PackageURL, str | None]] = [(package, None) for package in packages]
    while waiting:
        asked, waiting = waiting[:QUERIES_MAX], waiting[QUERIES_MAX:]
        for (package, _), (ids, next_page) in zip(asked, _query(client, asked), strict=True):
            if ids:
                found.setdefault(package, []).extend(ids)
            if next_page:
                waiting.append((package, next_page))
    return found


def _query(client: httpx2.Client, asked: list[tuple[PackageURL, str | None]]) -> list[tuple[list[str], str | None]]:
    """Return the ids of the advisories about each package, and the token of the page on which there are more."""
    queries = [{"package": {"purl": str(package)}, **({"page_token": page} if page else {})} for package, page in asked]
    response = client.post(URL, json={"queries": queries}).raise_for_status()
    try:
        results = [
            ([advisory["id"] for advisory in result.get("vulns", ())], result.get("next_page_token"))
            for result in response.json()["results"]
        ]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("the answer is not as documented") from None
    if len(results) != len(asked):
        raise ValueError(f"{len(results)} results for {len(asked)} packages")
    return results


def audit(client: httpx2.Client) -> int:
    """Print what is known about the packages of the lock files; return an exit code."""
    packages = locked_packages()
    try:
        found = advisories(client, [CANARY, *packages])
        if not found.pop(CANARY, ()):
            raise ValueError(f"the answer knows no advisory about {CANARY}, which has some")  # noqa: TRY301
    except (httpx2.HTTPError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"Not checked: {len(packages)} locked packages could not be looked up at {URL}: {reason}")
        return NOT_CHECKED
    for package, ids in found.items():
        print(f"{package}: {', '.join(f'https://osv.dev/{advisory}' for advisory in ids)}")
    print(f"{len(packages)} locked packages were looked up; {len(found) or 'none'} with a known advisory.")
    return ADVISORIES if found else NOTHING_KNOWN


if __name__ == "__main__":
    with httpx2.Client(timeout=TIMEOUT_SECONDS) as osv:
        sys.exit(audit(osv))
