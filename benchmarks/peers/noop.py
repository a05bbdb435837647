"""The noop baseline: a POST that does nothing, by the same framework and server."""

from __future__ import annotations

from fastapi import FastAPI, Response

app = FastAPI()


@app.post("/noop")
async def noop() -> Response:
    """Answer."""
    return Response(b'{"ok":true}', 201, media_type="application/json")
