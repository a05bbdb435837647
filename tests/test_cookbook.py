"""``docs/audit.md``: each query of the page is run, and answers in the shape that the page shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.cookbook import PAGE, answers, recipes

if TYPE_CHECKING:
    from tests.harness import Node

MAY_BE_EMPTY = ("Is the log complete?", "What was purged")


def columns(printed: str) -> list[str]:
    return [name.strip() for name in printed.splitlines()[0].split("|")]


def rows(printed: str) -> int:
    found = re.search(r"^\((\d+) rows?\)$", printed, re.MULTILINE)
    assert found, printed
    return int(found[1])


async def test_each_query_of_the_page_is_answered_as_the_page_says(database_url: str) -> None:
    given = await answers(database_url)
    for recipe in recipes():
        printed = given[recipe.question]
        assert recipe.answer, f"{recipe.question}: run python -m tests.cookbook"
        assert columns(printed) == columns(recipe.answer), recipe.question
        assert rows(printed) == rows(recipe.answer), recipe.question
        assert rows(printed) or any(words in recipe.question for words in MAY_BE_EMPTY), recipe.question


async def test_the_page_has_twenty_questions_and_asks_every_view(node: Node) -> None:
    asked = {view for recipe in recipes() for view in re.findall(r"audit\.(\w+)", recipe.query)}
    views = {row[0] for row in await node.sql("SELECT viewname FROM pg_views WHERE schemaname = 'audit'")}
    assert len(recipes()) == 20
    # audit.tokens has what is in audit.revocations, and their use; audit.names may be joined to each.
    # audit.resume_points is of streams: docs/reference.md explains it.
    assert views - asked <= {"revocations", "names", "resume_points"}
    assert all(f"### {number}." in PAGE.read_text() for number in range(1, 21))
