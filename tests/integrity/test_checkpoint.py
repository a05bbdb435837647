from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.errors import CommandFailed
from service.integrity.checkpoint import Checkpoint
from service.integrity.link_checks import LinkRef

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

HERE, THERE = LinkRef(17, bytes(range(32))), LinkRef(4, b"\xff" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "state.json"


def test_progress_is_read_as_it_was_saved(path: Path) -> None:
    checkpoint = Checkpoint.read(path, "db")
    checkpoint.save_progress("log", THERE)
    checkpoint.save_progress("log", HERE)
    checkpoint.save_progress("ledger", THERE)
    assert Checkpoint.read(path, "db") == Checkpoint(path, "db", progress={"log": HERE, "ledger": THERE})


def test_a_complete_run_leaves_its_heads_and_no_progress(path: Path) -> None:
    checkpoint = Checkpoint(path, "db")
    checkpoint.save_progress("log", THERE)
    checkpoint.save_heads({"log": HERE})
    assert Checkpoint.read(path, "db") == Checkpoint(path, "db", heads={"log": HERE})


def test_progress_leaves_the_heads_of_the_run_before(path: Path) -> None:
    Checkpoint(path, "db").save_heads({"log": THERE})
    Checkpoint.read(path, "db").save_progress("log", HERE)
    assert Checkpoint.read(path, "db") == Checkpoint(path, "db", {"log": HERE}, {"log": THERE})


def test_a_checkpoint_of_another_database_is_empty(path: Path) -> None:
    Checkpoint(path, "db").save_heads({"log": HERE})
    assert Checkpoint.read(path, "other") == Checkpoint(path, "other")


@pytest.mark.parametrize(
    "content", ["", "5", "{}", '{"database": "db"}', '{"database": "db", "progress": {"log": 5}, "heads": {}}']
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(CommandFailed, match="--from-start"):
        Checkpoint.read(path, "db")


def test_a_checkpoint_that_cannot_be_written_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match="--state"):
        Checkpoint(tmp_path / "file" / "state.json", "db").save_progress("log", HERE)
