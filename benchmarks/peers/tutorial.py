"""Baseline (a): the server of every tutorial: a list of WebSockets, and a loop that sends to each. Nothing is stored.

What it sends is the frame that Tocsin sends, field for field, so that both move the same bytes; it is encoded once.
"""

from __future__ import annotations

import itertools
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect

app = FastAPI()
connections: list[WebSocket] = []
numbers = itertools.count(1)


@app.websocket("/ws")
async def stream(websocket: WebSocket) -> None:
    """Hold a connection open."""
    await websocket.accept()
    connections.append(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        connections.remove(websocket)


@app.post("/alerts", status_code=201)
async def post(request: Request) -> dict[str, Any]:
    """Send an alert to everybody."""
    alert = await request.json()
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    alert = {
        "id": str(uuid.uuid4()),
        "source": "bench",
        **alert,
        "links": [],
        "recipients": None,
        "dedup_key": None,
        "status": "open",
        "occurrences": 1,
        "created_at": now,
        "updated_at": now,
        "expires_at": None,
    }
    seq = next(numbers)
    event = {"type": "event", "seq": seq, "kind": "alert.created", "at": now, "actor": "bench", "alert": alert}
    text = json.dumps(event, separators=(",", ":"))
    for websocket in connections:
        await websocket.send_text(text)
    return {"id": alert["id"], "seq": seq}
