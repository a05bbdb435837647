"""The programs of ``docs/other-languages.md``: where they are, and how each is checked, compiled and started."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from typing import TYPE_CHECKING

from scripts.node_tools import INSTALL, ROOT, node, tool
from scripts.system_packages import gson
from tests.requirements import missing

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "docs" / "clients"


async def run(*command: str | Path, folder: Path = FOLDER, **environment: str) -> str:
    """Run a command that must succeed, and return what it printed; what tests wait for beside it goes first."""
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "10"),
        *command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def require(*programs: str) -> None:
    """Skip the test if one of ``programs`` is not installed; in CI it fails."""
    for program in programs:
        if not shutil.which(program):
            missing(f"{program} is not installed")


async def go(made: Path) -> list[str]:
    """Compile the Go program into ``made``, and return the command that starts it."""
    require("go", "gofmt")
    assert await run("gofmt", "-l", ".", folder=FOLDER / "go") == ""
    await run("go", "vet", "./...", folder=FOLDER / "go")
    await run("go", "build", "-o", made / "client", ".", folder=FOLDER / "go")
    return [str(made / "client")]


async def java(made: Path) -> list[str]:
    """Compile the Java program for Java 11 into ``made``, and return the command that starts it."""
    await compile_java(FOLDER / "java" / "Client.java", made)
    return ["java", "-cp", f"{made}:{gson()}", "Client"]


async def compile_java(source: Path, made: Path) -> None:
    """Compile a class of Java 11, which may use Gson, into ``made``."""
    require("java", "javac")
    if not (jar := gson()):
        missing("Gson is not installed")
    await run("javac", "--release", "11", "-Xlint:all", "-Werror", "-cp", str(jar), "-d", made, source)


async def rust(made: Path) -> list[str]:
    """Compile the Rust program into ``made``, and return the command that starts it."""
    require("cargo", "rustfmt")
    await run("cargo", "fmt", "--check", folder=FOLDER / "rust")
    flags = {"RUSTFLAGS": "-D warnings", "CARGO_TARGET_DIR": str(made)}
    await run("cargo", "build", "--quiet", folder=FOLDER / "rust", **flags)
    return [str(made / "debug" / "tocsin-client")]


async def typescript(made: Path) -> list[str]:
    """Compile the TypeScript program into ``made``, and return the command that starts it."""
    started, tsc = node(), tool(".bin/tsc")
    if not started or not tsc:
        missing(f"Node or TypeScript is not installed; {INSTALL}")
    await run(str(tsc), "--project", FOLDER / "typescript", "--outDir", made)
    # Node 20 has WebSocket behind this flag, later versions accept the flag.
    return [str(started), "--no-warnings", "--experimental-websocket", str(made / "client.mjs")]


async def python(made: Path) -> list[str]:
    """Return the command that starts the Python program."""
    return [sys.executable, str(FOLDER / "python" / "client.py")]


LANGUAGES = {"go": go, "java": java, "rust": rust, "typescript": typescript, "python": python}
"""How each program is compiled, by the ``sub`` of its tokens."""
SOURCES = {
    "go": FOLDER / "go" / "main.go",
    "java": FOLDER / "java" / "Client.java",
    "rust": FOLDER / "rust" / "src" / "main.rs",
    "typescript": FOLDER / "typescript" / "client.mts",
    "python": FOLDER / "python" / "client.py",
}
