"""Posts alerts to Tocsin, handles them, and follows the stream, with the service's own client, httpx2 and PyJWT."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import httpx2
import jwt

from service.client import BatchRefused, Client, ErrorResponse, NewAlert, Posted

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = os.environ["TOCSIN_URL"]
SECRET = os.environ["TOCSIN_JWT_SECRET"]


def token() -> str:
    """Mint a token that is valid for five minutes."""
    now = int(time.time())
    scope = "alerts:write alerts:read alerts:manage"
    claims = {"sub": "python", "iss": "tocsin", "aud": "tocsin", "iat": now, "exp": now + 300, "scope": scope}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def call(method: str, path: str, **options: Any) -> Any:
    """Send a request that the client has no method for; an error has the ``code`` of the problem document."""
    response = httpx2.request(method, BASE + path, headers={"Authorization": f"Bearer {token()}"}, **options)
    if response.is_error:
        raise ErrorResponse.of(response.status_code, response.json())
    return response.json()


def alerts_of(topic: str) -> Iterator[dict[str, Any]]:
    """Yield the alerts of a topic, newest first, over all pages."""
    query = {"topic": topic, "limit": "2"}
    while True:
        page = call("GET", "/v1/alerts", params=query)
        yield from page["alerts"]
        if page["next"] is None:
            return
        query["cursor"] = page["next"]


def main() -> None:
    """Post, list, acknowledge and follow."""
    with Client(BASE, token) as tocsin:
        # The key names what happened, so that a second run of the program does not post it again.
        posted = tocsin.post(
            "Backup failed", topic="jobs.backup", severity="error", idempotency_key="backup-2026-11-21"
        )
        print("posted", posted.seq)

        batch: list[NewAlert] = [
            {"title": "Disk is 91 % full", "topic": "jobs.backup", "idempotency_key": "disk-91"},
            {"title": "Disk is 97 % full", "topic": "jobs.backup", "idempotency_key": "disk-97"},
            {"title": "", "topic": "jobs.backup"},
        ]
        try:
            tocsin.post_batch(batch)
        except BatchRefused as refused:
            for result in refused.results:
                match result:
                    case Posted():
                        print("batch", 201)
                    case ErrorResponse():
                        print("batch", result.status, result.code)

        for alert in alerts_of("jobs.backup"):
            print("listed", alert["title"])

        taken = call("POST", f"/v1/alerts/{posted.id}/acknowledge")
        print("status", taken["status"], taken["status_by"])

        try:
            tocsin.post("A title", topic="Not a topic")
        except ErrorResponse as error:
            print("refused", error.status, error.code)

        with tocsin.stream(after=0, topics=["jobs.backup"]) as events:
            for event in events:
                print("event", event.seq, event.kind, event.alert.title, flush=True)


if __name__ == "__main__":
    main()
