"""What a request took from a rate limit, and gives back if it is refused: a refusal costs nothing.

Not given back is what was taken by a request whose work was done before it was refused
(``RequestRefused.costs``), such as one for an alert that does not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import RequestRefused
from service.http.provided import part
from service.http.rate_limits import RestLimits

if TYPE_CHECKING:
    from starlette.requests import Request

    from service.http.rate_limits import RestLimit


def charge(request: Request, limit: RestLimit, key: str, cost: int = 1) -> None:
    """Take the cost of a request from a limit of ``key``.

    Raises:
        RateLimited: too little is left.

    """
    part(request, RestLimits).hit(limit, key, cost)
    request.state.charged = limit, key, cost


def settle(request: Request, refused: int) -> None:
    """Give back what so many refused alerts of a request cost; the others are stored, however it is answered."""
    charged: tuple[RestLimit, str, int] | None = getattr(request.state, "charged", None)
    request.state.charged = None
    if charged is not None and refused:
        limit, key, _ = charged
        part(request, RestLimits).give_back(limit, key, refused)


def refund(request: Request, error: Exception) -> None:
    """Give back what a request cost that ends with ``error``."""
    charged: tuple[RestLimit, str, int] | None = getattr(request.state, "charged", None)
    if charged is not None and isinstance(error, RequestRefused) and not error.costs:
        request.state.charged = None
        part(request, RestLimits).give_back(*charged)
