"""Fixtures that the tests of streams share."""

from __future__ import annotations

from tests.stream.conftest import _no_traceback, shared

__all__ = ["_no_traceback", "shared"]
