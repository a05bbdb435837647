"""The wheel has all that the service reads, and works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

import alembic
from tests.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED = {"__pycache__", "node_modules"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, ROOT], check=True, cwd=folder)
    [wheel] = folder.glob("*.whl")
    packages = folder / "a folder's packages (100 %)"
    with ZipFile(wheel) as archive:
        archive.extractall(packages)
    # As in site-packages, where Alembic itself is the neighbour of the package.
    (packages / "alembic").symlink_to(Path(alembic.__file__).parent)
    return packages


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Run Python with the content of the wheel before the checkout, in an empty folder."""

    def run_python(*arguments: str, **variables: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": str(installed), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_python


@pytest.mark.parametrize(("source", "target"), [("service", "service"), ("alembic", "service/database/migrations")])
def test_every_file_is_in_the_wheel(installed: Path, source: str, target: str) -> None:
    files = [path for path in (ROOT / source).rglob("*") if path.is_file() and not IGNORED.intersection(path.parts)]
    assert files
    for path in files:
        copy = installed / target / path.relative_to(ROOT / source)
        assert copy.read_bytes() == path.read_bytes()


def test_the_wheel_is_what_runs(installed: Path, run: Callable[..., str]) -> None:
    assert Path(run("-c", "import service; print(service.__file__)").strip()).is_relative_to(installed)


def test_it_migrates_a_database(run: Callable[..., str], empty_url: str) -> None:
    said = run("-m", "service", "migrate", TOCSIN_DATABASE_URL=empty_url)
    assert said == "The schema is up to date.\n"
