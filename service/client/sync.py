"""``Client``: the client for threads; the logic is in ``post_retry`` and ``stream_base``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx2
from websockets.sync.client import connect

from service.client.errors import Unreachable
from service.client.failures import failure
from service.client.post_retry import Reply, Retry, RetryingPost
from service.client.stream_base import StreamBase, connect_options
from service.client.stream_state import StreamState
from service.client.validation import authorization, checked_url, usable_environment

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Unpack

    from websockets.sync.client import ClientConnection

    from service.client.models import Activation, AlertEvent, AlertFields, NewAlert, Severity
    from service.client.post_retry import Call, Posted
    from service.client.stream_state import Notice

Token = str | Callable[[], str]
T = TypeVar("T")


class Client:
    """Posts alerts to one service, from any number of threads, and follows its stream.

    ``token`` is text, or a callable that is asked for each request and each connection. Proxies and
    certificates of the environment are used unless ``trust_env`` is false.
    """

    def __init__(self, url: str, token: Token, *, retry: Retry | None = None, trust_env: bool = True) -> None:
        self._url = checked_url(url)
        self._token = token
        self._retry = retry or Retry()
        self._trust_env = trust_env
        with usable_environment(trust_env=trust_env):
            self._http = httpx2.Client(base_url=self._url, trust_env=trust_env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of the posts. Streams are closed by their own blocks."""
        self._http.close()

    def post(self, /, title: str, **fields: Unpack[AlertFields]) -> Posted:
        """Post one alert, and return where it stands in the log: it is committed.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return run(self._new_post().post(title, fields))

    def post_batch(self, alerts: Iterable[NewAlert]) -> list[Posted]:
        """Post any number of alerts, and return where each stands in the log, in order.

        Raises:
            BatchRefused: some were not stored; it says which, and where the others are.
            ErrorResponse, Unreachable: none was stored, all for this reason.

        """
        return run(self._new_post().post_batch(alerts))

    def resolve(self, dedup_key: str, *, topic: str | None = None) -> int:
        """Resolve what this source posted with a key, and return how many alerts that were.

        Without a ``topic``, in every topic. It may be done any number of times.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return run(self._new_post().resolve(dedup_key, topic))

    def deactivate(self, recipient: str, *, reason: str | None = None, unknown: bool = False) -> Activation:
        """Deactivate a recipient who leaves; the token needs the scope ``admin``.

        From then on no token of theirs is accepted, and nobody waits for them. ``unknown``: also a
        name that left no trace at the service.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        fields = {"reason": reason, "unknown": unknown}
        return run(self._new_post().change_recipient(recipient, "deactivate", fields))

    def reactivate(self, recipient: str, *, reason: str | None = None) -> Activation:
        """Reactivate a recipient: tokens that are issued from then on are accepted.

        Raises:
            ErrorResponse: the service refused it, the last time.
            Unreachable: no answer came in the time for retries.

        """
        return run(self._new_post().change_recipient(recipient, "reactivate", {"reason": reason}))

    def stream(  # noqa: PLR0913 - the options of a stream
        self,
        *,
        after: int | str | None = None,
        topics: Sequence[str] = (),
        min_severity: Severity | None = None,
        consumer: str | None = None,
        first_connection_seconds: float | None = None,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> Stream:
        """Follow the events: ``with client.stream() as events: for event in events: …``.

        The arguments are those of ``AsyncClient.stream``.
        """
        state = StreamState(after, topics, min_severity, on_notice, consumer=consumer)
        return Stream(state, self._url, first_connection_seconds, self._bearer, trust_env=self._trust_env)

    async def _bearer(self) -> str:
        return self._token if isinstance(self._token, str) else self._token()

    def _new_post(self) -> RetryingPost:
        return RetryingPost(self._retry, self._send, _sleep, refreshable=callable(self._token))

    async def _send(self, call: Call) -> Reply | Unreachable:
        headers = httpx2.Headers({**call.headers, "Authorization": authorization(await self._bearer())}, "utf-8")
        try:
            response = self._http.post(call.path, content=call.content, headers=headers, timeout=call.seconds)
        except (httpx2.RequestError, UnicodeError) as error:
            failed = failure(error, self._url, trust_env=self._trust_env)
            if isinstance(failed, Unreachable):
                return failed
            raise failed from None
        return Reply(response.status_code, response.headers, response.content)


class Stream(StreamBase):
    """The events in order, over as many connections as it takes; see ``AsyncStream``."""

    _socket: ClientConnection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run(self._finish(processed=kind is None))

    def __iter__(self) -> Iterator[AlertEvent]:
        return self

    def __next__(self) -> AlertEvent:
        """Return the next event, whenever it comes; raises what ``AsyncStream`` does."""
        return run(self._next_event())

    def seen(self, alerts: Iterable[str]) -> None:
        """Report alerts, by their ids, that a person saw; see ``AsyncStream.seen``."""
        run(self._report_seen(alerts))

    async def _sleep(self, seconds: float) -> None:
        await _sleep(seconds)

    async def _open(self, address: str, token: str) -> None:
        # With legacy=True it returns a connection, as the asyncio one does when it is awaited.
        self._socket = connect(address, legacy=True, **connect_options(token, trust_env=self._trust_env))

    async def _receive(self, seconds: float) -> str | bytes:
        return self._socket.recv(timeout=seconds)

    async def _send(self, text: str) -> None:
        self._socket.send(text)

    async def _close(self, *, abruptly: bool) -> None:  # noqa: ARG002 - its own time-out bounds a close without an answer
        self._socket.close()


async def _sleep(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - it runs under run(), outside any event loop


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, because all I/O in it blocks, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("the coroutine suspended")
