"""The AsyncAPI document: the handshake, each frame, and what a client does at each close.

Made from the schemas of ``frame_schemas.py`` and from ``CloseReason``; ``make reference`` writes it
to ``openapi/asyncapi.yaml``.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic.json_schema import models_json_schema

from service import __version__
from service.alerts.fields import LISTED_MAX
from service.errors import CloseReason
from service.events.position import CURSOR_PATTERN
from service.ledger.resume_points import CONSUMER_MAX, CONSUMER_PATTERN
from service.severity import Severity
from service.stream.frame_schemas import (
    ClientFrame,
    EventFrame,
    FrameSchema,
    ServerFrame,
    example_of,
    frames_of,
    kind_of,
    type_of,
)
from service.stream.frames import SUBPROTOCOL
from service.stream.transports.websocket_handshake import PATH

_DESCRIPTION = """\
Each message is one JSON object, `type` first. A connection receives the events that match its query in increasing
`seq`, none missing and none twice, and resumes after a drop with `after=<cursor>`: the last `cursor` that it was sent.
"""

_CHANNEL = f"""\
The WebSocket subprotocol is `{SUBPROTOCOL}`. A token is taken from the header `Authorization: Bearer <token>`, else
from a subprotocol `bearer.<token>` beside it (what browsers use; the answer names `{SUBPROTOCOL}` only), else from the
query, `?token=`, unless the service forbids that. Nothing of it may be there twice.

A refused handshake is accepted and closed at once, because a browser cannot see an HTTP status there; nothing else is
sent on it. What a client does at each close stands in `x-close-reasons`. A colon after a reason, and what follows it,
is a hint for people. "Back off" means a random wait that doubles
with each failure; "resume" means to connect again with `after=<cursor>`. A close without one of these reasons is of the
network: back off, then resume.
"""

_QUERY = {
    "after": {
        "type": "string",
        "pattern": f"^(latest|{CURSOR_PATTERN})$",
        "description": "Start after this cursor, or this seq; `latest`: only what comes; absent: where this `consumer`,"
        " or else this filter of this admin, resumes: after what was acknowledged there, or the head for a new one.",
        "examples": ["4711-9f3a2c1d"],
    },
    "topic": {
        "type": "array",
        "items": {"type": "string"},
        "maxItems": LISTED_MAX,
        "description": "Topics or patterns that the token covers at least in part: repeat the parameter, or put commas"
        " between them.",
        "examples": [["payments.*", "disks"]],
    },
    "consumer": {
        "type": "string",
        "pattern": f"^{CONSUMER_PATTERN}$",
        "maxLength": CONSUMER_MAX,
        "description": "A name of this client's own, by which it resumes, whatever other clients of this admin do.",
        "examples": ["pager"],
    },
    "min_severity": {
        "type": "string",
        "enum": list(get_args(Severity)),
        "default": "info",
        "description": "This severity or a more severe one.",
    },
    "token": {"type": "string", "description": "The token, where neither a header nor a subprotocol can be sent."},
}

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "Needs `alerts:read`."},
    "subprotocol": {
        "type": "httpApiKey",
        "in": "header",
        "name": "Sec-WebSocket-Protocol",
        "description": f"`{SUBPROTOCOL}, bearer.<token>`",
    },
    "query": {"type": "httpApiKey", "in": "query", "name": "token", "description": "The token as it is."},
}


def document() -> dict[str, Any]:
    """Return the AsyncAPI document."""
    sent, received = frames_of(ServerFrame), frames_of(ClientFrame)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tocsin's stream",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:8000",
                "protocol": "ws",
                "description": "A node on this machine; elsewhere `wss`, behind whatever ends TLS.",
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
            }
        },
        "channels": {"stream": _channel([*sent, *received])},
        "operations": {
            "push": _operation("send", "What the service sends", sent),
            "listen": _operation("receive", "What a client may send", received),
        },
        "components": {
            "messages": {frame.__name__: _message(frame) for frame in (*sent, *received)},
            "schemas": _schemas(sent, received),
            "securitySchemes": _SECURITY,
        },
    }


def _channel(frames: list[type[FrameSchema]]) -> dict[str, Any]:
    return {
        "address": PATH,
        "title": "The stream of events",
        "description": _CHANNEL,
        "servers": [{"$ref": "#/servers/local"}],
        "messages": {frame.__name__: {"$ref": f"#/components/messages/{frame.__name__}"} for frame in frames},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {"type": "object", "properties": _QUERY},
                "bindingVersion": "0.1.0",
            }
        },
        "x-close-reasons": [
            {"code": reason.code, "reason": reason.reason, "client": reason.advice} for reason in CloseReason
        ],
    }


def _operation(action: str, summary: str, frames: list[type[FrameSchema]]) -> dict[str, Any]:
    return {
        "action": action,
        "summary": summary,
        "description": f"{summary}: {', '.join(f'`{kind_of(frame) or type_of(frame)}`' for frame in frames)}.",
        "channel": {"$ref": "#/channels/stream"},
        "messages": [{"$ref": f"#/channels/stream/messages/{frame.__name__}"} for frame in frames],
    }


def _message(frame: type[FrameSchema]) -> dict[str, Any]:
    summary, _, rest = (frame.__doc__ or "").partition("\n")
    return {
        "name": kind_of(frame) or type_of(frame),
        "title": frame.__name__,
        "summary": summary,
        **({"description": " ".join(rest.split())} if rest else {}),
        "tags": [{"name": "event" if issubclass(frame, EventFrame) else "control"}],
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
        "examples": [{"name": "one", "payload": example_of(frame)}],
    }


def _schemas(sent: list[type[FrameSchema]], received: list[type[FrameSchema]]) -> dict[str, Any]:
    _, schemas = models_json_schema(
        [*((frame, "serialization") for frame in sent), *((frame, "validation") for frame in received)],
        ref_template="#/components/schemas/{model}",
    )
    defined: dict[str, Any] = schemas["$defs"]
    return defined
