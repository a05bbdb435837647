"""How the time of a function grows with its input, whatever else the machine does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT, LONG = 300, 2_400
"""Sizes of an input. What is linear takes 8 times as long for the longer, what is quadratic 64 times."""
BOUND = 24
TRIALS = 7
LEAST_NS = 5_000
"""Less is not measured: the call itself."""

Input = TypeVar("Input")


def is_superlinear(use: Callable[[Input], object], make: Callable[[int], Input]) -> bool:
    """Return whether the longer input takes more than ``BOUND`` times as long, in the best of several trials.

    Time is the processor's of this thread, so a busy machine changes little of it.
    """
    inputs = make(SHORT), make(LONG)
    least = [float("inf")] * 2
    for _ in range(TRIALS):
        for index, value in enumerate(inputs):
            started = time.thread_time_ns()
            use(value)
            least[index] = min(least[index], time.thread_time_ns() - started)
        if least[1] < BOUND * max(least[0], LEAST_NS):
            return False
    return True
