"""What the bearer of a token may do on an alert. One function decides, on every path: ``refusal``.

=============  ============================================  ======================================
operation      allowed with                                  of the alerts
=============  ============================================  ======================================
POST           ``alerts:write``                              whose topic is not reserved
READ           ``alerts:read``                               that the bearer may see
LOOK_UP        ``alerts:read``                               that the bearer may see
               ``alerts:write``                              that its subject posted
MANAGE         ``alerts:manage``                             that the bearer may see
RESOLVE        ``alerts:manage``                             that the bearer may see
               ``alerts:write``                              that its subject posted
SEE_RECEIPTS   ``alerts:manage``                             that the bearer may see
               ``audit:read``                                all
AUDIT          ``audit:read``                                all
=============  ============================================  ======================================

Always only within the token's topics, also on what its own subject posted. The bearer may see an
alert that is addressed to everybody, or to its subject among others.

LOOK_UP is to read the alert itself, and READ also what people did about it: who changed its status, the
comments, the stream. A source looks up what it posted, also where that is for others.

A refusal does not say whether there is an alert that the token may not read. A token with neither
``alerts:read`` nor ``alerts:manage`` is answered the same for every alert that it may not resolve, or
look up.

Where SQL decides, for lists and for what the ledger records, its twins are ``visible_to``
(``alerts/queries.py``) and ``event_matches`` (``alembic/sql/event_filter.sql``); property tests
hold them equal.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from service.auth.principal import Principal, Scope
from service.errors import NotFound, RequestRefused, ScopeMissing, TopicForbidden, TopicReserved
from service.topics import is_reserved

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Operation(Enum):
    """What a bearer may want to do on an alert; ``MANAGE`` is to acknowledge, reopen or comment."""

    POST = auto()
    READ = auto()
    LOOK_UP = auto()
    MANAGE = auto()
    RESOLVE = auto()
    SEE_RECEIPTS = auto()
    AUDIT = auto()


class Authorizable(Protocol):
    """What the decision depends on of an alert."""

    @property
    def topic(self) -> str:
        """Its topic."""

    @property
    def source(self) -> str:
        """Who posted it."""

    @property
    def recipients(self) -> Collection[str] | None:
        """The admins that it is for; None: all who may see the topic."""


AnyAlert = TypeVar("AnyAlert", bound=Authorizable)


class AlertFacts(NamedTuple):
    """What the decision depends on, where the record is not at hand."""

    topic: str
    source: str
    recipients: Collection[str] | None


_SUFFICIENT = {
    Operation.POST: (Scope.ALERTS_WRITE,),
    Operation.READ: (Scope.ALERTS_READ,),
    Operation.LOOK_UP: (Scope.ALERTS_READ, Scope.ALERTS_WRITE),
    Operation.MANAGE: (Scope.ALERTS_MANAGE,),
    Operation.RESOLVE: (Scope.ALERTS_MANAGE, Scope.ALERTS_WRITE),
    Operation.SEE_RECEIPTS: (Scope.ALERTS_MANAGE, Scope.AUDIT_READ),
    Operation.AUDIT: (Scope.AUDIT_READ,),
}


def scope_missing(principal: Principal, scopes: Iterable[Scope], instead: str = "") -> ScopeMissing:
    """Return the refusal of a token that grants none of ``scopes``; ``instead``: what would do, too."""
    granted = ", ".join(scope for scope in Scope if principal.may(scope))
    return ScopeMissing(
        f"This requires a token with the scope {' or '.join(scopes)}{instead}. This one grants"
        f" {granted or 'none: no value of its scope claims is a scope here, or mapped to one'}."
    )


def is_addressed(recipients: Collection[str] | None, subject: str) -> bool:
    """Say whether what is for ``recipients`` is for ``subject``; None is everybody, and no list is."""
    return recipients is None or subject in recipients


def refusal(
    principal: Principal, operation: Operation, alert: Authorizable | None, *, own_sources: Collection[str] = ()
) -> RequestRefused | None:
    """Return why ``principal`` may not do this on ``alert``, None where it may.

    An alert of None stands for one that does not exist. ``own_sources`` are the sources whose
    alerts count as the bearer's own, beside its subject: those with which it shares its dedup keys.
    """
    if operation is Operation.POST:
        return _refusal_to_post(principal, alert)
    if alert is not None and _may(principal, operation, alert, own_sources):
        return None
    if not any(map(principal.may, _SUFFICIENT[operation])):
        return scope_missing(principal, _SUFFICIENT[operation])
    if operation is Operation.LOOK_UP and not principal.may(Scope.ALERTS_READ):
        return scope_missing(principal, _SUFFICIENT[Operation.READ])
    may_know = not principal.may(Scope.ALERTS_READ) or (alert is not None and _sees(principal, alert))
    if operation is Operation.RESOLVE and not principal.may(Scope.ALERTS_MANAGE) and may_know:
        return ScopeMissing(
            "Without the scope alerts:manage, a token resolves only what its subject posted, in the token's topics."
        )
    return NotFound("There is no such alert, or none that this token may see.")


def authorize(principal: Principal, operation: Operation, alert: AnyAlert | None) -> AnyAlert:
    """Return ``alert``, or raise why ``principal`` may not do this on it."""
    if (refused := refusal(principal, operation, alert)) is not None:
        raise refused
    assert alert is not None  # noqa: S101 - narrows: nothing is allowed on what does not exist
    return alert


def may_read(principal: Principal, alert: Authorizable) -> bool:
    """Say whether an answer may show ``alert``."""
    return refusal(principal, Operation.READ, alert) is None


def _refusal_to_post(principal: Principal, alert: Authorizable | None) -> RequestRefused | None:
    if alert is None or not principal.may(Scope.ALERTS_WRITE):
        return scope_missing(principal, _SUFFICIENT[Operation.POST])
    if is_reserved(alert.topic):
        return TopicReserved(f"Only the service itself raises alerts of {alert.topic}.")
    if not principal.covers(alert.topic):
        return TopicForbidden(f"The token's topics do not cover {alert.topic}.")
    return None


def _may(principal: Principal, operation: Operation, alert: Authorizable, own_sources: Collection[str]) -> bool:
    """Decide about an alert that exists."""
    if not principal.covers(alert.topic):
        return False
    is_own = alert.source == principal.subject or alert.source in own_sources
    match operation:
        case Operation.RESOLVE if is_own and principal.may(Scope.ALERTS_WRITE):
            return True
        case Operation.LOOK_UP if alert.source == principal.subject and principal.may(Scope.ALERTS_WRITE):
            return True
        case Operation.SEE_RECEIPTS | Operation.AUDIT if principal.may(Scope.AUDIT_READ):
            return True
        case Operation.READ | Operation.LOOK_UP:
            scope = Scope.ALERTS_READ
        case Operation.MANAGE | Operation.RESOLVE | Operation.SEE_RECEIPTS:
            scope = Scope.ALERTS_MANAGE
        case _:
            return False
    return principal.may(scope) and _sees(principal, alert)


def _sees(principal: Principal, alert: Authorizable) -> bool:
    return principal.covers(alert.topic) and is_addressed(alert.recipients, principal.subject)
