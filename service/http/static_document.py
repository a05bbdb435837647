"""A document that is encoded and compressed once, and served to anybody."""

from __future__ import annotations

import gzip
import hashlib
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request


class StaticDocument:
    """A document, with its ``ETag`` (RFC 9110, section 8.8.3), and as gzip where the client takes that."""

    def __init__(self, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self._content = content
        self._compressed = gzip.compress(content)
        self._media_type = media_type
        self._etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'  # weak: one for both encodings
        self._headers = {**(headers or {}), "ETag": self._etag, "Vary": "Accept-Encoding"}

    def response(self, request: Request) -> Response:
        """Return the answer: 304 where the client has it."""
        if self._etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self._headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers = {**self._headers, "Content-Encoding": "gzip"}
            return Response(self._compressed, headers=headers, media_type=self._media_type)
        return Response(self._content, headers=self._headers, media_type=self._media_type)
