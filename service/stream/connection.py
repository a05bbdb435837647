"""One connection: its protocol, its transport, its entry in the ledger, and its replay of the log.

It performs what the protocol decides. Everything but the reading of the log is synchronous, so the
hub, the ledger and the protocol agree at every await.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never, cast

from service.auth.jwks import UnknownKeyId
from service.auth.principal import Scope
from service.database.failures import unavailable
from service.errors import CloseReason, DatabaseUnavailable, RequestRefused
from service.events.position import HistoryChanged
from service.logs import get_logger
from service.metrics import REPLAYED_DELIVERIES, STREAM_CLOSES
from service.stream import frames
from service.stream.frames import FrameBatch
from service.stream.protocol import (
    Action,
    Authenticate,
    CatchUp,
    CloseStream,
    Phase,
    RecordReceipt,
    RecordSent,
    RecordSightings,
    SendFrame,
    SendHeartbeat,
    StreamProtocol,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.events.filter import EventFilter
    from service.events.position import Position
    from service.http.rate_limits import ConnectionLimits
    from service.ledger.recorder import LedgerRecorder
    from service.ledger.records import ConnectionEntry
    from service.stream.frames import Frame
    from service.stream.hub import Hub
    from service.stream.replay_reader import Chunk, ReplayReader
    from service.stream.transports.interface import StreamTransport

log = get_logger(__name__)

RETRY_READ_SECONDS = 1
LATE_MAX_BYTES = 64 * 1024
"""Of answers that wait until a full socket drains; further ones are dropped."""
_REASON_OF_ABNORMAL_CODE = {1005: "no_code", 1006: "connection_lost"}


class Connection:
    """An open stream."""

    __slots__ = (
        "_catching_up",
        "_entry",
        "_hub",
        "_late",
        "_ledger",
        "_limits",
        "_protocol",
        "_renewing",
        "_replays",
        "_transport",
        "_verifier",
        "filter",
        "id",
        "principal",
        "recipient",
        "write",
    )

    def __init__(  # noqa: PLR0913 - the parts that it binds together
        self,
        transport: StreamTransport,
        protocol: StreamProtocol,
        entry: ConnectionEntry,
        principal: Principal,
        *,
        hub: Hub,
        replays: ReplayReader,
        ledger: LedgerRecorder,
        verifier: TokenVerifier,
        limits: ConnectionLimits,
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        self._entry = entry
        self._hub = hub
        self._replays = replays
        self._ledger = ledger
        self._verifier = verifier
        self._limits = limits
        self._catching_up: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._late: list[Frame] = []
        self.id: UUID = entry.id
        self.principal = principal
        # The hub reads these of every connection for every event: fields cost no call.
        self.recipient: str = entry.recipient
        self.filter: EventFilter = entry.filter
        self.write: Callable[[FrameBatch], bool] = transport.write_frames

    @property
    def is_live(self) -> bool:
        """Whether the connection has caught up, and is sent events as they come."""
        return self._protocol.phase is Phase.LIVE

    # Opening and closing.

    def open(self, welcome: FrameBatch) -> None:
        """Send the welcome, and catch up from the cursor."""
        self._hub.add(self)
        self._ledger.record_opening(self._entry)
        self.send_batch(welcome)
        self._catch_up()
        self._transport.attach(self)

    def close(self, reason: CloseReason, hint: str | None = None) -> None:
        """Close the stream from the server's side; a ``hint`` is for people, and not for the ledger."""
        self.ended(reason.code, reason.reason)
        if self._transport.close_stream(reason, hint):
            STREAM_CLOSES.labels(reason.reason).inc()

    def ended(self, code: int, reason: str) -> None:
        """Record the end of the stream; of several calls the first counts."""
        if self._protocol.phase is Phase.CLOSED:
            return
        self._protocol.closed()
        self._hub.remove(self)
        self._ledger.record_closing(self._entry, code, reason)
        self._limits.drop(str(self._entry.id))
        for task in (self._catching_up, self._renewing):
            if task is not None:
                task.cancel()

    # Sending.

    def send(self, frame: Frame) -> None:
        """Send a frame that carries no event; if the socket is full, as soon as it drains."""
        if self._protocol.phase is not Phase.LAGGING:
            self.send_batch(FrameBatch(frame))
        elif sum(len(late.payload) for late in self._late) < LATE_MAX_BYTES:
            self._late.append(frame)

    def _send_late(self) -> None:
        late, self._late = self._late, []
        if late:
            self.send_batch(FrameBatch(*late))

    def send_batch(self, batch: FrameBatch) -> None:
        """Send frames that carry no event, unless the socket is full."""
        if self._protocol.phase in (Phase.LIVE, Phase.REPLAYING) and not self.write(batch):
            self.pause()

    def stalled(self, sent: int, written: Position) -> None:
        """Leave the live group: ``(sent, written]`` was written and has not gone entirely."""
        self._hub.leave(self)
        self._protocol.stalled(sent, written, time.monotonic())
        self._ledger.record_position(self._entry, sent, written.seq)

    def pause(self) -> Position:
        """Write nothing more until ``drained``, and return up to where everything was written."""
        written = self._written()
        self.stalled(written.seq, written)
        return written

    def _written(self) -> Position:
        """Return up to where everything was written to the socket."""
        return self._hub.position if self._protocol.phase is Phase.LIVE else self._protocol.written

    # What the transport reports, and the clock.

    @property
    def may_send(self) -> bool:
        """Whether events may be written now."""
        return self._hub.may_send

    def part_sent(self, seq: int) -> None:
        """The socket has taken events up to ``seq``; what else was written waits until the client has read more."""
        self._perform(self._protocol.part_sent(seq))
        late, self._late = self._late, []
        if late:
            self.write(FrameBatch(*late))

    def drained(self) -> None:
        """The socket was full and has taken everything."""
        for action in self._protocol.drained():
            if isinstance(action, CatchUp):
                self._send_late()
            self._perform([action])

    def flushed(self) -> None:
        """Everything that was written has gone, and no more can follow for now."""
        self._perform(self._protocol.flushed(time.monotonic()))

    def advances(self, seq: int) -> bool:
        """Return whether an ack of ``seq`` would acknowledge anything."""
        return self._protocol.advances(min(seq, self._written().seq))

    def acknowledge(self, seq: int) -> int:
        """Handle an ack from a separate request, and return how far the client has acknowledged."""
        self._perform(self._protocol.acknowledge(seq, self._written().seq))
        return self._protocol.acknowledged

    def polled(self, seq: int) -> None:
        """An answer up to ``seq`` went to a poll without a cursor; 0: it was lost."""
        self._ledger.record_polled(self._entry, seq)

    def receive(self, text: str | None) -> None:
        """Handle a message; None stands for a binary one."""
        try:
            if text is None:
                self._perform(self._protocol.receive_binary())
            else:
                self._perform(self._protocol.receive_text(text, self._written().seq))
        except Exception:
            log.exception("stream failed", connection=str(self._entry.id))
            self.close(CloseReason.INTERNAL_ERROR)

    def count_frame(self) -> None:
        """Count a WebSocket frame that is not a message."""
        self._perform(self._protocol.count_frame())

    def disconnected(self, code: int, reason: str) -> None:
        """The stream is over, whichever side ended it."""
        self.ended(code, reason or _REASON_OF_ABNORMAL_CODE.get(code, "client"))

    def tick(self, now: float, wall: float) -> None:
        """Do what is due at ``now`` (monotonic) and ``wall`` (since the epoch)."""
        self._perform(self._protocol.tick(now, wall))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case SendFrame(frame):
                    self.send(frame)
                case SendHeartbeat():
                    self.send(frames.heartbeat(self._written(), datetime.now(UTC)))
                case RecordSent(after_seq, up_to_seq):
                    self._ledger.record_dispatch_to(self._entry, after_seq, up_to_seq)
                case RecordReceipt(seq):
                    self._ledger.record_receipt(self._entry, seq)
                case RecordSightings(alerts):
                    self._ledger.record_sightings(self.recipient, self.principal.topics, alerts)
                case Authenticate(token):
                    self._renew(token)
                case CatchUp():
                    self._catch_up()
                case CloseStream(reason, hint):
                    self.close(reason, hint)
                case _:
                    assert_never(action)

    def _renew(self, token: str) -> None:
        """Verify a fresh token. While its key is fetched, or revocations are read, the stream goes on."""
        try:
            principal = self._verifier.verify_cached(token)
        except UnknownKeyId as unknown:
            self._renew_soon(token, unknown.keys.refusal)
        except RequestRefused as refusal:
            self._refuse_token(refusal)
        else:
            if self._verifier.is_current:
                self._accept_token(principal)
            else:
                self._renew_soon(token, unavailable)

    def _renew_soon(self, token: str, refusal: Callable[[], RequestRefused]) -> None:
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew_later(token))
        else:
            self._refuse_token(refusal())

    async def _renew_later(self, token: str) -> None:
        try:
            self._accept_token(await self._verifier.verify(token))
        except RequestRefused as refusal:
            self._refuse_token(refusal)
        except Exception:
            log.exception("stream failed", connection=str(self.id))
            self.close(CloseReason.INTERNAL_ERROR)
        finally:
            self._renewing = None

    def _refuse_token(self, refusal: RequestRefused) -> None:
        code = cast("frames.FrameErrorCode", refusal.code)  # the refusals of a verifier have the same names in a frame
        self.send(frames.error(code, refusal.detail, refusal.retry_after))

    def _accept_token(self, principal: Principal) -> None:
        """Replace the token by a fresh one, if that would have opened this very stream."""
        if principal.subject != self.recipient:
            self.send(frames.error("subject_changed", "The fresh token has another sub."))
        elif not principal.may(Scope.ALERTS_READ):
            self.send(frames.error("scope_missing", f"The fresh token lacks {Scope.ALERTS_READ}."))
        elif not principal.covers_all(self.filter.topics):
            self.send(frames.error("topic_forbidden", "The fresh token does not cover this stream's topics."))
        elif self._protocol.phase is not Phase.CLOSED:
            self.renewed(principal)
            self.send(frames.authenticated(self._entry.token_expires_at))

    def renewed(self, principal: Principal) -> None:
        """Replace the token by a fresh one that allows this stream."""
        self.principal = principal
        expires_at = datetime.fromtimestamp(principal.expires_at, UTC)
        if (principal.jti, expires_at) != (self._entry.jti, self._entry.token_expires_at):
            self._protocol.renewed(principal.expires_at)
            self._ledger.record_token(self._entry, principal.jti, expires_at)

    # Catching up.

    @property
    def _has_caught_up(self) -> bool:
        return self._protocol.written == self._hub.position

    def _catch_up(self) -> None:
        if self._protocol.phase is Phase.REPLAYING and self._has_caught_up:
            self._go_live()
        elif self._catching_up is None:
            self._catching_up = asyncio.get_running_loop().create_task(self._replay())

    async def _replay(self) -> None:
        """Send the connection's own range of the log, chunk by chunk, then join the live group."""
        try:
            while self._protocol.phase is Phase.REPLAYING:
                if self._has_caught_up:
                    self._go_live()
                    return
                chunk = await self._replays.read_chunk(self._protocol.written, self.filter, self.recipient)
                if not self._hub.may_send:
                    await asyncio.sleep(RETRY_READ_SECONDS)
                elif self._protocol.phase is Phase.REPLAYING:
                    self._write_chunk(chunk)
        except HistoryChanged:
            self.close(CloseReason.HISTORY_CHANGED)
        except DatabaseUnavailable:
            log.info("replay postponed: the database cannot be reached", connection=str(self._entry.id))
            await asyncio.sleep(RETRY_READ_SECONDS)
        except Exception:
            log.exception("replay failed", connection=str(self._entry.id))
            self.close(CloseReason.INTERNAL_ERROR)
        finally:
            self._catching_up = None
            if self._protocol.phase is Phase.REPLAYING:
                self._catch_up()

    def _write_chunk(self, chunk: Chunk) -> None:
        if not chunk.batch.frames:
            self._protocol.advanced(chunk.up_to)
            self._ledger.record_position(self._entry, chunk.up_to.seq)
        elif self.write(chunk.batch):
            self._perform(self._protocol.advanced(chunk.up_to))
        else:
            self.stalled(self._protocol.sent, chunk.up_to)
        self._hub.count_deliveries(chunk.events)
        if self._entry.live_seq is None:
            REPLAYED_DELIVERIES.inc(chunk.events)

    def _go_live(self) -> None:
        self._protocol.joined()
        self._hub.join(self)
        self._ledger.record_live(self._entry)
        self.send(frames.caught_up(self._hub.position))
