"""Deactivating and reactivating a recipient with both clients."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from service.client import Activation, AsyncClient, Client, ErrorResponse
from tests.harness import token

if TYPE_CHECKING:
    from tests.harness import Node

ACTIVE: tuple[None, None, None, list[str]] = (None, None, None, [])


def state_of(activation: Activation) -> tuple[object, ...]:
    return activation.deactivated_at, activation.deactivated_by, activation.reason, activation.unconfirmed


async def test_the_async_client_deactivates_and_reactivates(lenient: Node) -> None:
    name = f"a/b {uuid.uuid4().hex}"
    async with AsyncClient(lenient.base, token("root", "admin"), trust_env=False) as client:
        with pytest.raises(ErrorResponse) as raised:
            await client.deactivate(name)
        assert raised.value.status == 404
        left = await client.deactivate(name, reason="left", unknown=True)
        assert (left.id, *state_of(left)[1:]) == (name, "root", "left", [])
        assert left.deactivated_at is not None
        assert abs(left.deactivated_at - datetime.now(UTC)) < timedelta(minutes=1)
        assert await client.deactivate(name, reason="again") == left
        assert state_of(await client.reactivate(name, reason="is back")) == ACTIVE


def test_the_client_for_threads_does_the_same(lenient: Node) -> None:
    name = uuid.uuid4().hex
    with Client(lenient.base, token("root", "admin"), trust_env=False) as client:
        assert state_of(client.deactivate(name, unknown=True))[1] == "root"
        assert state_of(client.reactivate(name)) == ACTIVE
