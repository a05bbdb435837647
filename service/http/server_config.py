"""uvicorn's configuration, with what a client may take of a server's time and memory."""

from __future__ import annotations

from typing import Any

import uvicorn

from service.http.sockets import Sockets, sockets_max


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration with the settings of the protocol class, in seconds and bytes."""

    request_timeout: float = 30.0
    request_max_bytes: int = 256 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sockets = Sockets(sockets_max(0))
