"""The subscribers of the dashboard, with a fake sampler: when it runs, what each is sent, and how each ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from service.auth.principal import Principal
from service.dashboard import subscribers
from service.dashboard.subscribers import Dashboard, StreamSubscriber
from service.errors import CloseReason, ConnectionLimit, Overloaded, TokenRevoked
from service.settings import StreamSettings
from service.stream.frames import FrameBatch
from tests.harness import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.stream.transports.sse import SseTransport

pytestmark = pytest.mark.unit


class FakeSampler:
    """A sampler that counts; ``made`` are those of the test."""

    made: list[FakeSampler]
    has_history = True
    fails = False

    def __init__(self, *_: Any) -> None:
        self.samples = self.histories = 0
        self.is_closed = False
        FakeSampler.made.append(self)

    async def sample(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if FakeSampler.fails:
            raise RuntimeError("a defect")
        self.samples += 1
        return {"type": "figures", "number": self.samples}

    async def history(self) -> dict[str, Any] | None:
        await asyncio.sleep(0)
        self.histories += 1
        return {"type": "history", "number": self.histories} if FakeSampler.has_history else None

    async def close(self) -> None:
        self.is_closed = True


class FakeVerifier:
    def __init__(self) -> None:
        self.revoked: set[str] = set()

    def check_not_revoked(self, principal: Principal) -> None:
        if principal.subject in self.revoked:
            raise TokenRevoked("The token was revoked.")


class FakeSocket:
    """An SSE answer; ``is_full`` says that the kernel did not take everything."""

    def __init__(self) -> None:
        self.batches: list[FrameBatch] = []
        self.is_full = False
        self.taken = 0
        self.closed: CloseReason | None = None
        self.subscriber: StreamSubscriber

    def attach(self, subscriber: StreamSubscriber) -> None:
        self.subscriber = subscriber

    def begin(self, *_: Any) -> None:
        """Do nothing."""

    def taken_bytes(self) -> int:
        return self.taken

    def write_frames(self, batch: FrameBatch) -> bool:
        self.batches.append(batch)
        return not self.is_full

    def end(self, reason: CloseReason) -> None:
        self.closed = reason
        if hasattr(self, "subscriber"):
            self.subscriber.disconnected(reason.code, reason.reason)

    async def has(self, count: int) -> list[str]:
        """Return the types of the frames once there are ``count``."""
        async with asyncio.timeout(PATIENCE):
            while len(self.batches) < count:  # noqa: ASYNC110 - nothing tells of a write
                await asyncio.sleep(0)
        return [orjson.loads(frame.payload)["type"] for batch in self.batches for frame in batch.frames]


def bearer(subject: str = "alice", seconds: float = 60) -> Principal:
    return Principal(subject, frozenset({"alerts:read"}), ("*",), expires_at=time.time() + seconds)


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture
def settings() -> StreamSettings:
    return StreamSettings(connections_per_recipient=2, dashboard_subscribers_max=3, slow_consumer_seconds=0.1)


@pytest.fixture
async def dashboard(
    monkeypatch: pytest.MonkeyPatch, verifier: FakeVerifier, settings: StreamSettings
) -> AsyncIterator[Dashboard]:
    monkeypatch.setattr(subscribers, "Sampler", FakeSampler)
    monkeypatch.setattr(subscribers, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(subscribers, "CHECK_SECONDS", 0.001)
    monkeypatch.setattr(FakeSampler, "made", [], raising=False)
    made = Dashboard(cast("Any", None), cast("Any", None), cast("Any", verifier), settings)
    yield made
    await made.close()


async def subscribe(dashboard: Dashboard, principal: Principal | None = None) -> FakeSocket:
    socket = FakeSocket()
    async with dashboard._reserved(principal or bearer()) as open_on:
        open_on(cast("SseTransport", socket))
    return socket


# When it samples.


async def test_sampling_starts_with_the_first_subscriber_and_stops_with_the_last(dashboard: Dashboard) -> None:
    assert FakeSampler.made == []
    alice = await subscribe(dashboard)
    await alice.has(2)
    bob = await subscribe(dashboard, bearer("bob"))
    alice.subscriber.disconnected(1006, "")
    await bob.has(len(bob.batches) + 2)
    [only] = FakeSampler.made
    assert not only.is_closed
    bob.subscriber.disconnected(1006, "")
    async with asyncio.timeout(PATIENCE):
        while not only.is_closed:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    samples = only.samples
    await asyncio.sleep(0.02)
    assert only.samples == samples
    await (await subscribe(dashboard)).has(2)
    assert len(FakeSampler.made) == 2


async def test_a_sampler_that_fails_ends_all_subscribers_who_may_come_back(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    alice = await subscribe(dashboard)
    await alice.has(2)
    monkeypatch.setattr(FakeSampler, "fails", True)
    async with asyncio.timeout(PATIENCE):
        while alice.closed is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    assert alice.closed is CloseReason.INTERNAL_ERROR
    assert "a defect" in capfd.readouterr().out
    monkeypatch.setattr(FakeSampler, "fails", False)
    await (await subscribe(dashboard)).has(2)


# What a subscriber is sent.


async def test_a_subscriber_is_sent_the_last_hour_first_and_then_samples(dashboard: Dashboard) -> None:
    alice = await subscribe(dashboard)
    assert (await alice.has(4))[:4] == ["history", "figures", "figures", "figures"]


async def test_all_subscribers_are_sent_the_same_sample_and_the_last_hour_is_read_once(dashboard: Dashboard) -> None:
    alice = await subscribe(dashboard)
    await alice.has(2)
    bob = await subscribe(dashboard, bearer("bob"))
    assert (await bob.has(2))[0] == "history"
    assert bob.batches[0] is alice.batches[0]
    assert bob.batches[1] in alice.batches
    [only] = FakeSampler.made
    assert only.histories == 1


async def test_the_last_hour_is_read_again_and_sent_to_all_after_a_while(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await subscribe(dashboard)
    await alice.has(2)
    monkeypatch.setattr(subscribers, "HISTORY_REFRESH_SECONDS", 0)
    count = len(alice.batches)
    assert "history" in (await alice.has(count + 3))[count:]


async def test_samples_go_on_while_the_last_hour_cannot_be_read(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSampler, "has_history", False)
    alice = await subscribe(dashboard)
    assert (await alice.has(3))[:3] == ["figures"] * 3
    [only] = FakeSampler.made
    assert only.histories == 1  # and PostgreSQL is left alone for a while
    monkeypatch.setattr(FakeSampler, "has_history", True)
    monkeypatch.setattr(dashboard, "_history_retry_at", 0.0)
    count = len(alice.batches)
    assert "history" in (await alice.has(count + 2))[count:]


async def test_the_last_hour_alone_is_a_request_and_leaves_no_sampler_behind(dashboard: Dashboard) -> None:
    assert orjson.loads(await dashboard.history(bearer())) == {"type": "history", "number": 1}
    async with asyncio.timeout(PATIENCE):
        while not FakeSampler.made[0].is_closed:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def test_a_last_hour_that_does_not_come_in_time_is_refused(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSampler, "has_history", False)
    with pytest.raises(Overloaded):
        await dashboard.history(bearer())


# Limits, and the end.


async def test_subscribers_are_limited_by_subject_and_by_node(dashboard: Dashboard) -> None:
    one, _ = await subscribe(dashboard), await subscribe(dashboard)
    with pytest.raises(ConnectionLimit):
        await subscribe(dashboard)
    with pytest.raises(ConnectionLimit):
        await dashboard.history(bearer())
    await subscribe(dashboard, bearer("bob"))
    with pytest.raises(Overloaded):
        await dashboard.history(bearer("carol"))
    one.subscriber.disconnected(1006, "")
    assert await dashboard.history(bearer("carol"))
    await subscribe(dashboard)


async def test_a_subscriber_whose_token_expires_is_ended(dashboard: Dashboard) -> None:
    alice = await subscribe(dashboard, bearer(seconds=0.05))
    bob = await subscribe(dashboard, bearer("bob"))
    async with asyncio.timeout(PATIENCE):
        while alice.closed is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    assert alice.closed is CloseReason.TOKEN_EXPIRED
    count = len(alice.batches)
    await bob.has(len(bob.batches) + 2)
    assert len(alice.batches) == count


async def test_a_subscriber_whose_token_is_revoked_is_ended(dashboard: Dashboard, verifier: FakeVerifier) -> None:
    alice, bob = await subscribe(dashboard), await subscribe(dashboard, bearer("bob"))
    reading = asyncio.create_task(dashboard.history(bearer("carol")))
    await asyncio.sleep(0)
    verifier.revoked = {"alice", "carol"}
    dashboard.close_revoked()
    assert (alice.closed, bob.closed) == (CloseReason.TOKEN_REVOKED, None)
    with pytest.raises(TokenRevoked):
        await reading


async def test_a_token_that_was_revoked_before_the_stream_began_is_reported(
    dashboard: Dashboard, verifier: FakeVerifier
) -> None:
    verifier.revoked = {"alice"}
    socket = await subscribe(dashboard)
    assert socket.closed is CloseReason.TOKEN_REVOKED
    assert (socket.batches, FakeSampler.made) == ([], [])


async def test_a_subscriber_that_does_not_read_misses_samples_and_is_ended(dashboard: Dashboard) -> None:
    slow, quick = await subscribe(dashboard), await subscribe(dashboard, bearer("bob"))
    await slow.has(1)
    slow.is_full = True
    count = len(slow.batches)
    await slow.has(count + 1)
    await quick.has(len(quick.batches) + 3)
    assert len(slow.batches) == count + 1  # never more than one waits
    slow.is_full = False
    slow.subscriber.drained()
    await slow.has(count + 2)
    slow.is_full = True
    async with asyncio.timeout(PATIENCE):
        while slow.closed is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    assert (slow.closed, quick.closed) == (CloseReason.SLOW_CONSUMER, None)


def test_a_socket_is_stuck_when_it_was_full_for_so_long() -> None:
    socket = FakeSocket()
    socket.is_full = True
    subscriber = StreamSubscriber(cast("Dashboard", None), cast("SseTransport", socket), bearer(), slow_seconds=30)
    subscriber.send(FrameBatch())
    subscriber.send(FrameBatch())
    assert len(socket.batches) == 1
    assert not subscriber.is_stuck(time.monotonic() + 29)
    assert subscriber.is_stuck(time.monotonic() + 31)
    subscriber.drained()
    assert not subscriber.is_stuck(time.monotonic() + 31)
