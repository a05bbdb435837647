"""The payloads of other systems as alerts, their keys, or refusals; without a node."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.ingest import RoomForAlert
from service.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from service.integrations import alertmanager, apprise, cloudevents, sanitize
from service.settings import EVENT_MAX_BYTES, IntegrationSettings
from service.severity import Severity
from tests.integrations.test_sanitize import trees

if TYPE_CHECKING:
    from service.alerts.schemas import AlertIn

pytestmark = pytest.mark.unit


# Alertmanager.


def firing(**fields: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "fingerprint": "9e1c1f7d3b5a2c40",
        "labels": {"alertname": "DiskFull", "severity": "page", "topic": "Payments EU", "instance": "db1:9100"},
        "annotations": {
            "summary": "DiskFull on db1",
            "description": "Details.",
            "runbook_url": "https://runbooks.example/x",
        },
        "startsAt": "2026-11-21T09:41:07Z",
        "generatorURL": "http://prometheus.example/graph?g0.expr=up",
        **fields,
    }


def notified(*alerts: Any, **settings: Any) -> list[alertmanager.AlertmanagerAlert]:
    payload = {"version": "4", "receiver": "tocsin", "alerts": list(alerts)}
    notification = alertmanager.read(payload, IntegrationSettings(**settings))
    return [notification[index] for index in range(len(notification))]


def test_an_alert_of_alertmanager_becomes_an_alert_with_all_that_it_says() -> None:
    [one] = notified(firing())
    links = [("Source", "http://prometheus.example/graph?g0.expr=up"), ("Runbook", "https://runbooks.example/x")]
    assert (one.firing, one.dedup_key, one.alert.dedup_key) == (True, "9e1c1f7d3b5a2c40", "9e1c1f7d3b5a2c40")
    assert (one.alert.topic, one.alert.severity) == ("payments-eu", "critical")
    assert (one.alert.title, one.alert.body) == ("DiskFull on db1", "Details.")
    assert [(link.title, link.url) for link in one.alert.links] == links
    assert one.alert.attributes == {
        "labels": firing()["labels"],
        "annotations": firing()["annotations"],
        "starts_at": "2026-11-21T09:41:07Z",
        "receiver": "tocsin",
    }


def test_firing_and_resolved_alerts_are_read_in_their_order_and_what_is_no_alert_is_skipped() -> None:
    alerts = notified("no alert", firing(status="resolved"), None, {}, firing(fingerprint="b"))
    assert [(one.firing, one.alert.title) for one in alerts] == [
        (False, "DiskFull on db1"),
        (True, "Untitled"),
        (True, "DiskFull on db1"),
    ]


@pytest.mark.parametrize("fingerprint", [None, "", 7, "x" * 201, "a\nb", " a"])
def test_an_alert_without_a_usable_fingerprint_has_the_hash_of_its_labels_as_key(fingerprint: object) -> None:
    keys = [
        notified(firing(fingerprint=fingerprint, labels=labels))[0].dedup_key
        for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}, {"a": "1"})
    ]
    assert keys[0] == keys[1] != keys[2]
    assert len(keys[0]) == 64


def test_foreign_values_are_cut_or_replaced() -> None:
    labels = {"alertname": "x\0" * 500, "topic": " ", "severity": 7, "l" * 5000: "v" * 50_000, "nested": {"a": []}}
    annotations = {"summary": " ", "description": "d" * 100_000, "runbook_url": "javascript:alert(1)"}
    [one] = notified(firing(labels=labels, annotations=annotations, generatorURL="", startsAt=None))
    assert (one.alert.topic, one.alert.severity, one.alert.links) == ("default", "warning", [])
    assert (len(one.alert.title), len((one.alert.body or "").encode())) == (200, 16 * 1024)
    assert one.alert.attributes["truncated"] is True


def test_the_settings_say_which_labels_are_topic_and_severity_and_what_their_values_mean() -> None:
    settings = {
        "alertmanager_severity_map": {"p1": "critical", "p3": "info", "warning": "warning"},
        "alertmanager_severity_label": "priority",
        "alertmanager_default_severity": "error",
        "alertmanager_topic_label": "team",
        "alertmanager_default_topic": "ops",
    }
    labels = [
        {"priority": " P1", "team": "Data.Base"},
        {"priority": "p3"},
        {"priority": "warning"},
        {"severity": "page"},
    ]
    alerts = notified(*(firing(labels=one) for one in labels), **settings)
    assert [(one.alert.topic, one.alert.severity) for one in alerts] == [
        ("data.base", "critical"),
        ("ops", "info"),
        ("ops", "warning"),
        ("ops", "error"),
    ]


def test_all_labels_count_though_not_all_are_kept() -> None:
    many = {f"l{number}": "" for number in range(1_200)}
    [one, other] = notified(
        firing(fingerprint="", labels={**many, "topic": "last", "severity": "critical"}),
        firing(fingerprint="", labels={**many, "topic": "last", "severity": "critical", "instance": "db2"}),
    )
    assert (one.alert.topic, one.alert.severity, one.alert.attributes["truncated"]) == ("last", "critical", True)
    assert one.dedup_key != other.dedup_key


def test_a_link_for_which_there_is_no_room_is_said() -> None:
    url = "http://prometheus.example/" + "u" * 1_900
    [one] = notified(firing(generatorURL=url, annotations={"description": "d", "runbook_url": url}))
    long = one.alert.model_copy(update={"body": '"' * 10_500})
    assert len(sanitize.encoded(long.attributes)) < 4_096, "they are not cut"
    cut = sanitize.fit(long, RoomForAlert("x", EVENT_MAX_BYTES), lambda _: long.attributes)
    assert ([link.title for link in cut.links], cut.body) == (["Source"], long.body)
    assert cut.attributes == {**long.attributes, "truncated": True}


@pytest.mark.parametrize("payload", [[], None, "alerts", {}, {"alerts": {}}, {"alerts": None}])
def test_what_is_no_notification_of_alertmanager_is_refused(payload: object) -> None:
    with pytest.raises(InvalidRequest, match="Alertmanager notification"):
        alertmanager.read(payload, IntegrationSettings())


@given(st.dictionaries(st.sampled_from(list(firing())), trees), st.dictionaries(st.text(max_size=5), trees, max_size=3))
def test_any_object_is_an_alert_of_alertmanager_or_refused(fields: dict[str, Any], labels: dict[str, Any]) -> None:
    for alert in (firing(**fields), firing(labels=labels, annotations=labels)):
        try:
            [one] = notified(alert)
        except InvalidRequest:
            continue
        assert 0 < len(one.dedup_key) <= 200


def test_labels_that_are_left_out_are_not_left_out_silently() -> None:
    few, many = ({str(number): "" for number in range(count)} for count in (1_000, 1_001))
    for fields in ({"labels": many, "annotations": {}}, {"labels": {}, "annotations": many}):
        [one] = notified(firing(**fields))
        assert one.alert.attributes["truncated"] is True
    [one] = notified(firing(labels=few, annotations={}))
    assert "truncated" not in one.alert.attributes


def test_an_address_that_is_too_long_for_a_link_is_an_attribute() -> None:
    address = "http://prometheus.example/graph?g0.expr=" + "x" * 2_000
    [one] = notified(firing(generatorURL=address))
    assert [link.title for link in one.alert.links] == ["Runbook"]
    assert one.alert.attributes["generator_url"] == address


# Apprise.


@pytest.mark.parametrize(
    ("payload", "severity"),
    [
        ({"type": "info"}, "info"),
        ({"type": "success"}, "info"),
        ({"type": "warning"}, "warning"),
        ({"type": "failure"}, "error"),
        ({"type": "FAILURE"}, "error"),
        ({"type": "failure", "severity": "critical"}, "critical"),
        ({"type": "failure", "severity": "fatal"}, "error"),
        ({"type": ["odd"]}, "info"),
        ({}, "info"),
    ],
)
def test_the_type_of_a_notification_is_the_severity_unless_it_says_one(payload: dict[str, Any], severity: str) -> None:
    assert apprise.read({"title": "Backup failed", **payload}).severity == severity


@pytest.mark.parametrize(
    ("payload", "title", "body"),
    [
        ({"title": "Backup failed", "message": "Disk full.\nTwice."}, "Backup failed", "Disk full.\nTwice."),
        ({"message": "\nDisk full.\nTwice."}, "Disk full.", "\nDisk full.\nTwice."),
        ({"title": " ", "message": "Disk full."}, "Disk full.", "Disk full."),
        ({"title": "Backup failed"}, "Backup failed", None),
        ({"title": "t" * 500, "message": " "}, "t" * 199 + "…", None),
    ],
)
def test_a_notification_has_a_title_and_a_body(payload: dict[str, Any], title: str, body: str | None) -> None:
    alert = apprise.read(payload)
    assert (alert.title, alert.body, alert.topic, alert.dedup_key, alert.attributes) == (
        title,
        body,
        "default",
        None,
        {},
    )


def test_a_member_that_the_address_adds_is_a_field_or_an_attribute() -> None:
    payload = {"title": "a", "version": "1.0", "topic": "Backup.EU", "dedup_key": "night\nly", "host": "db1"}
    alert = apprise.read(payload)
    assert (alert.topic, alert.dedup_key, alert.attributes) == ("backup.eu", "night ly", {"host": "db1"})
    long = [apprise.read({"title": "a", "dedup_key": "k" * 300 + end}).dedup_key or "" for end in "AB"]
    assert long[0] != long[1], "the end of a long key tells it from another"
    assert {len(key) for key in long} == {200}


def test_of_an_attachment_its_name_type_and_size_are_kept() -> None:
    files = [{"filename": "a.log", "mimetype": "text/plain", "base64": "YWJjZA=="}, {"filename": "b"}]
    assert apprise.read({"title": "a", "attachments": files}).attributes == {
        "attachments": [{"filename": "a.log", "mimetype": "text/plain", "bytes": 4}, {"filename": "b"}]
    }


@pytest.mark.parametrize("payload", [[], None, {}, {"title": "", "message": " "}, {"title": 7, "type": "info"}])
def test_what_is_no_notification_of_apprise_is_refused(payload: object) -> None:
    with pytest.raises(InvalidRequest):
        apprise.read(payload)


@given(
    st.dictionaries(
        st.sampled_from([*"tm", "title", "message", "topic", "severity", "dedup_key", "attachments"]), trees
    )
)
def test_any_object_with_a_title_is_a_notification(payload: dict[str, Any]) -> None:
    with suppress(InvalidRequest):  # its topic cannot be one
        assert apprise.read({**payload, "title": "Backup failed"}).title == "Backup failed"


# CloudEvents.


def wire(**attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": "com.example.Payment.Failed", **attributes}


def alert_of(event: Any) -> AlertIn:
    return cloudevents.alert_of(event)[0]


@pytest.mark.parametrize(
    ("event", "topic", "title"),
    [
        (wire(), "com.example.payment.failed", "com.example.Payment.Failed"),
        (wire(subject="order 4711"), "com.example.payment.failed", "com.example.Payment.Failed: order 4711"),
        (wire(topic="Payments EU", data={"title": "Card"}), "payments-eu", "Card"),
        (wire(topic="pay", type="支付"), "pay", "支付"),
        (wire(topic=None, data={"title": " "}), "com.example.payment.failed", "com.example.Payment.Failed"),
    ],
)
def test_an_event_has_a_topic_and_a_title(event: Any, topic: str, title: str) -> None:
    assert (alert_of(event).topic, alert_of(event).title) == (topic, title)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ({"body": "b", "message": "m"}, "b"),
        ({"message": "m"}, "m"),
        ("Acquirer X times out.", "Acquirer X times out."),
        ({"rate": 0.78}, None),
        ([1], None),
    ],
)
def test_the_body_of_an_event_is_in_its_data(data: Any, body: str | None) -> None:
    assert alert_of(wire(data=data)).body == body
    assert alert_of(wire(data=data)).attributes == {"cloudevent": wire(data=data)}


def test_extensions_say_severity_and_key() -> None:
    alert = alert_of(wire(severity="critical", dedupkey=" x\n"))
    assert (alert.severity, alert.dedup_key) == ("critical", "x")
    odd = alert_of(wire(severity="fatal", dedupkey=7))
    assert (odd.severity, odd.dedup_key) == ("info", None)
    assert alert_of(wire(dedupkey=" ")).dedup_key is None


def test_an_event_is_known_by_its_source_and_id_whatever_a_broker_added() -> None:
    keys = [
        cloudevents.alert_of(event)[1]
        for event in (
            wire(),
            wire(traceparent="00-1", data=1),
            wire(id="2"),
            wire(source="/t"),
            wire(id="s1", source="/"),
        )
    ]
    assert keys[0] == keys[1]
    assert len({key.key for key in keys}) == len({key.content for key in keys}) == 4
    assert keys[0].key.startswith("cloudevent:")


def test_data_that_attributes_cannot_hold_does_not_keep_the_event_out() -> None:
    large = alert_of(wire(data={"log": "x" * 20_000})).attributes["cloudevent"]
    assert large["data_omitted"]["bytes"] == 20_010
    assert (large["id"], "data" in large) == ("1", False)
    data: Any = {"big": 2**60, "nul": "\0"}
    for _ in range(20):
        data = {"deep": data}
    assert json.loads(alert_of(wire(data=data)).attributes["cloudevent"]["data_json"]) == data
    wide = alert_of(wire(subject="s" * 30_000, other="o" * 30_000, data=1)).attributes
    assert (wide["truncated"], wide["cloudevent"]["source"]) == (True, "/s")
    assert alert_of(wire(data_base64="A" * 20_000)).attributes["cloudevent"]["data_omitted"]["bytes"] == 20_002


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ({f"a{number}": "v" * 130 for number in range(200)}, "m"),
        ({f"a{number}": "v" for number in range(80)}, '"' * 16_000),
        ({f"a{number}": '"' * 300 for number in range(990)}, '"' * 16_000),
        ({"a" * 9_000: "v" * 9_000}, "m" * 16_000),
    ],
)
def test_what_identifies_an_event_is_kept_and_extensions_are_cut_first(
    extensions: dict[str, Any], message: str
) -> None:
    identity = {"id": "i" * 300, "source": "/" + "s" * 300, "time": "2026-11-21T09:41:07Z", "subject": "order 17"}
    event = wire(**identity, **extensions, data={"message": message, "log": "x" * 20_000})
    alert = alert_of(event)
    fitted = cloudevents.fit(alert, event, RoomForAlert("x", EVENT_MAX_BYTES))
    for attributes in (alert.attributes, fitted.attributes):
        kept = attributes["cloudevent"]
        assert {name: kept[name] for name in wire(**identity)} == wire(**identity)
        assert kept["data_omitted"]["bytes"] > 20_000
        assert ("truncated" in attributes) is not (extensions.items() <= kept.items())
        assert all(kept[name] == value for name, value in extensions.items() if name in kept and len(value) < 65)
    assert alert_of(wire(source='"' * 9_000, id="😀" * 9_000, data="x" * 20_000)).attributes["truncated"]


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ([], "must be a JSON object"),
        ({"id": "1"}, "specversion must be 1.0"),
        (wire(specversion="0.3"), "must be 1.0"),
        (wire(id=None), "needs id"),
        (wire(source=" "), "needs source"),
        (wire(type=7), "needs type"),
        (wire(Type="x"), "no name of an attribute"),
        (wire(extension={"a": 1}), "must be text, a boolean or an integer of 32 bits"),
        (wire(extension=2**31), "must be text, a boolean or an integer of 32 bits"),
        (wire(extension=0.5), "must be text, a boolean or an integer of 32 bits"),
        (wire(data=1, data_base64="AA=="), "not both"),
    ],
)
def test_what_is_no_event_is_refused(value: Any, detail: str) -> None:
    with pytest.raises(InvalidRequest, match=detail):
        cloudevents.alert_of(value)


def test_an_attribute_may_be_null_or_an_integer_written_as_a_float() -> None:
    assert alert_of(wire(a=1.0, b=-(2**31), c=True, d=None)).attributes["cloudevent"] == wire(a=1.0, b=-(2**31), c=True)


BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "content-length": "2"}


@pytest.mark.parametrize(
    ("media", "body", "data"),
    [
        ("application/json", b'{"a": 1}', {"data": {"a": 1}}),
        ("application/x+json", b"[]", {"data": []}),
        ("text/plain", "\ufeffé".encode(), {"data": "é"}),
        ("application/octet-stream", b"\x00\xff", {"data_base64": "AP8="}),
        ("application/json", b"", {}),
    ],
)
def test_a_binary_event_has_its_data_in_the_body(media: str, body: bytes, data: dict[str, Any]) -> None:
    headers = {**BINARY, "content-type": f"{media}; charset=utf-8"}
    context = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    expected = {**context, "datacontenttype": f"{media}; charset=utf-8", **data}
    assert cloudevents.read_binary(headers, media, body) == expected


def test_headers_of_a_binary_event_are_percent_decoded_and_unquoted() -> None:
    headers = {**BINARY, "ce-type": '"a \\"b\\""', "ce-subject": "%C3%A9", "ce-odd": "é".encode().decode("latin-1")}
    event = cloudevents.read_binary(headers, "", b"")
    assert (event["type"], event["subject"], event["odd"]) == ('a "b"', "é", "é")


@pytest.mark.parametrize("value", ["%FF", "\xff", "%ED%A0%80"])
def test_a_header_that_is_not_utf_8_is_refused(value: str) -> None:
    with pytest.raises(MalformedRequest, match="The header ce-id is not UTF-8"):
        cloudevents.read_binary({**BINARY, "ce-id": value}, "", b"")


def test_a_request_without_its_headers_or_with_broken_json_is_no_binary_event() -> None:
    with pytest.raises(UnsupportedMedia):
        cloudevents.read_binary({"content-type": "application/json"}, "application/json", b"{}")
    with pytest.raises(MalformedRequest):
        cloudevents.read_binary({**BINARY, "content-type": "application/json"}, "application/json", b"{")


@given(
    st.dictionaries(st.sampled_from(["id", "source", "type", "subject", "topic", "severity", "data", "extra"]), trees)
)
def test_any_event_is_an_alert_or_refused(attributes: dict[str, Any]) -> None:
    try:
        alert, key = cloudevents.alert_of(wire(**attributes))
    except InvalidRequest:
        return
    assert alert.severity in get_args(Severity)
    assert len(key.content) == 64


def test_an_event_in_another_topic_is_another_event() -> None:
    # Otherwise a token for some topics could take the place of an event outside of them.
    assert cloudevents.alert_of(wire(topic="a"))[1] != cloudevents.alert_of(wire(topic="b"))[1]
