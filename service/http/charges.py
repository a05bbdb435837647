"""What a request costs of a rate limit, and gives back if it is refused: a refusal costs nothing.

A request is charged once it is known what of it is valid, and before that is stored: whatever is
refused as it stands never takes anything, so that it does not keep out what the same subject posts
beside it. ``Bearer`` charges a request that has no body, the dependency ``json_body`` one that has,
and an endpoint behind a ``FastRoute`` charges itself. Some of what is refused only afterwards had
its work done (``RequestRefused.costs``), such as a request for an alert that does not exist; the
rest is given back, as far as time has not put it back already (``token_buckets.py``).

A flood of requests that are refused is not limited by its rate, then, but by what it can hold: the
bytes and values of a body (``request_body.py``), the bytes of all bodies of a subject
(``body_budget.py``), the work of one connection, and that of one request, in a turn of the event
loop (``server_protocol.py``, ``turns.py``). A request without a valid token is no such request: it
counts against the limit of its address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from service.errors import RequestRefused
from service.http.provided import part
from service.http.rate_limits import RestLimits

if TYPE_CHECKING:
    from starlette.requests import Request

    from service.http.rate_limits import Cost, RestLimit


class _Charge(NamedTuple):
    limit: RestLimit
    taken: Cost
    cost: int


def assign(request: Request, limit: RestLimit, key: str) -> None:
    """Assign a request to a limit of ``key``: there it is charged."""
    request.state.limited_by = limit, key


def charge(request: Request, cost: int = 1) -> None:
    """Take the cost of a request from its limit.

    Raises:
        RateLimited: too little is left.

    """
    if cost:
        limit, key = request.state.limited_by
        request.state.charge = _Charge(limit, part(request, RestLimits).hit(limit, key, cost), cost)


def require_any(request: Request, cost: int) -> None:
    """Refuse a request that may cost ``cost`` where nothing is left, before the work of finding that out.

    Raises:
        RateLimited: nothing is left.

    """
    limit, key = request.state.limited_by
    part(request, RestLimits).require(limit, key, cost)


def settle(request: Request, refused: int) -> None:
    """Give back what so many refused alerts of a request cost; the others are stored, however it is answered."""
    charged: _Charge | None = getattr(request.state, "charge", None)
    request.state.charge = None
    if charged is not None and refused:
        part(request, RestLimits).give_back(charged.limit, charged.taken, refused)


def refund(request: Request, error: Exception) -> None:
    """Give back what a request cost that ends with ``error``."""
    charged: _Charge | None = getattr(request.state, "charge", None)
    if charged is not None and isinstance(error, RequestRefused) and not error.costs:
        settle(request, charged.cost)
