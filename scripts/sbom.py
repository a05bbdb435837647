"""The software bill of materials: ``sbom.cdx.json`` lists what ``requirements.lock`` installs (CycloneDX 1.6).

``python -m scripts.sbom`` writes it (so do ``make reference`` and ``make lock``), and ``… check`` says whether it fits
the lock file. It is a function of the lock file and of ``pyproject.toml`` alone, so it has no time, and its serial
number is a hash. The hashes of the packages stand in the lock file: a version is several files, and which one is
installed depends on the machine.
"""

from __future__ import annotations

import sys
import tomllib
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion

from scripts.lock_files import ROOT, RUNTIME_LOCK, python_packages

SBOM = ROOT / "sbom.cdx.json"
PROJECT = ROOT / "pyproject.toml"
SCHEMA_VERSION = SchemaVersion.V1_6
MARKER_PROPERTY = "tocsin:environment-marker"
"""On a component that is not installed everywhere: the PEP 508 marker that says where."""


def document() -> str:
    """Return the text of the SBOM."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    service = Component(
        name=project["name"], version=project["version"], type=ComponentType.APPLICATION, bom_ref=project["name"]
    )
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"{service.name}@{service.version}\n{RUNTIME_LOCK.read_text()}"))
    bom.metadata.timestamp = None  # type: ignore[assignment]  # optional in the schema, and here it would never agree
    bom.metadata.component = service

    packages = [
        (
            package,
            Component(
                name=package.purl.name,
                version=package.purl.version,
                type=ComponentType.LIBRARY,
                purl=package.purl,
                bom_ref=str(package.purl),
                properties=[Property(name=MARKER_PROPERTY, value=package.marker)] if package.marker else [],
            ),
        )
        for package in python_packages(RUNTIME_LOCK)
    ]
    bom.components.update(component for _, component in packages)
    for requiring in [service, *bom.components]:
        required = [component for package, component in packages if requiring.name in package.required_by]
        bom.register_dependency(requiring, required)
    return make_outputter(bom, OutputFormat.JSON, SCHEMA_VERSION).output_as_string(indent=2) + "\n"


def check() -> int:
    """Return 0 if ``sbom.cdx.json`` fits the lock file, else 1."""
    if SBOM.exists() and SBOM.read_text() == document():
        return 0
    print(f"{SBOM.name} does not fit {RUNTIME_LOCK.name}: run make reference, and commit the result.")
    return 1


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        sys.exit(check())
    SBOM.write_text(document())
