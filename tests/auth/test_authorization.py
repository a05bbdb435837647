"""The one function that decides, against the rules of the design written out once more, and against its SQL twin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from service.alerts.alert_record import FIELDS
from service.alerts.queries import visible_to
from service.alerts.tables import alerts
from service.auth.authorization import AlertFacts, Operation, is_addressed, may_read, refusal
from service.auth.principal import Principal, Scope
from service.database.engine import Database, parse_url
from service.settings import StorageSettings
from service.topics import EVERY_TOPIC
from tests.alerts.authorization_model import Model, ModelAlert, Token
from tests.alerts.examples import bearer, stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.alerts.alert_record import AlertRecord
    from service.errors import RequestRefused

SUBJECTS = ["ann", "bob", "billing"]
TOPICS = ["shop", "shop.eu", "a_b", "axb", "tocsin.health", "drill.x", "tocsin", "drills.x"]
PATTERNS = [*TOPICS, "*", "shop.*", "a_b.*", "tocsin.*"]
PEOPLE = [None, [], ["ann"], ["ann", "bob"]]
RULES: dict[Operation, Callable[[Model, Token, ModelAlert | None], int]] = {
    Operation.READ: Model.read,
    Operation.LOOK_UP: Model.look_up,
    Operation.MANAGE: Model.manage,
    Operation.RESOLVE: Model.resolve,
    Operation.SEE_RECEIPTS: Model.receipts,
    Operation.AUDIT: Model.audit,
}
principals = st.builds(
    Principal,
    subject=st.sampled_from(SUBJECTS),
    scopes=st.frozensets(st.sampled_from([*Scope])),
    topics=st.just(EVERY_TOPIC) | st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple),
    expires_at=st.just(2e9),
)
facts = st.builds(AlertFacts, st.sampled_from(TOPICS), st.sampled_from(SUBJECTS), st.sampled_from(PEOPLE))


def status_of(problem: RequestRefused | None) -> int:
    return problem.status if problem is not None else 200


@pytest.mark.unit
@given(principals, st.none() | facts, st.sampled_from([*RULES]))
def test_each_operation_is_decided_by_the_rules(
    principal: Principal, alert: AlertFacts | None, operation: Operation
) -> None:
    one = Token(principal.subject, principal.scopes, principal.topics)
    recipients = alert and alert.recipients
    model = alert and ModelAlert(
        "id", alert.source, alert.topic, list(recipients) if recipients is not None else None, "title", None
    )
    assert status_of(refusal(principal, operation, alert)) == RULES[operation](Model([]), one, model)


@pytest.mark.unit
@given(principals, facts)
def test_posting_is_decided_by_scope_and_topic(principal: Principal, alert: AlertFacts) -> None:
    problem = refusal(principal, Operation.POST, alert)
    one = Token(principal.subject, principal.scopes, principal.topics)
    assert (problem.code if problem is not None else None) == Model([]).post(one, alert.topic)


@pytest.mark.unit
@given(principals, facts, st.sampled_from([*RULES]))
def test_a_refusal_is_the_same_whether_there_is_an_alert_that_the_token_may_not_read(
    principal: Principal, alert: AlertFacts, operation: Operation
) -> None:
    refused, missing = refusal(principal, operation, alert), refusal(principal, operation, None)
    if refused is not None and missing is not None and not may_read(principal, alert):
        assert (refused.code, refused.detail, refused.members) == (missing.code, missing.detail, missing.members)


@pytest.mark.unit
def test_the_sources_of_a_group_are_its_own_for_whoever_says_so_and_within_the_topics_of_the_token() -> None:
    writer = bearer("shop", Scope.ALERTS_WRITE, topics=("shop",))
    group = frozenset({"depot"})
    for topic, own_sources, status in (("shop", group, 200), ("shop", (), 403), ("shop.eu", group, 403)):
        alert = AlertFacts(topic, "depot", ["ann"])
        assert status_of(refusal(writer, Operation.RESOLVE, alert, own_sources=own_sources)) == status


# The SQL twins.


@pytest.fixture(scope="module")
def kept(shared_url: str) -> tuple[str, list[AlertRecord]]:
    """The address of a database that holds an alert of every kind."""
    kinds = [(topic, people) for topic in TOPICS for people in PEOPLE]
    records = [
        stored(seq=seq, topic=topic, recipients=people, source=SUBJECTS[seq % 3])
        for seq, (topic, people) in enumerate(kinds, 1)
    ]

    async def store() -> None:
        database = Database(parse_url(shared_url), StorageSettings())
        async with database.transaction() as tx:
            await tx.execute(insert(alerts), [{name: getattr(one, name) for name in FIELDS} for one in records])
        await database.close()

    asyncio.run(store())
    return shared_url, records


@settings(max_examples=60, deadline=None)
@given(one=principals)
def test_a_list_holds_what_one_may_read(kept: tuple[str, list[AlertRecord]], one: Principal) -> None:
    url, records = kept
    scopes = one.scopes | {Scope.ALERTS_READ} if not one.may(Scope.ALERTS_WRITE) else one.scopes
    reader = Principal(one.subject, scopes, one.topics, one.expires_at)
    listed_with = Operation.READ if reader.may(Scope.ALERTS_READ) else Operation.LOOK_UP

    async def listed() -> set[int]:
        database = Database(parse_url(url), StorageSettings())
        async with database.transaction() as tx:
            rows = (await tx.execute(select(alerts.c.seq).where(visible_to(reader)))).scalars().all()
        await database.close()
        return set(rows)

    assert asyncio.run(listed()) == {record.seq for record in records if refusal(reader, listed_with, record) is None}


def test_sql_and_python_address_the_same_people(shared_url: str) -> None:
    cases = [(people, subject) for people in [*PEOPLE, ["bob", "bob"], [""]] for subject in [*SUBJECTS, ""]]

    async def in_sql() -> list[bool]:
        connection = await asyncpg.connect(shared_url)
        answers = [await connection.fetchval("SELECT is_addressed($1, $2)", *case) for case in cases]
        await connection.close()
        return answers

    assert asyncio.run(in_sql()) == [is_addressed(*case) for case in cases]
