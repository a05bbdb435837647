"""What a test does where a program that it needs is not installed."""

from __future__ import annotations

import os

import pytest


def missing(reason: str) -> None:
    """Skip the test that lacks a program; in CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
