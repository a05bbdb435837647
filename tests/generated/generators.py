"""The generators of clients that ``docs/other-languages.md`` names: each one's command, and how its client is built.

Each has a program in this folder that uses its client. It is copied into an empty folder beside what is generated
there from ``openapi/openapi.yaml``, and compiled.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.node_tools import ROOT, node
from tests.programs import require, run
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HERE = Path(__file__).parent
OPENAPI_GENERATOR = "7.25.0"
OPENAPI_PYTHON_CLIENT = "openapi-python-client==0.29.1"
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

    async def generate(self, folder: Path, *launcher: str | Path) -> str:
        """Run the command where the document is, with ``launcher`` in the place of the program."""
        (folder / "openapi").symlink_to(ROOT / "openapi")
        _, *arguments = shlex.split(self.command)
        return await run(*launcher, *arguments, folder=folder)


async def install(*command: str, folder: Path) -> None:
    """Run a command that fetches what a generator needs; without a registry the test is skipped, and fails in CI."""
    try:
        await run(*command, folder=folder)
    except AssertionError as error:
        missing(f"{' '.join(command)}: {error}")


async def go(generator: Generator, folder: Path, _: Path) -> list[str]:
    """Build a client with the versions of ``go.mod``."""
    require("go", "gofmt")
    retried = HERE / "go" / "retried.go"
    assert await run("gofmt", "-l", retried, generator.program, folder=folder) == ""
    for path in (HERE / "go" / "go.mod", HERE / "go" / "go.sum", retried, generator.program):
        shutil.copy(path, folder)
    (folder / "tocsin").mkdir()
    await install("go", "mod", "download", folder=folder)
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
        await install(*MAVEN, "dependency:copy", artifact, f"-DoutputDirectory={shared}", folder=shared)
    return jar


async def rust(generator: Generator, folder: Path, shared: Path) -> list[str]:
    """Build a client with the versions of ``Cargo.toml``, without TLS."""
    require("cargo", "rustfmt", "java", "mvn")
    shutil.copytree(HERE / "rust", folder, dirs_exist_ok=True)
    await run("rustfmt", "--check", "--edition", "2021", generator.program, folder=folder)
    await generator.generate(folder, "java", "-jar", await openapi_generator(shared))
    await install("cargo", "fetch", "--quiet", folder=folder)
    await run("cargo", "build", "--quiet", folder=folder, CARGO_TARGET_DIR=str(folder / "target"))
    return [str(folder / "target" / "debug" / "tocsin-client")]


async def typescript(generator: Generator, folder: Path, shared: Path) -> list[str]:
    """Build a client with the versions of ``package-lock.json``, which the first to ask installs."""
    require("npm", "npx")
    if not (started := node()):
        missing("Node is not installed, or too old")
    modules = shared / "typescript" / "node_modules"
    if not modules.exists():
        shutil.copytree(HERE / "typescript", modules.parent)
        await install("npm", "ci", "--loglevel=error", folder=modules.parent)
    (folder / "node_modules").symlink_to(modules)
    for name in ("package.json", "tsconfig.json", "retried.ts"):
        shutil.copy(HERE / "typescript" / name, folder)
    shutil.copy(generator.program, folder / "main.ts")
    await generator.generate(folder, "npx", "--no-install")
    await run(modules / ".bin" / "tsc", folder=folder)
    return [str(started), str(folder / "build" / "main.js")]


async def python(generator: Generator, folder: Path, _: Path) -> list[str]:
    """Generate a client, and run it where the generator is: it needs an older typer than the service does."""
    tool = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", OPENAPI_PYTHON_CLIENT]
    await install(*tool, "openapi-python-client", "--version", folder=folder)
    made = await generator.generate(folder, *tool, "openapi-python-client")
    warnings = [line for line in made.splitlines() if line.startswith(("WARNING", "Unable", "Unsupported"))]
    assert warnings == [], made
    shutil.copy(generator.program, folder / "tocsin-client")
    program = folder / "tocsin-client" / generator.program.name
    await run(*tool, "python", "-W", "error", "-m", "compileall", "-q", ".", folder=program.parent)
    return [*tool, "python", str(program)]


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
    "openapi-typescript": Generator(
        "TypeScript",
        "npx openapi-typescript openapi/openapi.yaml -o tocsin.d.ts",
        typescript,
        HERE / "typescript" / "openapi-typescript.ts",
    ),
    "hey-api": Generator(
        "TypeScript",
        "npx @hey-api/openapi-ts -i ./openapi/openapi.yaml -o tocsin",
        typescript,
        HERE / "typescript" / "hey-api.ts",
    ),
    "orval": Generator(
        "TypeScript",
        "npx orval --input openapi/openapi.yaml --output tocsin.ts --client fetch",
        typescript,
        HERE / "typescript" / "orval.ts",
    ),
    "openapi-python-client": Generator(
        "Python",
        "openapi-python-client generate --path openapi/openapi.yaml",
        python,
        HERE / "python" / "program.py",
    ),
}
