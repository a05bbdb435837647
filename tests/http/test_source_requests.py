from __future__ import annotations

import pytest

from service.auth.principal import Principal
from service.http.provided import parts_of
from service.http.source_requests import PostOutcome, SourceCounter, count_refused
from tests.http.requests import request

pytestmark = pytest.mark.unit

BILLING = Principal("billing", frozenset(), ("*",), expires_at=0)


class Counter:
    def __init__(self) -> None:
        self.counted: list[tuple[str, PostOutcome, int]] = []

    def count(self, source: str, outcome: PostOutcome, number: int) -> None:
        self.counted.append((source, outcome, number))


@pytest.mark.parametrize(
    ("principal", "number", "counted"),
    [
        (BILLING, 1, [("billing", "refused", 1)]),
        (BILLING, 3, [("billing", "refused", 3)]),
        (BILLING, 0, []),
        (None, 1, []),
    ],
    ids=["a request", "items of a batch", "nothing", "without a valid token"],
)
def test_what_is_refused_is_counted_for_its_source(
    principal: Principal | None, number: int, counted: list[tuple[str, PostOutcome, int]]
) -> None:
    counter, asked = Counter(), request()
    parts_of(asked.app).add(SourceCounter, counter)
    if principal is not None:
        asked.state.principal = principal
    count_refused(asked, number)
    assert counter.counted == counted
