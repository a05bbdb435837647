"""``Client``: the client for threads. What is sent and when is decided in ``posting.py`` and ``following.py``."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import httpx2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service.client import websocket_options
from service.client.errors import StreamRefused, Unreachable
from service.client.post_retry import Call, Pause, Reply, Retry, posting, posting_batch
from service.client.stream_state import StreamState
from service.client.validation import authorization, checked_url

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Unpack

    from websockets.sync.client import ClientConnection

    from service.client.models import AlertFields, Event, NewAlert, Severity
    from service.client.post_retry import Outcome, Posted
    from service.client.stream_state import Notice

Token = str | Callable[[], str]
Result = TypeVar("Result")


class Client:
    """Posts alerts to one service, from any number of threads, and follows its stream.

    ``token`` is text, or a callable that is asked for each request and each connection. Proxies and certificates of the
    environment are used unless ``trust_env`` is false.
    """

    def __init__(self, url: str, token: Token, *, retry: Retry | None = None, trust_env: bool = True) -> None:
        self._url = checked_url(url)
        self._token = token
        self._retry = retry or Retry()
        self._trust_env = trust_env
        self._http = httpx2.Client(base_url=self._url, trust_env=trust_env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of the posts. Streams are closed by their own blocks."""
        self._http.close()

    def post(self, title: str, **fields: Unpack[AlertFields]) -> Posted:
        """Post one alert, and return where it stands in the log: it is committed.

        Raises:
            RequestRefused: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return self._drive(posting(title, fields, self._retry, refreshable=callable(self._token)))

    def post_batch(self, alerts: Iterable[NewAlert]) -> list[Posted]:
        """Post any number of alerts, and return where each stands in the log, in order.

        Raises:
            BatchRefused: some were not stored; it says which, and where the others are.
            RequestRefused, Unreachable: none was stored, all for this reason.

        """
        return self._drive(posting_batch(alerts, self._retry, refreshable=callable(self._token)))

    def stream(
        self,
        *,
        after: int | Literal["latest"] | None = None,
        topics: Sequence[str] = (),
        min_severity: Severity | None = None,
        first_connection_seconds: float | None = None,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> Stream:
        """Follow the events: ``with client.stream() as events: for event in events: …``.

        The arguments are those of ``AsyncClient.stream``.
        """
        follower = StreamState(after, topics, min_severity, on_notice)
        return Stream(follower, self._url, self._bearer, trust_env=self._trust_env, patience=first_connection_seconds)

    def _bearer(self) -> str:
        return self._token if isinstance(self._token, str) else self._token()

    def _drive(self, steps: Generator[Call | Pause, Outcome, Result]) -> Result:
        outcome: Outcome = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    outcome = None
                else:
                    outcome = self._send(step)
                step = steps.send(outcome)
        except StopIteration as done:
            result: Result = done.value
            return result

    def _send(self, call: Call) -> Reply | Unreachable:
        headers = {**call.headers, "Authorization": authorization(self._bearer())}
        try:
            response = self._http.post(call.path, content=call.content, headers=headers, timeout=call.seconds)
        except httpx2.RequestError as error:
            return Unreachable(f"{self._url} did not answer: {str(error) or type(error).__name__}")
        return Reply(response.status_code, response.headers, response.content)


class Stream:
    """The events, one after the other, over as many connections as it takes; see ``AsyncStream``."""

    def __init__(
        self,
        follower: StreamState,
        url: str,
        bearer: Callable[[], str],
        *,
        trust_env: bool,
        patience: float | None,
    ) -> None:
        self._follower = follower
        self._url = url
        self._bearer = bearer
        self._trust_env = trust_env
        self._patience = patience
        self._socket: ClientConnection | None = None
        self._refused: tuple[str, str] | None = None
        self._token = ""
        self._started = time.monotonic()

    @property
    def cursor(self) -> int | None:
        """The last event that was given out, or further; None before the first connection."""
        return self._follower.cursor

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._socket is None:
            return
        if kind is None:
            self._follower.taken()
        with contextlib.suppress(ConnectionClosed):
            self._ack()
        self._socket.close()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Return the next event, whenever it comes; raises what ``AsyncStream`` does."""
        self._follower.taken()
        while True:
            if self._socket is None:
                self._connect()
                continue
            try:
                event = self._follower.receive(self._next_message(self._socket))
            except ConnectionClosed as error:
                self._lost(*websocket_options.close_of(error))
            except TimeoutError:
                self._lost(None, "server_silent")
            except ValueError:
                self._lost(None, "unreadable_frame")
            else:
                if event is not None:
                    return event

    def _next_message(self, socket: ClientConnection) -> str:
        """Return the next message, sending the ack that comes due meanwhile."""
        silent_at = time.monotonic() + self._follower.silence_seconds
        while True:
            due = self._follower.ack_in()
            if due == 0:
                self._ack()
                continue
            left = max(0.0, silent_at - time.monotonic())
            try:
                return socket.recv(timeout=min(left, due or left), decode=True)
            except TimeoutError:
                if time.monotonic() >= silent_at:
                    raise

    def _ack(self) -> None:
        if self._socket is not None and (ack := self._follower.ack()) is not None:
            self._socket.send(ack)

    def _connect(self) -> None:
        self._token = self._bearer()
        if self._refused is not None and self._refused[0] == self._token:
            raise StreamRefused(self._refused[1], 1008)
        address = self._follower.address(self._url)
        try:
            # With legacy=True it returns a connection, as the asyncio one does when it is awaited.
            self._socket = connect(
                address, legacy=True, **websocket_options.options(self._token, trust_env=self._trust_env)
            )
        except websocket_options.FAILURES as error:
            reason = websocket_options.failed(error, self._url)
            waited = time.monotonic() - self._started
            left = websocket_options.patience_left(error, self._follower, self._url, waited, self._patience)
            self._lost(None, reason, left)
        else:
            self._follower.opened()

    def _lost(self, code: int | None, reason: str, longest: float = math.inf) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        comeback = self._follower.lost(code, reason)
        self._refused = (self._token, reason) if comeback.fresh_token else None
        time.sleep(min(comeback.pause_seconds, longest))
