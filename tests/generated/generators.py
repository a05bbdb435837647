"""The generators of clients that ``docs/other-languages.md`` names: each one's command, and how its client is built.

Each has a program in this folder that uses its client. It is copied into an empty folder beside what is generated
there from ``openapi/openapi.yaml``, and compiled.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.node_tools import ROOT
from tests.programs import require, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HERE = Path(__file__).parent
OPENAPI_GENERATOR = "7.25.0"
MAVEN = ("mvn", "--batch-mode", "--quiet")


@dataclass(frozen=True)
class Generator:
    """One generator."""

    language: str
    command: str
    """How the page says to call it, where ``openapi/`` is. Its first word is the program."""
    build: Callable[[Generator, Path, Path], Awaitable[list[str]]]
    """Generates and compiles in a folder, with a folder that is shared with others; returns what starts the client."""
    program: Path

    async def generate(self, folder: Path, *launcher: str | Path) -> None:
        """Run the command in a folder that has the document, with ``launcher`` in the place of the program."""
        (folder / "openapi").symlink_to(ROOT / "openapi")
        _, *arguments = shlex.split(self.command)
        await run(*launcher, *arguments, folder=folder)


async def go(generator: Generator, folder: Path, _: Path) -> list[str]:
    """Build a client with the versions of ``go.mod``."""
    require("go", "gofmt")
    assert await run("gofmt", "-l", generator.program, folder=folder) == ""
    for path in (HERE / "go" / "go.mod", HERE / "go" / "go.sum", generator.program):
        shutil.copy(path, folder)
    (folder / "tocsin").mkdir()
    await generator.generate(folder, "go", "tool", generator.command.split()[0])
    await run("go", "vet", ".", folder=folder)
    await run("go", "build", "-o", "client", ".", folder=folder)
    return [str(folder / "client")]


async def java(generator: Generator, folder: Path, shared: Path) -> list[str]:
    """Build a client as the ``pom.xml`` says that is generated with it."""
    require("java", "javac", "mvn")
    jar = await openapi_generator(shared)
    await generator.generate(folder, "java", "-jar", jar)
    sources = folder / "tocsin-java" / "src" / "main" / "java"
    shutil.copy(HERE / "java" / "Program.java", sources)
    shutil.copy(generator.program, sources)
    build = ("compile", "dependency:build-classpath", "-Dmdep.outputFile=classpath")
    await run(*MAVEN, *build, folder=folder / "tocsin-java")
    classpath = (folder / "tocsin-java" / "classpath").read_text()
    return ["java", "-cp", f"{folder / 'tocsin-java' / 'target' / 'classes'}:{classpath}", "Program"]


async def openapi_generator(shared: Path) -> Path:
    """Return the path of openapi-generator; the first to ask fetches it."""
    jar = shared / f"openapi-generator-cli-{OPENAPI_GENERATOR}.jar"
    if not jar.exists():
        artifact = f"-Dartifact=org.openapitools:openapi-generator-cli:{OPENAPI_GENERATOR}"
        await run(*MAVEN, "dependency:copy", artifact, f"-DoutputDirectory={shared}", folder=shared)
    return jar


async def rust(generator: Generator, folder: Path, shared: Path) -> list[str]:
    """Build a client with the versions of ``Cargo.toml``, without TLS."""
    require("cargo", "rustfmt", "java", "mvn")
    shutil.copytree(HERE / "rust", folder, dirs_exist_ok=True)
    await run("rustfmt", "--check", "--edition", "2021", generator.program, folder=folder)
    await generator.generate(folder, "java", "-jar", await openapi_generator(shared))
    await run("cargo", "build", "--quiet", folder=folder, CARGO_TARGET_DIR=str(folder / "target"))
    return [str(folder / "target" / "debug" / "tocsin-client")]


GENERATORS = {
    "oapi-codegen": Generator(
        "Go",
        "oapi-codegen -generate types,client -package tocsin -o tocsin/tocsin.gen.go openapi/openapi.yaml",
        go,
        HERE / "go" / "oapi-codegen" / "main.go",
    ),
    "ogen": Generator(
        "Go",
        "ogen --target tocsin --package tocsin --clean openapi/openapi.yaml",
        go,
        HERE / "go" / "ogen" / "main.go",
    ),
    "native": Generator(
        "Java",
        "openapi-generator-cli generate -i openapi/openapi.yaml -g java --library native -o tocsin-java",
        java,
        HERE / "java" / "native" / "Library.java",
    ),
    "okhttp-gson": Generator(
        "Java",
        "openapi-generator-cli generate -i openapi/openapi.yaml -g java --library okhttp-gson -o tocsin-java",
        java,
        HERE / "java" / "okhttp-gson" / "Library.java",
    ),
    "reqwest": Generator(
        "Rust",
        "openapi-generator-cli generate -i openapi/openapi.yaml -g rust --library reqwest -o tocsin-rust",
        rust,
        HERE / "rust" / "src" / "main.rs",
    ),
}
