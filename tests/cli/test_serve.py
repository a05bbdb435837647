from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

SECRET = "0123456789abcdef0123456789abcdef"


def test_without_a_key_a_node_does_not_start(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "TOCSIN_JWT_SECRET" in refused("serve")
    assert not list(tmp_path.iterdir())


def test_with_a_weak_secret_a_node_does_not_start(refused: Callable[..., str]) -> None:
    assert "32 or more" in refused("serve", TOCSIN_JWT_SECRET="hunter2")


def test_with_another_schema_a_node_does_not_start(refused_process: Callable[..., str], empty_url: str) -> None:
    variables = {"TOCSIN_JWT_SECRET": SECRET, "TOCSIN_DATABASE_URL": empty_url, "TOCSIN_PORT": "0"}
    assert "tocsin migrate" in refused_process("serve", **variables)


def test_a_misspelt_variable_is_mentioned(tocsin: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run = tocsin("serve", TOCSIN_JWT_SECRETT=SECRET)
    assert "TOCSIN_JWT_SECRETT is no setting; did you mean TOCSIN_JWT_SECRET?" in run.stderr.splitlines()[0]
