"""Idempotency keys: what makes the retry of a request safe."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from service.errors import IdempotencyMismatch


def content_hash(value: Any) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of a value: its members sorted."""
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


class IdempotencyKey(NamedTuple):
    """A key, beside the ``content_hash`` of the request that it was sent with."""

    key: str
    content: str

    @classmethod
    def of(cls, key: str, request: Any) -> IdempotencyKey:
        """Return the key of a request, given as what is JSON."""
        return cls(key, content_hash(request))


def mismatch() -> IdempotencyMismatch:
    """Return the refusal of a key that was first sent with another request."""
    return IdempotencyMismatch("The first request with this key held something else. Use a new key.")
