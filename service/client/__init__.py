"""A client of Tocsin: post alerts, so that none is lost or stored twice, and follow the stream.

::

    async with AsyncClient("https://tocsin.example", token) as tocsin:
        posted = await tocsin.post("Card acceptance below 80 %", topic="payments.eu", severity="critical")

        async with tocsin.stream(topics=["payments.*"], min_severity="error") as events:
            async for event in events:
                show(event.alert.title)

``Client`` is the same without ``async``. Both need the standard library, httpx2 and websockets, and
nothing of the server, whose rules they follow (``docs/reference.md``).

- **A post** gets an ``Idempotency-Key`` that its retries share, so an alert that was stored before
  the answer got lost is not stored again. Broken connections, 429, 502, 503 and 504 are retried
  with growing random pauses, never sooner than ``Retry-After``, until ``Retry.total_seconds`` are
  over; then the last error is raised.
- **A stream** resumes after the last event that it returned, whatever happened to the connection.
  An event counts as received, and is acknowledged, when the loop body has finished with it.
  ``events.seen([event.alert.id])`` reports that a person saw the alert, which is no acknowledgement.
  Should the database lose events in a failover, the notice ``Reset`` says which were void, and the
  stream goes on with those that the log has instead.
- **A token** is text, or a callable that is asked for each request and each connection, and again
  when a token was refused. It is sent in the ``Authorization`` header and nowhere else.

``post_retry.py`` and ``stream_base.py`` decide what is sent and when, ``stream_state.py`` what the
frames mean; ``aio.py`` and ``sync.py`` do the I/O.
"""

from __future__ import annotations

from service.client.aio import AsyncClient, AsyncStream
from service.client.errors import (
    BatchRefused,
    ClientError,
    ErrorResponse,
    Forbidden,
    ServiceFailed,
    StreamRejected,
    TooManyRequests,
    Unauthorized,
    UnprocessableRequest,
    Unreachable,
    UnreadableAnswer,
)
from service.client.models import Activation, Alert, AlertEvent, AlertFields, Link, NewAlert, Severity
from service.client.post_retry import Posted, Retry
from service.client.stream_state import Connected, Disconnected, Gap, Notice, Reset
from service.client.sync import Client, Stream

__all__ = [
    "Activation",
    "Alert",
    "AlertEvent",
    "AlertFields",
    "AsyncClient",
    "AsyncStream",
    "BatchRefused",
    "Client",
    "ClientError",
    "Connected",
    "Disconnected",
    "ErrorResponse",
    "Forbidden",
    "Gap",
    "Link",
    "NewAlert",
    "Notice",
    "Posted",
    "Reset",
    "Retry",
    "ServiceFailed",
    "Severity",
    "Stream",
    "StreamRejected",
    "TooManyRequests",
    "Unauthorized",
    "UnprocessableRequest",
    "Unreachable",
    "UnreadableAnswer",
]
