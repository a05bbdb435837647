"""The parts of the application, looked up by their type.

``app.py`` makes each part once and provides it. A route names the type that it needs, and imports
nothing of ``app.py``::

    async def get_alert(database: Annotated[Database, Depends(provided(Database))]) -> Response: ...

An endpoint behind a ``FastRoute`` is called without FastAPI's dependencies and looks the part up
itself: ``part(request, Database)``. Where a lower package needs a part of a higher one, the lower
one declares a ``Protocol``, and ``app.py`` provides the part under that type.
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of a nested
# function's annotations.

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from fastapi import Request
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

Part = TypeVar("Part")


class Parts:
    """The parts of one application, by their own type or the type that they were added as."""

    def __init__(self, *parts: object) -> None:
        self._parts: dict[type, object] = {type(part): part for part in parts}

    def add(self, kind: type[Part], part: Part) -> None:
        """Provide ``part`` as ``kind``, a protocol or a base class."""
        self._parts[kind] = part

    def find(self, kind: type[Part]) -> Part:
        """Return the part of that type.

        Raises:
            LookupError: ``app.py`` provides none.

        """
        try:
            return cast("Part", self._parts[kind])
        except KeyError:
            raise LookupError(f"app.py provides no {kind.__name__}") from None


_provided: WeakKeyDictionary[Starlette, Parts] = WeakKeyDictionary()
"""Not in ``app.state``, which takes four times as long: a POST looks up six parts."""


def provide(app: Starlette, parts: Parts) -> None:
    """Let the routes of ``app`` find ``parts``."""
    _provided[app] = parts


def parts_of(app: Starlette) -> Parts:
    """Return what ``app`` was provided with."""
    return _provided[app]


def part(request: HTTPConnection, kind: type[Part]) -> Part:
    """Return the part of that type of the application that serves ``request``."""
    return parts_of(request.scope["app"]).find(kind)


def provided(kind: type[Part]) -> Callable[[Request], Awaitable[Part]]:
    """Return the dependency that yields the part of that type."""

    async def dependency(request: Request) -> Part:  # a plain function would be called in a thread
        return part(request, kind)

    return dependency
