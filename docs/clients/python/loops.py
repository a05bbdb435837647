"""The loops of a program that posts, and of one that receives, with the service's own client.

``loops.py post`` posts an alert for each job that failed, a JSON object a line of standard input;
``loops.py follow CONSUMER TOPIC [AFTER]`` handles the events of a topic.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import jwt

from service.client import Client, Gap, Notice, Reset, Retry, UnprocessableRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from service.client import AlertEvent

BASE = os.environ["TOCSIN_URL"]
SECRET = os.environ["TOCSIN_JWT_SECRET"]


def token() -> str:
    """Mint a token that is valid for five minutes."""
    now = time.time()
    claims = {"sub": "python", "iss": "tocsin", "aud": "tocsin", "iat": now, "exp": now + 300}
    return jwt.encode({**claims, "scope": "alerts:write alerts:read"}, SECRET, algorithm="HS256")


# --8<-- [start:post]
def post_all(queue: Iterable[dict[str, Any]]) -> None:
    """Post an alert for each job that failed, whatever happens to the connection."""
    with Client(BASE, token, retry=Retry(total_seconds=math.inf)) as tocsin:
        for failed in queue:
            job, run = failed["job"], failed["run"]
            try:
                posted = tocsin.post(
                    f"{job} failed",
                    topic=f"jobs.{job}",
                    severity="error",
                    attributes=failed,
                    idempotency_key=f"{job}/{run}",  # what happened; the same in each attempt
                )
            except UnprocessableRequest as refused:  # put it aside; Unauthorized and Forbidden end the loop
                print("refused", refused.status, refused.code, flush=True)
            else:
                print("stored", posted.seq, flush=True)  # now remove it from the queue


# --8<-- [end:post]


# --8<-- [start:follow]
def follow(consumer: str, topic: str, handle: Callable[[AlertEvent], None], after: str | None = None) -> None:
    """Handle each event of a topic, over as many connections as it takes; ``token`` is called for each."""
    with (
        Client(BASE, token) as tocsin,
        tocsin.stream(consumer=consumer, topics=[topic], after=after, on_notice=on_notice) as events,
    ):
        for event in events:
            handle(event)  # it is acknowledged when this has returned, and sent again if it raises


def on_notice(notice: Notice) -> None:
    """Say that events cannot be had, or are void."""
    match notice:
        case Gap(first, last, reason):
            print(f"gap: {first} to {last} were {reason}: load the list of alerts", file=sys.stderr)
        case Reset(after):
            print(f"reset: what came after {after} is void: load the list of alerts", file=sys.stderr)


# --8<-- [end:follow]


def work(event: AlertEvent) -> None:
    """Take as long as the job says."""
    time.sleep(event.alert.attributes.get("seconds", 0))
    print("event", event.seq, event.kind, event.alert.title, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["post"]:
            post_all(map(json.loads, sys.stdin))
        case ["follow", consumer, topic, *after]:
            follow(consumer, topic, work, *after)
        case _:
            sys.exit(__doc__)
