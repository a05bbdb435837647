"""A client of Tocsin, to import: post alerts so that none is lost and none doubled, and follow the stream.

::

    async with AsyncClient("https://tocsin.example", token) as tocsin:
        posted = await tocsin.post("Card acceptance below 80 %", topic="payments.eu", severity="critical")

        async with tocsin.stream(topics=["payments.*"], min_severity="error") as events:
            async for event in events:
                show(event.alert.title)

``Client`` is the same without ``async``. It needs the standard library, httpx2 and websockets, and nothing of the
server, whose rules it follows: ``docs/reference.md`` states them.

- **A post** gets an ``Idempotency-Key`` that its retries share, so what was stored before the answer got lost is not
  stored again. Broken connections, 429, 502, 503 and 504 are retried with growing random pauses, never sooner than
  ``Retry-After``, until ``Retry.total_seconds`` are over; then the last error is raised.
- **A stream** resumes after the last event that it gave out, whatever happened to the connection. An event counts as
  received, and is acknowledged, when the body of the loop has finished with it.
- **A token** is text, or a callable that is asked for each request and each connection, and again where a token was
  refused. It is sent in the ``Authorization`` header and nowhere else.

The modules: ``posting.py`` and ``following.py`` decide, without any I/O, what is sent and when; ``asynchronous.py`` and
``synchronous.py`` do it.
"""

from __future__ import annotations

from service.client.aio import AsyncClient, AsyncStream
from service.client.errors import (
    BatchRefused,
    ClientError,
    Forbidden,
    InvalidRequest,
    RateLimited,
    RequestRefused,
    ServiceFailed,
    StreamRefused,
    Unauthorized,
    Unreachable,
)
from service.client.models import Alert, AlertFields, Event, Link, NewAlert, Severity
from service.client.post_retry import Posted, Retry
from service.client.stream_state import Connected, Disconnected, Gap, Notice
from service.client.sync import Client, Stream

__all__ = [
    "Alert",
    "AlertFields",
    "AsyncClient",
    "AsyncStream",
    "BatchRefused",
    "Client",
    "ClientError",
    "Connected",
    "Disconnected",
    "Event",
    "Forbidden",
    "Gap",
    "InvalidRequest",
    "Link",
    "NewAlert",
    "Notice",
    "Posted",
    "RateLimited",
    "RequestRefused",
    "Retry",
    "ServiceFailed",
    "Severity",
    "Stream",
    "StreamRefused",
    "Unauthorized",
    "Unreachable",
]
