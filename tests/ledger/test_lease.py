from __future__ import annotations

import time

import pytest

from service.ledger import lease
from service.ledger.lease import Lease
from service.timestamps import boottime

pytestmark = pytest.mark.unit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(lease, "boottime", lambda: now[0])
    return now


def test_a_lease_is_held_for_its_seconds_after_the_renewal_was_sent(clock: list[float]) -> None:
    held = Lease(10)
    assert not held.is_held
    clock[0] += 4  # the renewal took so long
    held.renew(1000.0)
    clock[0] = 1009.9
    assert held.is_held
    clock[0] = 1010.0
    assert not held.is_held
    held.renew(1010.0)
    assert held.is_held


def test_a_lease_that_was_ended_is_not_held_until_it_is_renewed(clock: list[float]) -> None:
    held = Lease(10)
    held.renew(clock[0])
    held.end()
    assert not held.is_held
    held.renew(clock[0])
    assert held.is_held


def test_the_clock_of_leases_is_set_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    before = boottime()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= boottime() - before < 60
