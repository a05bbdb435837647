"""The same loops as in ``loops.py``, with httpx2 and websockets only."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx2
import jwt
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect
from websockets.typing import Subprotocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BASE = os.environ["TOCSIN_URL"]
SECRET = os.environ["TOCSIN_JWT_SECRET"]
TOCSIN = Subprotocol("tocsin.v1")


def token() -> str:
    """Mint a token that is valid for five minutes."""
    now = time.time()
    claims = {"sub": "plain", "iss": "tocsin", "aud": "tocsin", "iat": now, "exp": now + 300}
    return jwt.encode({**claims, "scope": "alerts:write alerts:read"}, SECRET, algorithm="HS256")


# --8<-- [start:post]
def post_all(queue: Iterable[dict[str, Any]]) -> None:
    """Post an alert for each job that failed."""
    with httpx2.Client(base_url=BASE, timeout=30) as http:
        for failed in queue:
            job, run = failed["job"], failed["run"]
            alert = {"title": f"{job} failed", "topic": f"jobs.{job}", "severity": "error", "attributes": failed}
            answer = post(http, alert, key=f"{job}/{run}")  # the key is what happened; the same in each attempt
            if answer.is_success:
                print("stored", answer.json()["seq"], flush=True)  # now remove it from the queue
            elif answer.status_code in {401, 403}:  # the token is wrong, and no alert would be stored
                sys.exit(f"refused {answer.status_code} {code_of(answer)}")
            else:
                print("refused", answer.status_code, code_of(answer), flush=True)  # put it aside


def post(http: httpx2.Client, alert: dict[str, Any], key: str) -> httpx2.Response:
    """Send an alert until it is stored or refused; it is stored once, because of its key."""
    attempt = 0
    while True:
        wait = "0"
        try:
            headers = {"Authorization": f"Bearer {token()}", "Idempotency-Key": key}
            answer = http.post("/v1/alerts", json=alert, headers=headers)
        except httpx2.TransportError as error:
            print("again:", error, file=sys.stderr)
        else:
            if answer.status_code not in {429, 502, 503, 504}:
                return answer
            wait = answer.headers.get("Retry-After", wait)
        time.sleep(int(wait) if wait.isdecimal() else 0)
        back_off(attempt)
        attempt += 1


def back_off(attempt: int) -> None:
    """Wait for a random time that doubles with each attempt, up to 30 seconds."""
    time.sleep(random.random() * min(2**attempt, 30))


# --8<-- [end:post]


def code_of(answer: httpx2.Response) -> str:
    """Return the code of a problem document; a proxy in between answers without one."""
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError):
        return ""


# --8<-- [start:follow]
FINAL = {
    "scope_missing", "topic_forbidden", "origin_forbidden", "consumer_limit", "kicked",
    "invalid_request", "bad_message", "binary_message", "invalid_utf8", "message_too_big",
}  # fmt: skip
"""Reasons of a close after which reconnecting does not help."""


def follow(consumer: str, topic: str, handle: Callable[[dict[str, Any]], None], after: str | None = None) -> None:
    """Handle each event of a topic, over as many connections as it takes."""
    query = {"consumer": consumer, "topic": topic} | ({"after": after} if after else {})
    attempt = 0
    while True:
        is_open, reason = follow_once(query, handle)
        if reason in FINAL:
            sys.exit(f"the stream was closed: {reason}")
        print("reconnecting:", reason, file=sys.stderr)
        attempt = 0 if is_open else attempt + 1
        back_off(attempt)


def follow_once(query: dict[str, str], handle: Callable[[dict[str, Any]], None]) -> tuple[bool, str]:
    """Follow over one connection, and keep the cursor in ``query``; return whether it was opened, and why it ended."""
    address = f"{BASE.replace('http', 'ws', 1)}/v1/ws?{urlencode(query)}"
    bearer = {"Authorization": f"Bearer {token()}"}
    is_open, silence = False, 60.0
    try:
        # The service pings, and its heartbeats show that it is alive: a ping of ours would wait behind long work.
        with connect(address, additional_headers=bearer, subprotocols=[TOCSIN], ping_interval=None) as socket:
            while True:
                frame = json.loads(socket.recv(silence))
                match frame["type"]:
                    case "welcome":
                        is_open, silence = True, 2.5 * frame["heartbeat_seconds"]
                    case "event":
                        handle(frame)
                    case "gap" | "reset":
                        print("load the list of alerts:", frame, file=sys.stderr)
                if "cursor" in frame:
                    query["after"] = frame["cursor"]
                if frame["type"] == "event":
                    socket.send(json.dumps({"type": "ack", "seq": frame["seq"]}))
    except ConnectionClosed as closed:
        return is_open, closed.rcvd.reason.partition(":")[0] if closed.rcvd else "the connection was lost"
    except (OSError, InvalidHandshake) as error:  # a time-out is an OSError
        return is_open, str(error)


# --8<-- [end:follow]


def work(event: dict[str, Any]) -> None:
    """Take as long as the job says."""
    time.sleep(event["alert"]["attributes"].get("seconds", 0))
    print("event", event["seq"], event["kind"], event["alert"]["title"], flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["post"]:
            post_all(map(json.loads, sys.stdin))
        case ["follow", consumer, topic, *after]:
            follow(consumer, topic, work, *after)
        case _:
            sys.exit(__doc__)
