"""Uses the client that openapi-python-client makes, in the environment of the generator."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import httpx
from tocsin_client import AuthenticatedClient
from tocsin_client.api.alerts import (
    acknowledge_alert,
    get_alert,
    get_alerts,
    get_timeline,
    post_alert,
    post_batch,
    post_comment,
)
from tocsin_client.api.stream import get_events
from tocsin_client.models import (
    AlertAnswer,
    AlertIn,
    AlertInAttributes,
    AlertStatus,
    BatchItem,
    CommentIn,
    EventKind,
    Problem,
    ProblemCode,
    Severity,
)
from tocsin_client.types import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")
TOPIC = "jobs.backup"


def retried(call: Callable[[], Answer]) -> Answer:
    """Call until an answer arrives: the connection may break, and a request has its key."""
    for _ in range(5):
        try:
            return call()
        except httpx.TransportError as error:
            print(repr(error), file=sys.stderr)
            time.sleep(0.1)
    return call()


def main() -> None:
    timeout = httpx.Timeout(30)  # 5 s by default, less than a poll waits
    client = AuthenticatedClient(os.environ["TOCSIN_URL"], os.environ["TOCSIN_TOKEN"], timeout=timeout)

    failed = AlertIn(title="Backup failed", topic=TOPIC, severity=Severity.ERROR)
    posted = retried(lambda: post_alert.sync(client=client, body=failed, idempotency_key="backup-2026-11-21"))
    print("posted", posted.seq, posted.severity)

    batch = [
        BatchItem(title="Disk is 91 % full", topic=TOPIC, idempotency_key="disk-91"),
        BatchItem(title="Disk is 97 % full", topic=TOPIC, idempotency_key="disk-97"),
        BatchItem(title="", topic=TOPIC),
    ]
    for result in post_batch.sync(client=client, body=batch, idempotency_key="disks-2026-11-21").results:
        print("batch", result.status, result.code or result.seq)

    cursor: str | None = None
    while True:
        page = get_alerts.sync(client=client, topic=[TOPIC], limit=2, cursor=cursor or UNSET)
        for alert in page.alerts:
            print("listed", alert.title)
        if (cursor := page.next_) is None:
            break

    taken = acknowledge_alert.sync(posted.id, client=client)
    print("status", taken.status, taken.status_by)

    problem = post_alert.sync(client=client, body=AlertIn(title="A title", topic="Not a topic"))
    assert isinstance(problem, Problem)
    print("refused", problem.status, problem.code, str(problem.code is ProblemCode.INVALID_REQUEST).lower(), flush=True)

    after, connection, kind = "0", UNSET, None
    while kind is not EventKind.ALERT_RESOLVED:
        options = {"after": after, "topic": [TOPIC], "wait": 20.0, "connection": connection}
        answer = retried(partial(get_events.sync, client=client, **options))
        for event in answer.events:
            kind = event.kind
            print("event", event.seq, kind, event.alert.title, flush=True)
        after, connection = answer.next_, answer.connection

    check_other_shapes(client, posted.id)


def check_other_shapes(client: AuthenticatedClient, resolved: UUID) -> None:
    """Decode what has another shape: any JSON, what refers to an alert, and other refusals."""
    attributes = AlertInAttributes.from_dict({"rate": 0.78})
    alert = AlertIn(title="Card acceptance below 80 %", attributes=attributes)
    first, again = (post_alert.sync_detailed(client=client, body=alert, idempotency_key="one") for _ in range(2))
    assert (first.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert isinstance(first.parsed, AlertAnswer)
    assert first.parsed.attributes["rate"] == 0.78

    said = post_comment.sync(first.parsed.id, client=client, body=CommentIn(text="Acquirer X is aware."))
    assert said.actor == first.parsed.source
    timeline = get_timeline.sync(first.parsed.id, client=client)
    assert [event.kind for event in timeline.events] == [EventKind.ALERT_CREATED, EventKind.ALERT_COMMENTED]

    conflict = acknowledge_alert.sync(resolved, client=client)
    assert (conflict.code, conflict.alert.status) == (ProblemCode.ACTION_CONFLICT, AlertStatus.RESOLVED)
    unknown = get_alert.sync(UUID("01a1fd87-65c3-71a6-ba06-3929d3197295"), client=client)
    assert unknown.code is ProblemCode.NOT_FOUND
    stranger = AuthenticatedClient(os.environ["TOCSIN_URL"], "a.b.c")
    assert get_alerts.sync(client=stranger).code is ProblemCode.TOKEN_INVALID


if __name__ == "__main__":
    main()
