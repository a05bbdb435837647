"""A service whose database fails over, played for a browser: its REST answers and its streams.

It is a fake because a test says what the standby had, to the event, and what the service knows of it. What
the real one says is tested in ``tests/stream``; ``test_console.py`` has the page meet another log for real.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.harness import BODY

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Route, WebSocketRoute

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@dataclass
class SimulatedLog:
    """``knows_loss``: after a failover it can tell where the old log and the new one part."""

    knows_loss: bool = True
    events: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    streams: list[WebSocketRoute] = field(default_factory=list)
    acks: list[list[int]] = field(default_factory=list)
    """What each stream acknowledged, in the order in which they were opened."""
    history: str = "a"

    async def serve(self, context: BrowserContext) -> None:
        """Answer for the service in this browser, except for the page itself."""
        await context.route("**/v1/**", self._answer)
        await context.route_web_socket("**/v1/ws*", self._stream)

    # The log.

    def append(self, alert_id: int, title: str = "", kind: str = "alert.created", **changes: Any) -> dict[str, Any]:
        """Append an event of an alert, and send it."""
        seq = len(self.events) + 1
        at = (START + timedelta(seconds=seq)).isoformat().replace("+00:00", ".000000Z")
        identifier = f"00000000-0000-7000-8000-{alert_id:012x}"
        before = next((event["alert"] for event in reversed(self.events) if event["alert"]["id"] == identifier), None)
        first = {**BODY, "id": identifier, "title": title, "status": "open", "created_at": at, "severity": "error"}
        alert = {**(before or first), "updated_at": at, **changes}
        event = {"type": "event", "seq": seq, "cursor": f"{seq}-{self.history * 8}", "id": self.history * 16}
        event |= {"kind": kind, "at": at, "actor": "billing", "alert": alert}
        self.events.append(event)
        for stream in self.streams:
            stream.send(json.dumps(event))
        return event

    async def fail_over(self, lost: int) -> None:
        """Lose the last events; the node notices, and closes its streams."""
        self.events, self.lost = self.events[:-lost], self.events[-lost:]
        self.history = "b"
        streams, self.streams = self.streams, []
        for stream in streams:
            await stream.close(code=1012, reason="history_changed")

    @property
    def cursor(self) -> str:
        return self.events[-1]["cursor"] if self.events else "0"

    def _page(self, limit: int, cursor: str | None) -> dict[str, Any]:
        newest: dict[str, dict[str, Any]] = {}
        for event in self.events:
            seq = newest.get(event["alert"]["id"], event)["seq"]
            newest[event["alert"]["id"]] = {**event["alert"], "seq": seq}
        found = sorted(newest.values(), key=lambda alert: -alert["seq"])
        older = [alert for alert in found if cursor is None or alert["seq"] < int(cursor)]
        shown = older[:limit]
        more = str(shown[-1]["seq"]) if len(older) > limit else None
        return {"alerts": shown, "next": more, "head": len(self.events), "cursor": self.cursor}

    # The service.

    async def _answer(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        match address.path.removeprefix("/v1/").split("/"):
            case ["alerts"]:
                await route.fulfill(json=self._page(int(query["limit"]), query.get("cursor")))
            case ["alerts", identifier, *rest]:
                events = [event for event in self.events if event["alert"]["id"] == identifier]
                steps = [{**event, **event["alert"], "at": event["at"], "kind": event["kind"]} for event in events]
                if not events:
                    await route.fulfill(status=404, json={"code": "not_found"})
                elif rest == ["receipts"]:
                    counts = dict.fromkeys(("recipients", "sent_to", "received_by", "seen_by"), 0)
                    await route.fulfill(json={"counts": counts, "recipients": [], "next": None})
                elif rest == ["timeline"]:
                    await route.fulfill(json={"events": steps[::-1], "next": None})
                else:
                    await route.fulfill(json=events[-1]["alert"])
            case ["me"]:
                scopes = ["alerts:manage", "alerts:read", "alerts:write"]
                await route.fulfill(json={"subject": "alice", "name": None, "scopes": scopes, "topics": ["*"]})
            case ["names"]:
                await route.fulfill(json={"names": {}})
            case _:
                await route.fulfill(json={"present": []})

    def _stream(self, stream: WebSocketRoute) -> None:
        asked = parse_qs(urlsplit(stream.url).query)["after"][0]
        seq = 0 if asked == "0" else int(asked.split("-")[0])
        acks: list[int] = []
        self.acks.append(acks)
        self.streams.append(stream)
        stream.on_message(lambda message: acks.extend(_acks_in(message)))
        stream.on_close(lambda *_: self.streams.remove(stream) if stream in self.streams else None)
        is_held = seq == 0 or (seq <= len(self.events) and self.events[seq - 1]["cursor"] == asked)
        start = seq if is_held else self._common_seq if self.knows_loss else len(self.events)
        cursor = self.events[start - 1]["cursor"] if start else "0"
        welcome = {"connection": "c1", "recipient": "alice", "head": len(self.events), "after": start, "cursor": cursor}
        frames = [{"type": "welcome", **welcome, "heartbeat_seconds": 15, "token_expires_at": BODY["created_at"]}]
        if not is_held:
            frames.append({"type": "reset", "after": start if self.knows_loss else None, "cursor": cursor})
        frames += self.events[start:]
        frames.append({"type": "caught_up", "seq": len(self.events), "cursor": self.cursor})
        for frame in frames:
            stream.send(json.dumps(frame))

    @property
    def _common_seq(self) -> int:
        first: int = self.lost[0]["seq"]
        return first - 1


def _acks_in(message: str | bytes) -> list[int]:
    frame = json.loads(message)
    return [frame["seq"]] if frame["type"] == "ack" else []
