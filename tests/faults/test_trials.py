"""The trials of ``make test-long``: each fault once, and then random ones.

``TRIAL_SEED`` is the first seed, ``TRIAL_SEEDS`` how many random trials there are.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.faults.trials.trial import PLANS, lacking, make_folder, make_template, random_plan, run
from tests.fixtures.postgres_cluster import DEBIAN, Server, wheel
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.trials.trial import Plan

pytestmark = pytest.mark.long

SEED = int(os.environ.get("TRIAL_SEED", "300"))
SEEDS = int(os.environ.get("TRIAL_SEEDS", "8"))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = make_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def templates(folder: Path) -> list[Server]:
    """Servers of each PostgreSQL that is here, with the schema."""
    return [make_template(folder / path.parts[-2], path) for path in (wheel(), DEBIAN) if path.is_dir()]


async def find_nothing_wrong(plan: Plan, seed: int, templates: list[Server], folder: Path) -> None:
    if lack := lacking(plan):
        missing(lack)
    place = folder / f"{plan.name} {seed}"
    place.mkdir(mode=0o755)
    verdict = await run(plan, seed, templates[seed % len(templates)], place)
    print(verdict.summary)
    assert not verdict.complaints, "\n".join([f"TRIAL_SEED={seed}: {verdict.summary}", *verdict.complaints[:20]])
    shutil.rmtree(place)


@pytest.mark.parametrize("plan", [pytest.param(plan, id=plan.name) for plan in PLANS])
async def test_what_clients_wrote_down_agrees_with_the_log_and_the_ledger_after(
    plan: Plan, templates: list[Server], folder: Path
) -> None:
    await find_nothing_wrong(plan, SEED, templates, folder)


@pytest.mark.parametrize("nth", range(SEEDS))
async def test_what_clients_wrote_down_agrees_with_the_log_and_the_ledger_after_random_faults(
    nth: int, templates: list[Server], folder: Path
) -> None:
    seed = SEED + nth
    await find_nothing_wrong(random_plan(seed), seed, templates, folder)
