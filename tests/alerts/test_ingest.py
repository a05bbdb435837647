from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.alerts.alert_record import AlertRecord
from service.alerts.commands import PostAlert
from service.alerts.ingest import accept, idempotency_key
from service.alerts.queue_items import PendingAlert
from service.alerts.schemas import AlertIn, AlertOut, BatchItem
from service.auth.principal import Principal
from service.errors import TopicForbidden
from service.events.hash_chain import digest, event_line
from service.events.idempotency import IdempotencyKey
from tests.alerts.examples import BILLING, EVERY_FIELD, NOW, posted

pytestmark = pytest.mark.unit

KEY = IdempotencyKey("key", "00")


def plain(alert: AlertIn) -> PendingAlert:
    item = accept(alert, BILLING, NOW, KEY)
    assert isinstance(item, PendingAlert)
    return item


def test_a_plain_alert_is_written_as_its_state_would_be() -> None:
    fields = EVERY_FIELD | {"dedup_key": None, "escalate_after": None}
    for alert in (posted(**fields), posted(), BatchItem(title="a", idempotency_key="k")):
        item = plain(alert)
        assert (item.source, item.created_at, item.key, item.size) == ("billing", NOW, KEY, len(item.wire))
        state = AlertRecord(
            id=item.id,
            seq=0,
            source="billing",
            **alert.model_dump(exclude={"idempotency_key"}),
            status="open",
            status_by="billing",
            status_at=NOW,
            occurrences=1,
            created_at=NOW,
            updated_at=NOW,
        )
        assert item.wire == state.wire()
        assert item.id.version == 7
        AlertOut.model_validate_json(state.wire_with_seq())


def test_a_plain_alert_becomes_its_event() -> None:
    item = plain(posted(topic="payments.eu", severity="error", recipients=["ann", "bob"]))
    event = item.event(4711, 9)
    assert (*event.position, event.alert_id, event.kind, event.actor) == (4711, 9, item.id, "alert.created", "billing")
    assert (event.topic, event.severity, event.occurred_at) == ("payments.eu", "error", NOW)
    assert (event.recipients, event.body, event.details) == (frozenset({"ann", "bob"}), item.wire, None)
    assert item.digest(9) == digest(event.line) == digest(event_line(9, "alert.created", NOW, "billing", item.wire))
    assert plain(posted()).event(1, 9).recipients is None


@pytest.mark.parametrize(
    "given", [{"dedup_key": "k"}, {"escalate_after": 900}, {"dedup_key": "k", "escalate_after": 1}]
)
def test_an_alert_that_may_repeat_another_or_escalate_is_a_command(given: dict[str, object]) -> None:
    alert = posted(**EVERY_FIELD | {"dedup_key": None, "escalate_after": None} | given)
    item = accept(alert, BILLING, NOW, KEY)
    assert isinstance(item, PostAlert)
    assert (item.actor, item.source, item.at, item.key) == ("billing", "billing", NOW, KEY)
    state = asdict(item.alert)
    shown = alert.model_dump()
    assert {name: state[name] for name in shown} == shown
    seconds = alert.escalate_after
    assert item.alert.escalate_at == (NOW + timedelta(seconds=seconds) if seconds else None)
    assert (
        item.alert.seq,
        item.alert.occurrences,
        item.alert.last_repeat_event_at,
        item.alert.repeat_event_due_at,
    ) == (0, 1, None, None)
    assert (item.alert.status, item.alert.status_by, item.alert.status_at) == ("open", "billing", NOW)
    assert item.alert.expires_at == datetime.fromisoformat("2999-01-01T00:00:00Z")
    assert item.size == len(item.alert.wire())


def test_alerts_share_nothing_with_those_before_them() -> None:
    assert accept(posted(**EVERY_FIELD), BILLING, NOW)
    first, second = plain(posted()), plain(posted(title="Other"))
    assert first.id != second.id
    alert = orjson.loads(first.wire)
    assert (alert["title"], alert["escalate_at"], alert["dedup_key"]) == ("It happened", None, None)


@pytest.mark.parametrize(
    ("topics", "topic", "is_covered"),
    [
        (["*"], "payments.eu", True),
        (["payments.eu"], "payments.eu", True),
        (["shop", "payments.*"], "payments.eu.cards", True),
        (["payments.*"], "payments", False),
        (["payments.eu"], "payments.eu.cards", False),
        (["payments.eu"], "payments", False),
        (["payments.eu"], "default", False),
        ([], "payments.eu", False),
    ],
)
def test_posting_is_bound_to_the_topics_of_the_token(topics: list[str], topic: str, is_covered: bool) -> None:  # noqa: FBT001
    principal = Principal("billing", BILLING.scopes, tuple(topics), BILLING.expires_at)
    if is_covered:
        assert accept(posted(topic=topic), principal, NOW)
        return
    with pytest.raises(TopicForbidden, match=topic):
        accept(posted(topic=topic), principal, NOW)


# The content of a request.


def content(alert: AlertIn) -> str:
    key = idempotency_key("key", alert)
    assert key is not None
    return key.content


def test_the_same_content_has_the_same_hash_however_it_is_written() -> None:
    spellings = [
        b'{"title":"a","attributes":{"x":1,"y":2}}',
        b'{ "attributes": {"y": 2, "x": 1},\n "title": "\\u0061", "severity": "info", "body": null }',
        b'{"title":"a","attributes":{"y":2,"x":1},"topic":"default","links":[],"recipients":null}',
    ]
    assert len({content(AlertIn.model_validate_json(text)) for text in spellings}) == 1
    assert len({content(BatchItem(title="a", idempotency_key=key)) for key in ("k", "l")}) == 1
    assert idempotency_key(None, posted()) is None


@given(st.dictionaries(st.sampled_from(["title", "body", "dedup_key", "topic"]), st.sampled_from(["a", "b", "c"])))
def test_different_contents_have_different_hashes(fields: dict[str, str]) -> None:
    assert (content(posted(**fields)) == content(posted())) is (posted(**fields) == posted())


@given(st.text(max_size=50))
def test_every_text_that_is_accepted_can_be_written_as_utf8(text: str) -> None:
    try:
        alert = AlertIn.model_validate({"title": "a" + text, "body": text, "attributes": {text: text}})
    except ValidationError:
        return
    shown = orjson.loads(plain(alert).wire)
    assert (shown["title"], shown["body"], shown["attributes"]) == ("a" + text, text, {text: text})
    assert "\0" not in text


def test_a_key_is_the_hash_of_canonical_json() -> None:
    assert IdempotencyKey.of("key", {"b": 1, "a": ["0"]}) == IdempotencyKey.of("key", {"a": ["0"], "b": 1})
    assert IdempotencyKey.of("key", ["a", "b"]).content != IdempotencyKey.of("key", ["ab"]).content
