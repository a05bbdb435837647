"""Query parameters: those that an operation declares, and each of them once, unless it may be repeated.

A parameter that is ignored is worse than one that is refused: a script that filters by a name that
does not exist acts on all alerts. And of two values, two programs on the way of a request might each
read another one. So both are refused, with the names that exist.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, get_origin

from fastapi import Request  # noqa: TC002 - FastAPI reads the annotation of a dependency
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from service.errors import InvalidRequest
from service.http.nearest import unknown_name
from service.http.problems import FAULTS_MAX, escaped, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import QueryParams

_PAGES = frozenset({"page", "offset", "skip"})
_BY_CURSOR = "pages have no numbers: send the `next` of one answer as `cursor` for the next"
_IN_HEADER = "send the token in the header Authorization"
_OF_POLLS = "it is one of GET /v1/events"
_ELSEWHERE = {"token": _IN_HEADER, "access_token": _IN_HEADER, "wait": _OF_POLLS, "connection": _OF_POLLS}
"""What is a parameter of another operation, or of other services."""


class QueryParameters(NamedTuple):
    """The query parameters that exist, in the order of the documentation, and those that may be repeated."""

    names: tuple[str, ...]
    repeatable: frozenset[str] = frozenset()


def require_known_parameters(query: QueryParams, parameters: QueryParameters, *, of_senders: bool = False) -> None:
    """Refuse a query with a parameter that does not exist, or that is repeated and takes one value.

    ``of_senders``: names that begin with two underscores are passed over. Some senders of webhooks add
    such a parameter to the address that they are given (Eventarc: ``__GCP_CloudEventsMode``).

    Raises:
        InvalidRequest: it has one. The refusal names it, and those that exist.

    """
    counts = Counter(name for name, _ in query.multi_items())
    faults = {
        name: _unknown(name, parameters.names)
        for name in counts
        if name not in parameters.names and not (of_senders and name.startswith("__"))
    }
    faults |= {
        name: "this takes one value"
        for name in parameters.names
        if counts[name] > 1 and name not in parameters.repeatable
    }
    if not faults:
        return
    shown = {shortened(name): detail for name, detail in islice(faults.items(), FAULTS_MAX)}
    name, detail = next(iter(shown.items()))
    exist = f"The parameters are: {', '.join(parameters.names)}." if parameters.names else "It takes no parameters."
    raise InvalidRequest(
        f"/query/{name}: {detail}. {exist}",
        errors=[{"pointer": f"/query/{escaped(name)}", "detail": detail} for name, detail in shown.items()],
    )


def _unknown(name: str, names: Sequence[str]) -> str:
    if name in _PAGES and "cursor" in names:
        return _BY_CURSOR
    if name in _ELSEWHERE:
        return f"there is no such parameter here: {_ELSEWHERE[name]}"
    return unknown_name("parameter", name, names)


def invalid_parameter(name: str, detail: str) -> InvalidRequest:
    """Return the refusal of a query parameter whose value is not valid."""
    return InvalidRequest(f"/query/{name}: {detail}.", errors=[{"pointer": f"/query/{name}", "detail": detail}])


def parameters_of(route: object) -> QueryParameters:
    """Return the query parameters of a route."""
    declared = get_flat_params(route.dependant) if isinstance(route, APIRoute) else ()
    query = [one for one in declared if isinstance(one.field_info, Query)]
    repeatable = frozenset(one.alias for one in query if get_origin(one.field_info.annotation) is list)
    return QueryParameters(tuple(one.alias for one in query), repeatable)


async def require_no_parameters(request: Request) -> None:
    """Refuse any query: a dependency of an operation without a token, which has no parameters.

    Raises:
        InvalidRequest: there is one.

    """
    require_known_parameters(request.query_params, QueryParameters(()))
