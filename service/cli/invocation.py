"""How to call this program, for the commands that messages suggest."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def suggest(arguments: str) -> str:
    """Return a command line with these arguments that works in the working folder."""
    script = Path(sys.executable).with_name("tocsin")
    found = shutil.which("tocsin")
    if found is not None and Path(found).absolute() == script.absolute():
        return f"tocsin {arguments}"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m service {arguments}"
    if Path.cwd() in script.parents[1:]:
        script = script.relative_to(Path.cwd())
    return f"{shlex.quote(str(script))} {arguments}"
