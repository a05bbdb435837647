"""The SBOM fits the lock file and the CycloneDX schema; an audit is green only if the database was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import urljoin

import httpx2
import jsonschema_rs
import pytest

from scripts import sbom
from scripts.audit import ADVISORIES, CANARY, NOT_CHECKED, NOTHING_KNOWN, QUERIES_MAX, audit, locked_packages
from scripts.lock_files import DEVELOPMENT_LOCK, NPM_LOCKS, RUNTIME_LOCK

pytestmark = pytest.mark.unit

Answer = Callable[[str], dict[str, Any]]

SCHEMAS = {
    name: json.loads((files("cyclonedx.schema._res") / name).read_text())
    for name in ("bom-1.6.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
}
"""The schema of an SBOM, and those that it refers to by these names."""
SERVICE = "tocsin"


def validator() -> jsonschema_rs.Validator:
    schema, *_ = SCHEMAS.values()
    registry = jsonschema_rs.Registry([(urljoin(schema["$id"], name), other) for name, other in SCHEMAS.items()])
    return jsonschema_rs.validator_for(schema, registry=registry, validate_formats=True)


def committed() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sbom.SBOM.read_text())
    return document


def pins(lock: str) -> set[str]:
    """Return ``name@version`` of each package of a lock file, by the plainest reading of it."""
    return {match[1] + "@" + match[2] for match in re.finditer(r"^(\S+)==(\S+)", lock, re.MULTILINE)}


def test_the_sbom_is_that_of_the_lock_file() -> None:
    assert sbom.check() == 0


def test_an_sbom_of_other_versions_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    lock = tmp_path / RUNTIME_LOCK.name
    lock.write_text(RUNTIME_LOCK.read_text().replace("starlette==", "starlette==99."))
    monkeypatch.setattr(sbom, "RUNTIME_LOCK", lock)
    assert sbom.check() == 1


def test_the_sbom_fits_the_schema_of_cyclonedx() -> None:
    validator().validate(committed())


@pytest.mark.parametrize("damage", [{"specVersion": 6}, {"serialNumber": "1"}, {"components": [{"name": "x"}]}])
def test_the_schema_refuses_what_is_no_sbom(damage: dict[str, Any]) -> None:
    assert not validator().is_valid(committed() | damage)


def test_the_sbom_lists_each_pin_of_the_lock_file_and_nothing_else() -> None:
    listed = {f"{component['name']}@{component['version']}" for component in committed()["components"]}
    assert listed == pins(RUNTIME_LOCK.read_text())
    assert len(listed) == len(committed()["components"])


def test_the_sbom_says_what_requires_what() -> None:
    requires = {entry["ref"]: entry.get("dependsOn", []) for entry in committed()["dependencies"]}
    named = {ref: {required.partition("/")[2].partition("@")[0] for required in requires[ref]} for ref in requires}
    starlette = next(ref for ref in requires if "/starlette@" in ref)
    assert {"fastapi", "asyncpg", "pyjwt"} <= named[SERVICE]
    assert "starlette" not in named[SERVICE]
    assert any(starlette in required for ref, required in requires.items() if "/fastapi@" in ref)

    reached, waiting = set[str](), [SERVICE]
    while waiting:
        if (ref := waiting.pop()) not in reached:
            reached.add(ref)
            waiting.extend(requires[ref])
    assert reached == set(requires), "nothing is installed that nobody requires"


def test_the_sbom_names_no_place_and_no_time() -> None:
    text = sbom.SBOM.read_text()
    assert re.findall(r"https?://[^\"/]+", text) == ["http://cyclonedx.org"], "the schema's name"
    assert "timestamp" not in text


@pytest.mark.parametrize("lock", [RUNTIME_LOCK, DEVELOPMENT_LOCK, *NPM_LOCKS], ids=str)
def test_lock_files_name_no_place(lock: Any) -> None:
    text = re.sub(r'"url": "[^"]*"', "", lock.read_text())  # whom npm packages ask for donations
    assert "://" not in text


def osv(answer: Answer, asked: list[str] | None = None) -> httpx2.Client:
    """Return a client of a database that answers for each package as documented, and knows about the canary."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        purls = [query["package"]["purl"] for query in json.loads(request.content)["queries"]]
        assert len(purls) <= QUERIES_MAX
        if asked is not None:
            asked.extend(purls)
        return httpx2.Response(200, json={"results": [known(purl) for purl in purls]})

    def known(purl: str) -> dict[str, Any]:
        return {"vulns": [{"id": "PYSEC-0"}]} if purl == str(CANARY) else answer(purl)

    return httpx2.Client(transport=httpx2.MockTransport(respond))


def test_an_audit_asks_about_every_package_of_every_lock_file(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    assert audit(osv(lambda _: {}, asked)) == NOTHING_KNOWN
    names = {purl.removeprefix("pkg:pypi/") for purl in asked}
    assert pins(RUNTIME_LOCK.read_text()) <= names
    assert pins(DEVELOPMENT_LOCK.read_text()) <= names

    for lock in NPM_LOCKS:
        npm = json.loads(lock.read_text())["packages"]
        for folder in filter(None, npm):
            name = npm[folder].get("name", folder.split("node_modules/")[-1]).replace("@", "%40")
            assert f"pkg:npm/{name}@{npm[folder]['version']}" in asked
    assert "none with a known advisory" in capsys.readouterr().out


def test_an_audit_names_what_has_an_advisory(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(osv(lambda purl: {"vulns": [{"id": "GHSA-1"}]} if "/starlette@" in purl else {})) == ADVISORIES
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"pkg:pypi/starlette@\S+: https://osv.dev/GHSA-1", first)
    assert last.endswith("; 1 with a known advisory.")


def test_an_audit_reads_every_page(capsys: pytest.CaptureFixture[str]) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        queries = json.loads(request.content)["queries"]
        pages = {None: {"vulns": [{"id": "A"}], "next_page_token": "2"}, "2": {"vulns": [{"id": "B"}]}}
        return httpx2.Response(200, json={"results": [pages[query.get("page_token")] for query in queries]})

    assert audit(httpx2.Client(transport=httpx2.MockTransport(respond))) == ADVISORIES
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert len(lines) == len(locked_packages())
    assert all(line.endswith("https://osv.dev/A, https://osv.dev/B") for line in lines)


def no_network(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("Name or service not known")


def too_slow(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadTimeout("")


def answers(status: int = 200, **body: Any) -> Callable[[httpx2.Request], httpx2.Response]:
    return lambda _: httpx2.Response(status, **body)


def knows_nothing(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"results": [{} for _ in json.loads(request.content)["queries"]]})


@pytest.mark.parametrize(
    "respond",
    [
        no_network,
        too_slow,
        answers(404, json={"message": "Not found"}),
        answers(405),
        answers(503),
        answers(302, headers={"Location": "https://portal.example/"}),
        answers(text="<html>Please sign in</html>"),
        answers(json=[]),
        answers(json={"results": []}),
        answers(json={"results": [{}]}),
        answers(json={"results": [{"vulns": [{"id": "about the first package"}]}]}),
        answers(json={"results": None}),
        answers(json={"code": 3, "message": "Invalid query."}),
        knows_nothing,
    ],
)
def test_an_audit_without_its_database_is_not_green(respond: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(httpx2.Client(transport=httpx2.MockTransport(respond))) == NOT_CHECKED
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("Not checked: ")
    assert re.search(r"querybatch: \S", line), "a reason"
