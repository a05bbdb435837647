from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, get_args

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.database import failures
from service.database.failures import Failure, UnavailableReason, classify, retried, unavailable, was_rolled_back
from service.errors import DatabaseUnavailable, NotFound, OutcomeUnknown, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

OF_SQLSTATE = {
    Failure.RETRY: ["40001", "40P01", "55P03"],
    Failure.UNAVAILABLE: [
        "3F000",
        "42501",
        "42703",
        "42704",
        "42883",
        "42P01",
        "54000",
        *("08000", "08006", "08P01", "25006", "25P03", "25P04", "28P01", "3D000", "53000", "53100", "53200", "53300"),
        *("57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030", "58P01"),
    ],
    Failure.DEFECT: ["0A000", "22003", "22P02", "23505", "25P02", "42601", "42804", "54001", "P0001", "XX000", "55000"],
}
ALL = [(sqlstate, failure) for failure, sqlstates in OF_SQLSTATE.items() for sqlstate in sqlstates]


def server_error(sqlstate: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    """Return an error as asyncpg raises what the server sent, in the words of a server that speaks German."""
    fields = {"S": "FEHLER", "V": severity, "C": sqlstate, "M": "hunter2: relation »alerts«"}
    return asyncpg.PostgresError.new(fields)


def as_it_is(error: Exception) -> Exception:
    return error


def wrapped(error: Exception) -> Exception:
    """Return an error as SQLAlchemy raises it."""
    adapted = Exception("<class 'asyncpg…'>")
    adapted.__cause__ = error
    return DBAPIError("SELECT 1", {}, adapted)


def refused(error: Exception) -> Exception:
    """Return an error as ``Database.transaction`` raises it."""
    refusal = unavailable(error)
    refusal.__cause__ = error
    return refusal


@pytest.mark.parametrize("form", [as_it_is, wrapped])
@pytest.mark.parametrize(("sqlstate", "failure"), ALL)
def test_an_error_is_classified_by_its_sqlstate(
    sqlstate: str, failure: Failure, form: Callable[[Exception], Exception]
) -> None:
    assert classify(form(server_error(sqlstate))) is failure


@pytest.mark.parametrize(("sqlstate", "failure"), [case for case in ALL if case[1] is not Failure.DEFECT])
def test_a_refusal_is_of_the_class_of_its_cause(sqlstate: str, failure: Failure) -> None:
    assert classify(refused(wrapped(server_error(sqlstate)))) is failure


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConnectionRefusedError(), Failure.UNAVAILABLE),
        (TimeoutError(), Failure.UNAVAILABLE),
        (PoolTimeout(), Failure.UNAVAILABLE),
        (asyncpg.InterfaceError("connection is closed"), Failure.UNAVAILABLE),
        (asyncpg.InternalClientError("got result for unknown protocol state 3"), Failure.UNAVAILABLE),
        (asyncpg.InvalidCachedStatementError("the schema changed"), Failure.RETRY),
        (asyncpg.exceptions._base.DataError("invalid input for query argument $1"), Failure.DEFECT),
        (asyncpg.UnsupportedServerFeatureError("no LISTEN"), Failure.DEFECT),
        (ValueError(), Failure.DEFECT),
        (DatabaseUnavailable("away"), Failure.UNAVAILABLE),
        (Overloaded("full"), Failure.UNAVAILABLE),
        (OutcomeUnknown("perhaps"), Failure.UNAVAILABLE),
        (NotFound("no"), Failure.DEFECT),
    ],
    ids=lambda value: value.name if isinstance(value, Failure) else type(value).__name__,
)
def test_an_error_without_a_sqlstate_is_classified(error: Exception, failure: Failure) -> None:
    assert classify(error) is failure


@pytest.mark.parametrize(
    ("error", "certain"),
    [
        (server_error("53100"), True),
        (server_error("40001"), True),
        (server_error("22003"), True),
        (server_error("57P01", "FATAL"), False),
        (server_error("08P01"), False),  # PgBouncer's own
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (asyncpg.OutdatedSchemaCacheError("decoded after the commit"), False),
        (asyncpg.exceptions._base.DataError("never sent"), True),
        (KeyError("a defect, perhaps after the commit"), False),
    ],
)
@pytest.mark.parametrize("form", [as_it_is, wrapped])
def test_only_an_error_of_the_transaction_says_that_it_was_rolled_back(
    error: Exception,
    certain: bool,  # noqa: FBT001 - of pytest
    form: Callable[[Exception], Exception],
) -> None:
    assert was_rolled_back(form(error)) is certain


@pytest.mark.parametrize("sqlstate", [*OF_SQLSTATE[Failure.RETRY], *OF_SQLSTATE[Failure.UNAVAILABLE]])
def test_a_refusal_names_the_condition_and_nothing_of_the_server(sqlstate: str) -> None:
    refusal = unavailable(wrapped(server_error(sqlstate)))
    assert "hunter2" not in refusal.detail
    assert "alerts" not in refusal.detail
    assert sqlstate not in refusal.detail
    assert refusal.detail.endswith("Nothing was stored; send the request again.")
    assert refusal.members["reason"] in get_args(UnavailableReason)
    assert refusal.retry_after


def test_each_reason_is_that_of_one_condition() -> None:
    reasons = {condition.reason for condition in failures._OF_REASON.values()}
    assert reasons == set(get_args(UnavailableReason))


class Work:
    """Fails with the errors that it is given, one after the other, then returns 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return 7


@pytest.mark.parametrize("form", [as_it_is, wrapped, refused])
async def test_what_others_rolled_back_is_tried_again_a_few_times(form: Callable[[Exception], Exception]) -> None:
    work = Work(*(form(server_error(sqlstate)) for sqlstate in ("40P01", "40001", "55P03")))
    assert await retried(work) == 7
    assert work.runs == 1 + failures.RETRIES
    again = Work(*[form(server_error("40P01"))] * 10)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the error itself is compared
        await retried(again)
    assert classify(raised.value) is Failure.RETRY
    assert again.runs == 1 + failures.RETRIES


@pytest.mark.parametrize(
    "error",
    [
        server_error("53100"),
        server_error("22003"),
        ConnectionResetError(),
        server_error("40001", "FATAL"),
        ValueError(),
    ],
    ids=str,
)
async def test_nothing_else_is_tried_again_at_once(error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        await retried(work)
    assert work.runs == 1
