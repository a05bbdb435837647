"""The programs of ``docs/clients/``: what is shown of them, how each is checked, compiled and started."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
from textwrap import dedent
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


async def javascript(made: Path) -> list[str]:
    """Put the program into ``made``, beside the client that a page serves as ``/tocsin/``; return what starts it."""
    if not (started := node()):
        missing(f"Node is not installed; {INSTALL}")
    served = (ROOT / "service" / "console" / "client.js").as_uri()
    program = made / "stream-client.mjs"
    program.write_text(SOURCES["page"].read_text().replace("/tocsin/client.js", served))
    return [str(started), "--no-warnings", "--experimental-websocket", str(program)]


async def python(made: Path) -> list[str]:
    """Return the command that starts the Python program."""
    return [sys.executable, str(FOLDER / "python" / "client.py")]


async def python_loops(made: Path) -> list[str]:
    """Return the command that starts the loops with the service's own client."""
    return [sys.executable, str(FOLDER / "python" / "loops.py")]


async def plain_python(made: Path) -> list[str]:
    """Return the command that starts the loops without that client."""
    return [sys.executable, str(FOLDER / "python" / "plain.py")]


async def shell_curl(made: Path) -> list[str]:
    """Return the command that starts the loops with curl."""
    require("bash", "curl", "jq")
    return [str(FOLDER / "shell" / "curl.sh")]


async def shell_tocsin(made: Path) -> list[str]:
    """Return the command that starts the loops with ``tocsin``, which is put into ``made``."""
    require("bash", "jq")
    command(made / "tocsin", "-m service")
    return ["env", f"PATH={made}:{os.environ['PATH']}", str(FOLDER / "shell" / "tocsin.sh")]


def command(path: Path, arguments: str) -> None:
    """Make ``path`` a command that starts this Python with ``arguments``."""
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
    path.chmod(0o755)


LANGUAGES = {"go": go, "java": java, "rust": rust, "typescript": typescript, "python": python}
"""How each program that shows all operations is compiled, by the ``sub`` of its tokens."""
LOOPS = {
    "curl": shell_curl,
    "tocsin": shell_tocsin,
    "python": python_loops,
    "plain": plain_python,
    "typescript": typescript,
    "page": javascript,
    "go": go,
    "java": java,
    "rust": rust,
}
"""How each program with the loops is compiled, by the ``sub`` of its tokens."""
SOURCES = {
    "curl": FOLDER / "shell" / "curl.sh",
    "tocsin": FOLDER / "shell" / "tocsin.sh",
    "python": FOLDER / "python" / "loops.py",
    "plain": FOLDER / "python" / "plain.py",
    "typescript": FOLDER / "typescript" / "client.mts",
    "page": FOLDER / "javascript" / "stream-client.mjs",
    "go": FOLDER / "go" / "main.go",
    "java": FOLDER / "java" / "Client.java",
    "rust": FOLDER / "rust" / "src" / "main.rs",
}


FENCES = {".sh": "bash", ".py": "python", ".mts": "ts", ".mjs": "js", ".go": "go", ".java": "java", ".rs": "rust"}


def snippets(program: str) -> list[str]:
    """Return the names of the parts of a program that are shown."""
    return sorted(set(re.findall(r"8<-- \[start:(\w+)\]$", SOURCES[program].read_text(), re.MULTILINE)))


def snippet(program: str, name: str) -> str:
    """Return the parts of a program between the marks ``--8<-- [start:NAME]`` and ``[end:NAME]``, as Markdown."""
    source = SOURCES[program]
    part = rf"^ *(?:#|//) --8<-- \[start:{name}\]$(.*?)^ *(?:#|//) --8<-- \[end:{name}\]$"
    parts = re.findall(part, source.read_text(), re.MULTILINE | re.DOTALL)
    text = "\n\n".join(dedent(part).strip("\n") for part in parts)
    return f"```{FENCES[source.suffix]}\n{text}\n```"
