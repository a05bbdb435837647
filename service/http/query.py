"""Query parameters: one that takes one value is there once.

Of two values, two programs on the way of a request might each read another one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_origin

from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from service.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.datastructures import QueryParams


def require_single_parameters(query: QueryParams, names: Collection[str]) -> None:
    """Refuse a query in which one of the parameters ``names`` is repeated.

    Raises:
        InvalidRequest: one is.

    """
    counts = Counter(name for name, _ in query.multi_items())
    if repeated := [name for name in names if counts[name] > 1]:
        faults = [{"pointer": f"/query/{name}", "detail": "this takes one value"} for name in repeated]
        raise InvalidRequest(f"The query has {repeated[0]} more than once.", errors=faults)


def single_parameters(route: object) -> list[str]:
    """Return the query parameters of a route that take one value."""
    parameters = get_flat_params(route.dependant) if isinstance(route, APIRoute) else ()
    query = (one for one in parameters if isinstance(one.field_info, Query))
    return [one.alias for one in query if get_origin(one.field_info.annotation) is not list]
