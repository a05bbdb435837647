from __future__ import annotations

import pytest

from service.auth.principal import Principal, Scope, is_subject
from service.topics import EVERY_TOPIC

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["alice", "a", "a" * 200, "Zoë Ångström", "svc:payments/eu", "日本", "a@b.example"])
def test_a_printable_name_is_a_subject(name: str) -> None:
    assert is_subject(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 201,
        " a",
        "a ",
        " ",
        "\xa0a",
        "a\0",
        "a\nb",
        "a\tb",
        "\x1b[31m",
        "\x85",
        "\ud800",
        "\u2028",
        "\u202ea",
        None,
        1,
        True,
        ["a"],
        {"a": 1},
    ],
)
def test_what_a_table_or_a_log_line_cannot_hold_is_no_subject(name: object) -> None:
    assert not is_subject(name)


def test_a_principal_may_what_its_scopes_name() -> None:
    principal = Principal("alice", frozenset({"alerts:read"}), EVERY_TOPIC, 0)
    assert [scope for scope in Scope if principal.may(scope)] == [Scope.ALERTS_READ]


def test_a_principal_without_topics_covers_nothing() -> None:
    assert not Principal("alice", frozenset(), (), 0).covers("payments")
    assert Principal("alice", frozenset(), ("a", "payments.*"), 0).covers("payments.eu")
