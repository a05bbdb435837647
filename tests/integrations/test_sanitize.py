from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.fields import ATTRIBUTES_MAX_BYTES, BODY_MAX_BYTES, INTEGER_MAX
from service.alerts.schemas import AlertIn, AlertLink
from service.errors import InvalidRequest
from service.integrations import sanitize
from tests.growth import is_superlinear

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("candidates", "title"),
    [
        (["It happened"], "It happened"),
        ([None, 7, "", " \n", "\0\x1b", "third"], "third"),
        (["two\nlines\t and  blanks "], "two lines and blanks"),
        (["a\0b"], "a b"),
        (["x" * 201], "x" * 199 + "…"),
        (["x" * 200], "x" * 200),
        ([], "Untitled"),
        ([" "], "Untitled"),
    ],
)
def test_a_title_is_the_first_text_in_one_line(candidates: list[Any], title: str) -> None:
    assert sanitize.title(*candidates) == title


def test_a_body_is_the_first_text_cut_to_bytes_not_within_a_character() -> None:
    assert sanitize.body(None, 7, " \n", "first\n\tsecond\0") == "first\n\tsecond "
    assert sanitize.body("é" * 8_192) == "é" * 8_192
    long = sanitize.body("é" * 8_193) or ""
    assert long == "é" * 8_190 + "…"
    assert len(long.encode()) <= BODY_MAX_BYTES
    assert sanitize.body("", None) is None


@pytest.mark.parametrize(
    ("value", "topic"),
    [
        ("payments.eu", "payments.eu"),
        ("Payments EU", "payments-eu"),
        ("com.example.Payment.Failed", "com.example.payment.failed"),
        ("..a..b..", "a.b"),
        ("-/-.x", "x"),
        ("a" * 100, "a" * 100),
        ("", "otherwise"),
        (" ", "otherwise"),
        (None, "otherwise"),
    ],
)
def test_a_topic_is_made_of_text(value: object, topic: str) -> None:
    assert sanitize.topic(value, "otherwise") == topic


def topic_of(value: object) -> str:
    """Return a topic made of any value, or a default for what is refused."""
    try:
        return sanitize.topic(value, "default")
    except InvalidRequest:
        return "default"


@pytest.mark.parametrize(
    "value", ["-ü-.x", "zahlungen.münchen", "支付", "a" * 101, "a" * 99 + ".b", "...", 7, True, []]
)
def test_what_no_topic_says_is_refused_with_what_to_do(value: object) -> None:
    with pytest.raises(InvalidRequest, match="is no topic: send dot-separated parts of a-z, 0-9, _ and -"):
        sanitize.topic(value, "otherwise")


@pytest.mark.parametrize(
    "url", [None, 7, "", "runbook", "javascript:alert(1)", "https://", "https://a b", "https://[::1"]
)
def test_what_is_no_address_is_no_link(url: object) -> None:
    assert sanitize.link("Source", url) is None


def test_an_address_is_a_link() -> None:
    link = AlertLink(title="Source", url="http://prometheus.example/graph?g0.expr=up")
    assert sanitize.link("Source", "http://prometheus.example/graph?g0.expr=up") == link


def test_attributes_that_fit_stay_as_they_are() -> None:
    value = {"labels": {"job": "node"}, "values": [1, 0.5, None, True, INTEGER_MAX], "": "a\nb"}
    assert sanitize.attributes(value) == value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a\nb": "c\0d"}, {"a b": "c d"}),
        ({"n": [2**53, -(2**60), 1e31, 1e-31, 0.0]}, {"n": [str(2**53), str(-(2**60)), "1e+31", "1e-31", 0.0]}),
        ({"n": float("inf"), "m": float("nan")}, {"n": "inf", "m": "nan"}),
    ],
)
def test_attributes_that_no_alert_may_have_become_text(value: dict[str, Any], kept: dict[str, Any]) -> None:
    assert sanitize.attributes(value) == kept


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a b": 1, "a  b": 2, "a\x01b": 3}, {"a b": 1, "a b (2)": 2, "a b (3)": 3}),
        ({"a  b": 1, "a\tb": 2}, {"a b": 1, "a b (2)": 2}),
        ({"a  b": 1, "a b": 2}, {"a b (2)": 1, "a b": 2}),
        ({"a  b": 1, "a b": 2, "a b (2)": 3}, {"a b (3)": 1, "a b": 2, "a b (2)": 3}),
        ({"labels": {"a": 1, " a": 2}}, {"labels": {"a": 1, "a (2)": 2}}),
        ({"l": [{"a": 1, "a ": 2}]}, {"l": [{"a": 1, "a (2)": 2}]}),
    ],
)
def test_names_that_would_be_one_are_numbered(value: dict[str, Any], kept: dict[str, Any]) -> None:
    assert sanitize.attributes(value) == kept


def test_long_names_that_would_be_cut_to_one_are_numbered() -> None:
    value = {"x" * 5000 + str(number): number for number in range(3)} | {"y": "y" * 20_000}
    kept = sanitize.attributes(value)
    assert sorted(item for name, item in kept.items() if name.startswith("x")) == [0, 1, 2]


def test_of_names_that_would_be_cut_to_one_the_largest_are_left_out() -> None:
    value = {"x" * 100 + str(number): ["y" * 40] * (number * 50 + 1) for number in range(5)}
    kept = sanitize.attributes(value, 4096)
    assert [len(item) for name, item in kept.items() if name != "truncated"] == [1, 51]


def test_attributes_that_are_too_deep_are_text_from_there_on() -> None:
    value: Any = 1
    for level in range(9, 0, -1):
        value = {str(level): value}
    cut: Any = sanitize.attributes(value)
    for level in range(1, 9):
        cut = cut[str(level)]
    assert cut == '{"9":1}'


def test_texts_of_attributes_are_cut_until_they_fit() -> None:
    value = {"long": "x" * 20_000, "short": "y" * 1_000}
    assert sanitize.attributes(value) == {"long": "x" * 4_095 + "…", "short": "y" * 1_000, "truncated": True}
    many = {f"label_{number}": "v" * 500 for number in range(60)}
    assert sanitize.attributes(many) == {**dict.fromkeys(many, "v" * 255 + "…"), "truncated": True}


def test_the_largest_members_are_left_out_where_cutting_is_not_enough() -> None:
    labels = {f"label_{number}": "v" * 100 for number in range(5_000)}
    cut = sanitize.attributes({"labels": labels, "receiver": "tocsin"})
    assert cut == {"receiver": "tocsin", "truncated": True}


LONG_TEXT = {"x": "x ", "blank": " ", "dots": "a.", "control": "\x01 ", "odd": "é-"}


@pytest.mark.parametrize("pump", LONG_TEXT.values(), ids=LONG_TEXT)
@pytest.mark.parametrize(
    "use",
    [
        sanitize.title,
        sanitize.body,
        sanitize.line,
        topic_of,
        lambda text: sanitize.link("Source", f"http://{text}"),
        lambda text: sanitize.attributes({"text": text, text: 1}),
    ],
    ids=["title", "body", "line", "topic", "link", "attributes"],
)
def test_a_long_text_takes_time_in_proportion(use: Callable[[str], object], pump: str) -> None:
    assert not is_superlinear(use, lambda length: pump * 4 * length)


@pytest.mark.parametrize(
    "make",
    [
        lambda count: {f"member {number}": "v" * 20 for number in range(2 * count)},
        lambda count: {"labels": {f"label {number}": "v" * 20 for number in range(2 * count)}},
        lambda count: {f"label {number}": [number] * 10 for number in range(count)},
    ],
    ids=["members", "labels", "lists"],
)
def test_many_values_take_time_in_proportion(make: Callable[[int], dict[str, Any]]) -> None:
    assert not is_superlinear(sanitize.attributes, make)


def test_of_a_long_text_only_the_beginning_is_looked_at() -> None:
    assert sanitize.line(" " * 100_000 + "x" * 100_000) == "x" * sanitize.LINE_MAX
    assert sanitize.title("x" * 100_000, "other") == "x" * 199 + "…"


def test_what_no_json_can_hold_is_refused() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    with pytest.raises(InvalidRequest, match="nested"):
        sanitize.attributes({"deep": value})


texts = st.text(st.characters(exclude_categories=["Cs"]))  # the parser lets no lone surrogate through
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts,
    lambda tree: st.lists(tree, max_size=4) | st.dictionaries(texts, tree, max_size=4),
)


@given(st.dictionaries(texts, trees | st.integers(1, 9_000).map(lambda size: "🔔" * size), max_size=6))
def test_any_attributes_fit_an_alert_when_they_were_sanitized(value: dict[str, Any]) -> None:
    cut = sanitize.attributes(value)
    assert AlertIn(title="a", attributes=cut).attributes == cut
    assert len(orjson.dumps(cut)) <= ATTRIBUTES_MAX_BYTES
    assert sanitize.attributes(cut) == cut


@given(trees | texts, trees | texts)
def test_any_value_makes_an_alert(first: Any, second: Any) -> None:
    alert = AlertIn(
        title=sanitize.title(first, second),
        body=sanitize.body(first, second),
        topic=topic_of(first),
        links=[link for link in [sanitize.link("Source", first)] if link is not None],
    )
    assert alert.title.strip()
