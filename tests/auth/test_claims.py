"""Claims as issuers write them: what the settings of an issuer accept, and that they accept nothing else."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth.claims import principal_of
from service.auth.issuers import load_keyring
from service.auth.principal import Principal, Scope
from service.errors import ConfigurationError, RequestRefused, TokenExpired, TokenInvalid
from service.settings import AuthSettings, IssuerSettings

pytestmark = pytest.mark.unit

ABSENT = object()
SECRET = "a secret of more than thirty-two bytes"
UUID = "f3b1a1de-8f1e-4b52-9d0c-5b4c7a1f9a3e"


def principal(settings: dict[str, Any], /, *, limits: AuthSettings | None = None, **changes: Any) -> Principal:
    """Return the principal of a token with these claims, of an issuer with these settings."""
    now = time.time()
    fields = {"iss": "tocsin", "aud": "tocsin", "sub": "alice", "iat": now, "exp": now + 60, **changes}
    claims = {name: value for name, value in fields.items() if value is not ABSENT}
    issuer = IssuerSettings.model_validate({"issuer": "tocsin", "audience": "tocsin", **settings})
    return principal_of(claims, issuer, limits or AuthSettings())


def refusal(settings: dict[str, Any], /, **changes: Any) -> str:
    with pytest.raises(RequestRefused) as raised:
        principal(settings, **changes)
    assert isinstance(raised.value, TokenInvalid | TokenExpired)
    return raised.value.detail


# Scopes.

MAP = {"Alerts.Read": "alerts:read", "oncall": ["alerts:read", "alerts:manage"], "Tocsin Admins": ["admin"]}


@pytest.mark.parametrize(
    ("names", "claims", "scopes"),
    [
        ("scp", {"scp": "Alerts.Read"}, {"alerts:read"}),
        ("scp", {"scp": ["Alerts.Read", "openid"]}, {"alerts:read"}),
        ("scope", {"scope": ["Alerts.Read"]}, {"alerts:read"}),
        ("scp,roles", {"roles": ["oncall"]}, {"alerts:read", "alerts:manage"}),
        ("scp, roles", {"scp": "Alerts.Read", "roles": ["Tocsin Admins"]}, {"alerts:read", "admin"}),
        ("groups", {"groups": "oncall Alerts.Read"}, {"alerts:read", "alerts:manage"}),
        ("realm_access.roles", {"realm_access": {"roles": ["oncall"]}}, {"alerts:read", "alerts:manage"}),
        ("resource_access.my.app.roles", {"resource_access": {"my.app": {"roles": ["Alerts.Read"]}}}, {"alerts:read"}),
        ("https://tocsin.example/roles", {"https://tocsin.example/roles": ["Alerts.Read"]}, {"alerts:read"}),
        ("cognito:groups", {"cognito:groups": ["oncall"]}, {"alerts:read", "alerts:manage"}),
        ("roles", {"roles": []}, set()),
        ("roles", {"roles": ""}, set()),
        ("roles", {}, set()),
        ("realm_access.roles", {"realm_access": ["oncall"]}, set()),
        ("realm_access.roles", {"realm_access": {"roles.x": ["oncall"]}}, set()),
        ("roles", {"scope": "Alerts.Read", "scp": ["oncall"]}, set()),
        ("roles", {"roles": ["admin", "alerts:read", "alerts:read admin", "Alerts.Read oncall", "alerts.read"]}, set()),
        ("roles", {"roles": ["Tocsin Admins"]}, {"admin"}),
        ("roles", {"roles": "Tocsin Admins"}, set()),
    ],
)
def test_only_what_the_map_names_is_a_scope(names: str, claims: dict[str, Any], scopes: set[str]) -> None:
    assert principal({"scope_claims": names, "scope_map": MAP}, **claims).scopes == scopes


def test_without_a_map_the_values_are_scopes_as_they_stand() -> None:
    bearer = principal({"scope_claims": "permissions"}, permissions=["alerts:read", "read:users"], scope="admin")
    assert set(filter(bearer.may, Scope)) == {Scope.ALERTS_READ}


def test_a_list_is_taken_apart_nowhere_else_than_between_its_items() -> None:
    assert not set(filter(principal({"scope_claims": "scp"}, scp=["alerts:read admin"]).may, Scope))


@pytest.mark.parametrize("value", [5, True, {}, {"admin": True}, [5], [None], [["admin"]], ["admin", 5], 1.5])
def test_a_claim_of_scopes_of_another_type_is_refused(value: Any) -> None:
    assert "scp must be a string or a list of strings" in refusal({"scope_claims": "scp"}, scp=value)
    assert "a.scp must be" in refusal({"scope_claims": "a.scp"}, a={"scp": value})


def test_a_list_in_scope_needs_the_setting_and_the_refusal_says_so() -> None:
    assert "TOCSIN_JWT_SCOPE_CLAIMS" in refusal({}, scope=["admin"])
    assert principal({"scope_claims": "scope"}, scope=["admin"]).scopes == {"admin"}


@pytest.mark.parametrize("scopes", ["alerts:raed", "Admin", "alerts:read admin,", ["alerts:read admin"]])
def test_a_map_to_something_else_than_scopes_is_refused_at_the_start(scopes: Any) -> None:
    one = {"issuer": "a", "audience": "b", "secret": SECRET, "scope_map": {"x": scopes}}
    with pytest.raises(ConfigurationError, match=r"TOCSIN_ISSUERS: a: scope_map: x: .* is none of alerts:write"):
        load_keyring(AuthSettings.model_validate({"issuers": [one]}))
    with pytest.raises(ConfigurationError, match="TOCSIN_JWT_SCOPE_MAP: x: "):
        load_keyring(AuthSettings(jwt_secret=SECRET, jwt_scope_map={"x": scopes}))


@pytest.mark.parametrize("topics", [None, "*", "payments", {}, 5, [None], [""], ["*"] * 101])
def test_topics_that_are_no_list_of_patterns_are_refused(topics: Any) -> None:
    assert "topics must be a list" in refusal({}, topics=topics)
    assert principal({}).topics == ("*",)
    assert principal({}, topics=[]).topics == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["admin", "oncall"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["roles", "a", "a.b"]), inner),
    max_leaves=8,
)


@given(json_values, json_values, json_values)
def test_whatever_the_claims_are_they_are_read_or_refused(scope: Any, name: Any, audience: Any) -> None:
    settings = {
        "scope_claims": ("roles", "a.b.roles"),
        "scope_map": {"oncall": "alerts:read"},
        "name_claims": ("name", "a.b"),
        "audience_claim": "client_id",
    }
    try:
        bearer = principal(settings, a=name, roles=scope, name=name, aud=ABSENT, client_id=audience)
    except TokenInvalid:
        return
    assert bearer.scopes <= {"alerts:read"}
    assert audience == "tocsin" or "tocsin" in audience


# The audience.

CLIENTS = {"audience": ["one", "two"], "audience_claim": "client_id"}


def test_one_of_several_audiences_is_enough() -> None:
    for audience in ("one", "two", ["x", "two"]):
        assert principal({"audience": "one,two"}, aud=audience)
    assert "aud has to hold one or two" in refusal({"audience": "one,two"}, aud="one,two")


def test_where_there_is_no_aud_another_claim_says_for_whom_the_token_is() -> None:
    assert principal(CLIENTS, aud=ABSENT, client_id="two").subject == "alice"
    assert principal({**CLIENTS, "audience_claim": "a.azp"}, aud=ABSENT, a={"azp": "one"}).subject == "alice"


@pytest.mark.parametrize(
    "client", [ABSENT, None, "", "three", "One", "on", [], ["three"], [["one"]], {"one": 1}, 5, True]
)
def test_another_client_is_refused(client: Any) -> None:
    assert "client_id" in refusal(CLIENTS, aud=ABSENT, client_id=client)


@pytest.mark.parametrize("audience", ["tocsin", "", None, [], ["three"], 5, {}])
def test_an_aud_counts_wherever_there_is_one(audience: Any) -> None:
    assert "aud" in refusal(CLIENTS, aud=audience, client_id="one")
    assert principal(CLIENTS, aud=["x", "one"], client_id="one")


def test_without_the_setting_aud_is_required() -> None:
    assert "lacks the claim aud" in refusal({}, aud=ABSENT, client_id="tocsin", azp="tocsin")


# Further claims.


@pytest.mark.parametrize("value", [ABSENT, None, "id", "Access", "", ["access"], {"access": 1}, True])
def test_a_required_claim_has_its_value(value: Any) -> None:
    settings = {"required_claims": {"token_use": "access"}}
    assert "token_use must be access" in refusal(settings, token_use=value)
    assert principal(settings, token_use="access")
    assert "a.b must be c" in refusal({"required_claims": {"a.b": "c"}}, a={} if value is ABSENT else {"b": value})


@pytest.mark.parametrize(
    ("settings", "value"),
    [("email_verified=true", True), ("email_verified=false", False), ("version=2", 2), ("version=2.0", 2.0)],
)
def test_a_required_claim_may_be_true_or_a_number(settings: str, value: Any) -> None:
    name, _, text = settings.partition("=")
    for required in (settings, {name: text}, {name: value}):
        claims: dict[str, Any] = {name: value}
        assert principal({"required_claims": required}, **claims)
        claims = {name: text}
        assert principal({"required_claims": required}, **claims)
        for other in (not value, str(value) + "x", None, 3, "", [value], [text]):
            assert f"{name} must be {text}" in refusal({"required_claims": required}, **{name: other})


def test_a_list_is_never_a_required_value_and_the_refusal_says_so() -> None:
    assert refusal({"required_claims": "amr=mfa"}, amr=["mfa"]) == (
        "The token's amr must be mfa, and not a list or an object."
    )


# Dates.


def test_iat_may_be_absent_where_a_setting_says_so() -> None:
    assert "lacks the claim iat" in refusal({}, iat=ABSENT)
    assert principal({"require_iat": False}, iat=ABSENT).subject == "alice"


def test_without_iat_a_token_counts_as_issued_as_early_as_its_lifetime_allows() -> None:
    """So a revocation covers whatever may have been issued before it, and for as long as any of that is accepted."""
    limits = AuthSettings(jwt_max_lifetime_seconds=100)
    now = time.time()
    bearer = principal({"require_iat": False}, limits=limits, iat=ABSENT, exp=now + 30)
    assert bearer.issued_at == now + 30 - 100
    dated = principal({"require_iat": False}, limits=limits, iat=now - 5, exp=now + 30)
    assert dated.issued_at == now - 5


def test_without_iat_the_lifetime_counts_from_now() -> None:
    limits = AuthSettings(jwt_max_lifetime_seconds=100)
    now = time.time()
    assert principal({"require_iat": False}, limits=limits, iat=ABSENT, exp=now + 90)
    with pytest.raises(TokenInvalid, match="later than 100 s from now"):
        principal({"require_iat": False}, limits=limits, iat=ABSENT, exp=now + 110)


@pytest.mark.parametrize("value", [None, "0", True, [], float("nan"), -1, 10**400])
def test_an_iat_that_is_there_is_checked_all_the_same(value: Any) -> None:
    assert "iat" in refusal({"require_iat": False}, iat=value)


@pytest.mark.parametrize("name", ["sub", "exp"])
def test_sub_and_exp_are_always_required(name: str) -> None:
    assert f"lacks the claim {name}" in refusal({"require_iat": False}, **{name: ABSENT})


# Names.


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({}, None),
        ({"name": "Alice Liddell", "preferred_username": "alice", "email": "alice@example.com"}, "Alice Liddell"),
        ({"preferred_username": "alice", "email": "alice@example.com"}, "alice"),
        ({"email": "alice@example.com"}, "alice@example.com"),
        ({"email": "alice@example.com", "email_verified": True}, "alice@example.com"),
        ({"email": "alice@example.com", "email_verified": False}, None),
        ({"email": "alice@example.com", "email_verified": "false"}, None),
        ({"name": " 山田 花子 "}, "山田 花子"),
        ({"name": "", "preferred_username": "alice"}, "alice"),
        ({"name": 5, "preferred_username": ["alice"], "email": {}}, None),
        ({"name": "a\nb", "preferred_username": "\u2028alice", "email": "\x1b[2J"}, None),
        ({"name": "\ud800", "preferred_username": "a" * 201}, None),
    ],
)
def test_a_person_is_shown_by_the_first_name_that_can_be_shown(claims: dict[str, Any], name: str | None) -> None:
    bearer = principal({}, sub=UUID, **claims)
    assert (bearer.subject, bearer.name) == (UUID, name)


@pytest.mark.parametrize(
    "name",
    [
        "Alice  Liddell",
        "Alice\u00a0Liddell",
        "Alice\u2003\u3000Liddell",
        "Alice Liddell\u2800",
        "Alice Liddell\u034f",
        "Alice\u00ad Lid\u200ddell\ufe0f",
        "\u202eAlice Liddell\U000e0041",
        "\u3164Alice Liddell\uffa0",
        "\uff21\uff4c\uff49\uff43\uff45 Liddell",
    ],
)
def test_names_that_look_the_same_are_the_same(name: str) -> None:
    assert principal({}, name=name).name == "Alice Liddell"
    decomposed, composed = "Zoe\u0308", "Zo\u00eb"
    assert principal({}, name=decomposed).name == composed


@pytest.mark.parametrize(
    "name", ["\u3164", "\u2800", "\u0301", "\u034f", " \u00a0", "...", "\u200b", "A" + "\u0301" * 150, "\ufdfa" * 200]
)
def test_what_would_be_shown_as_a_blank_or_over_other_lines_is_no_name(name: str) -> None:
    assert principal({}, name=name, preferred_username="alice").name == "alice"


@pytest.mark.parametrize("name", ["Nguyễn Thị Minh Khai", "שָׁלוֹם", "น้ำผึ้ง", "བསྒྲུབས", "محمد", "O'Neil-Šćepan 3rd", "李"])
def test_names_of_all_scripts_are_shown_as_they_are(name: str) -> None:
    assert principal({}, name=name).name == unicodedata.normalize("NFC", name)


def test_the_claims_of_a_name_are_settings() -> None:
    claims: dict[str, Any] = {"https://a.example/name": "Al"}
    assert principal({"name_claims": "https://a.example/name"}, **claims).name == "Al"
    assert principal({"name_claims": "profile.nick,name"}, profile={"nick": "Al"}, name="Alice").name == "Al"
    assert principal({"name_claims": "-"}, name="Alice", preferred_username="alice").name is None


def test_the_plain_settings_are_those_of_an_issuer() -> None:
    fields = {f"jwt_{name}" for name in IssuerSettings.model_fields}
    assert fields <= set(AuthSettings.model_fields)
    for name in IssuerSettings.model_fields:
        if name not in ("issuer", "audience"):
            assert AuthSettings.model_fields[f"jwt_{name}"].default == IssuerSettings.model_fields[name].default
