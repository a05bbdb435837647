"""Standard output: what counts as written out, and what a command does when nobody reads it any more.

Text is written out when it was flushed without an error: a file has it, or the buffer of a pipe.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_SECONDS = 1.0
"""How long a line waits for the reader of the pipe; one that is slower gets lines as long as its pipe takes them."""
_PAUSE_SECONDS = 0.0001
_PAUSE_MAX_SECONDS = 0.01


class ReaderLeft(Exception):
    """The reader of the pipe has ended: nothing more can be written, and nobody misses it."""


@contextmanager
def written_out() -> Iterator[None]:
    """Flush what the block writes.

    Raises:
        ReaderLeft: the reader of the pipe has ended.
        CommandFailed: it cannot be written.

    """
    if sys.stdout is None:
        raise CommandFailed("standard output is closed: redirect it to a file, a pipe or /dev/null")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard()
        raise ReaderLeft from None
    except OSError as error:
        discard()
        raise CommandFailed(f"standard output cannot be written: {error.strerror or error}") from None


def discard() -> None:
    """Discard further output, and what could not be written: Python flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LineWriter:
    """Writes line by line, and into a pipe no faster than its reader reads.

    So a reader that leaves, as ``head`` does, leaves no lines behind in the pipe. One that takes
    longer than ``READ_SECONDS`` for a line is not waited for until it has read everything.
    """

    def __init__(self) -> None:
        self._pipe = _pipe()
        self._waits = True

    def write(self, line: str) -> None:
        """Write a line out, and wait until it was read.

        Raises:
            ReaderLeft: the reader of the pipe has ended, and did not read the line.
            CommandFailed: it cannot be written.

        """
        with written_out():
            sys.stdout.write(f"{line}\n")
        if self._pipe is not None:
            self._waits = self._is_read(self._pipe, READ_SECONDS if self._waits else 0)

    @staticmethod
    def _is_read(pipe: int, seconds: float) -> bool:
        errors = select.poll()
        errors.register(pipe, 0)  # errors are reported unasked
        give_up_at, pause = time.monotonic() + seconds, _PAUSE_SECONDS
        while _unread_bytes(pipe):
            if errors.poll(0):
                discard()
                raise ReaderLeft
            if time.monotonic() >= give_up_at:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_SECONDS)
        return True


def _pipe() -> int | None:
    """Return the descriptor of standard output where it is a pipe whose contents the system can tell."""
    try:
        output = sys.stdout.fileno()
        _unread_bytes(output)
    except OSError:
        return None
    return output if stat.S_ISFIFO(os.fstat(output).st_mode) else None


def _unread_bytes(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
