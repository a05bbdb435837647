"""``tocsin resolve`` against a real node."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from tests.harness import READ, WRITE, Node, token

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def test_it_prints_how_many_it_resolved(lenient: Node, tocsin: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    key = uuid.uuid4().hex
    variables = {"TOCSIN_URL": lenient.base, "TOCSIN_TOKEN": token("ops", WRITE)}
    for topic in ("a", "b", "c"):
        tocsin("send", "--title", "backup failed", "--topic", topic, "--dedup-key", key, **variables)
    for arguments, resolved in (((key, "--topic", "a"), "1"), ((key,), "2"), ((key,), "0")):
        run = tocsin("resolve", *arguments, **variables)
        assert (run.returncode, run.stdout, run.stderr) == (0, f"{resolved}\n", "")


def test_what_is_refused_is_said_in_a_line(
    lenient: Node, tocsin: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = tocsin("resolve", "k", TOCSIN_URL=lenient.base, TOCSIN_TOKEN=token("ops", READ))
    assert (run.returncode, run.stdout) == (1, "")
    assert "ask for a token with that scope" in run.stderr
