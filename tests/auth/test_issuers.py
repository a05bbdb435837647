from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from service.auth.issuers import load_keyring
from service.auth.jwks import UnknownKeyId
from service.auth.shared_secret import mint
from service.auth.tokens import TokenVerifier
from service.errors import ConfigurationError, RequestRefused, TokenInvalid
from service.settings import PREFIX, AuthSettings, load
from tests.auth.issuer import ED25519, P256, jwk_set, public_jwk, signed
from tests.auth.test_keys import pem
from tests.fixtures.revocations import KnownRevocations

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_set")]

NEW, OLD, OTHER = (f"the {name} secret, of more than 32 bytes" for name in ("new", "old", "other"))


def verifier_of(settings: AuthSettings) -> TokenVerifier:
    return TokenVerifier(load_keyring(settings), settings, KnownRevocations())


def refusal(verifier: TokenVerifier, token: str) -> RequestRefused:
    with pytest.raises(TokenInvalid) as raised:
        verifier.verify_cached(token)
    return raised.value


# Two secrets.


def test_while_a_secret_is_replaced_both_are_believed() -> None:
    settings = AuthSettings(jwt_secret=NEW, jwt_secret_previous=OLD)
    verifier = verifier_of(settings)
    for secret in (NEW, OLD):
        assert verifier.verify_cached(mint(secret.encode(), settings, subject="alice", scope="")).subject == "alice"
    refusal(verifier, mint(OTHER.encode(), settings, subject="alice", scope=""))
    after = verifier_of(AuthSettings(jwt_secret=NEW))
    refusal(after, mint(OLD.encode(), settings, subject="alice", scope=""))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"jwt_secret_previous": OLD}, "TOCSIN_JWT_SECRET"),
        ({"jwt_secret": NEW, "jwt_secret_previous": "short"}, "TOCSIN_JWT_SECRET_PREVIOUS"),
        ({"jwt_secret": NEW, "jwt_jwks_url": "https://issuer.example/jwks"}, "not both"),
        ({"jwt_secret": NEW, "jwt_algorithm": "RS256"}, "TOCSIN_JWT_ALGORITHM is for public keys"),
        ({"jwt_jwks_file": "absent.json"}, "TOCSIN_JWT_JWKS_FILE: No such file"),
        ({"jwt_jwks_file": "/dev/null"}, "no JWK set"),
        ({"jwt_jwks_file": "/dev/zero"}, "larger"),
        ({"issuers": [{"issuer": "a", "audience": "b"}]}, "TOCSIN_ISSUERS: a: secret"),
        ({"issuers": [{"issuer": "a", "audience": "b", "secret": "short"}]}, "TOCSIN_ISSUERS: a: secret"),
        ({"issuers": [{"issuer": "a", "audience": "b", "secret": NEW, "jwks_file": "x"}]}, "not both"),
        ({"issuers": [{"issuer": "a", "audience": "b", "secret": NEW}] * 2}, "twice"),
        ({"issuers": [{"issuer": "tocsin", "audience": "b", "secret": NEW}], "jwt_secret": OLD}, "twice"),
    ],
)
def test_keys_that_cannot_be_meant_are_refused_in_one_line(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_keyring(AuthSettings(**settings))
    message = str(raised.value)
    assert word in message
    assert "\n" not in message
    assert NEW not in message


@pytest.mark.parametrize(
    "value",
    [
        "http://issuer.example/jwks.json",
        "http://10.0.0.1/jwks.json",
        "http://127.0.0.1.example/",
        "http://localhost.example/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://user:password@issuer.example/",
        "https://",
        "//issuer.example/",
        "https://issuer.example:99999/",
        "https://issuer.example:0/",
        "https://issuer.example/#keys",
        "https://issuer.example/\r\nX: y",
        "jwks.json",
    ],
)
def test_an_address_that_others_could_answer_for_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TOCSIN_JWT_JWKS_URL", value)
    with pytest.raises(ConfigurationError, match="TOCSIN_JWT_JWKS_URL: "):
        load()


@pytest.mark.parametrize(
    "value", ["https://issuer.example:8443/a?b=c", "http://localhost:1/", "http://127.1.2.3/", "http://[::1]:8080/"]
)
def test_https_and_loopback_are_accepted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TOCSIN_JWT_JWKS_URL", value)
    assert load().auth.jwt_jwks_url == value


# Several issuers.


def test_each_issuer_has_its_own_keys_and_audience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(ED25519))
    (tmp_path / "jwks.json").write_bytes(jwk_set(public_jwk(P256, "ES256", kid="1")))
    monkeypatch.setenv("TOCSIN_JWT_SECRET", NEW)
    issuers = [
        {"issuer": "https://a.example", "audience": "for-a", "public_key_file": "key.pem"},
        {"issuer": "https://b.example", "audience": "for-b", "jwks_file": "jwks.json"},
        {"issuer": "https://c.example", "audience": "for-c", "secret": OTHER, "secret_previous": OLD},
    ]
    monkeypatch.setenv("TOCSIN_ISSUERS", json.dumps(issuers))
    verifier = verifier_of(load().auth)
    signers: list[tuple[str, str, Any, str, str | None]] = [
        ("tocsin", "tocsin", NEW, "HS256", None),
        ("https://a.example", "for-a", ED25519, "EdDSA", "whatever"),
        ("https://b.example", "for-b", P256, "ES256", "1"),
        ("https://c.example", "for-c", OTHER, "HS256", None),
        ("https://c.example", "for-c", OLD, "HS256", None),
    ]
    for name, audience, key, algorithm, kid in signers:
        assert verifier.verify_cached(signed(key, algorithm, kid, iss=name, aud=audience)).subject == "alice"
        for other, another, *_ in signers:
            if other != name:
                with pytest.raises((TokenInvalid, UnknownKeyId)):
                    verifier.verify_cached(signed(key, algorithm, kid, iss=other, aud=another))
                assert "audience" in refusal(verifier, signed(key, algorithm, kid, iss=name, aud=another)).detail
    assert "somebody else" in refusal(verifier, signed(NEW, "HS256", iss="https://d.example")).detail


def test_issuers_alone_are_enough() -> None:
    settings = AuthSettings.model_validate({"issuers": [{"issuer": "a", "audience": "b", "secret": NEW}]})
    assert verifier_of(settings).verify_cached(signed(NEW, "HS256", iss="a", aud="b")).subject == "alice"
    refusal(verifier_of(settings), signed(NEW, "HS256"))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("{", "TOCSIN_ISSUERS: this is not valid JSON"),
        ("[" * 100_000, "TOCSIN_ISSUERS: this is not valid JSON"),
        ("{}", "TOCSIN_ISSUERS: write a list, between [ and ]"),
        ('[{"issuer": "a"}]', "TOCSIN_ISSUERS: 0: audience: "),
        ('[{"issuer": "a", "audience": "b", "sceret": "hunter2"}]', "TOCSIN_ISSUERS: 0: sceret: "),
        ('[{"issuer": "a", "audience": "b", "secret": ["hunter2"]}]', "TOCSIN_ISSUERS: 0: secret: "),
        ('[{"issuer": "", "audience": "b"}]', "TOCSIN_ISSUERS: 0: issuer: "),
        ('[{"issuer": "a", "audience": "b", "jwks_url": "http://c.example"}]', "TOCSIN_ISSUERS: 0: jwks_url: "),
        ('[{"issuer": "a", "audience": "b", "algorithm": "none"}]', "TOCSIN_ISSUERS: 0: algorithm: "),
    ],
)
def test_a_fault_in_the_issuers_is_reported_by_its_position(
    monkeypatch: pytest.MonkeyPatch, value: str, place: str
) -> None:
    monkeypatch.setenv("TOCSIN_ISSUERS", value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert str(raised.value).startswith(place)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JWT_SCOPE_MAP", ","),
        ("JWT_SCOPE_MAP", " "),
        ("JWT_SCOPE_MAP", "oncall="),
        ("JWT_SCOPE_MAP", "oncall=admin, oncall=alerts:read"),
        ("JWT_SCOPE_CLAIMS", ","),
        ("JWT_SCOPE_CLAIMS", " "),
        ("JWT_NAME_CLAIMS", ","),
        ("JWT_REQUIRED_CLAIMS", " ,"),
        ("JWT_REQUIRED_CLAIMS", "typ="),
        ("JWT_REQUIRED_CLAIMS", "typ=a,typ=b"),
        ("JWT_AUDIENCE", ","),
        ("JWT_AUDIENCE_CLAIM", " "),
        ("JWT_ISSUER", " "),
        ("ISSUERS", "[]"),
        ("OIDC_PARAMETERS", "audience=a, audience=b"),
        ("ALERTMANAGER_SEVERITY_MAP", "p1=critical, P1=info"),
    ],
)
def test_an_empty_value_or_a_duplicate_is_no_default(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ConfigurationError, match=f"^TOCSIN_{name}: .*(it is empty: leave it out|is there twice)"):
        load()


@pytest.mark.parametrize(
    "member",
    [
        '"scope_map": {}',
        '"scope_map": ""',
        '"scope_map": null',
        '"scope_map": {"oncall": []}',
        '"scope_map": {"oncall": " "}',
        '"scope_map": {"a": "admin", "a": "alerts:read"}',
        '"scope_claims": []',
        '"scope_claims": ","',
        '"scope_claims": [""]',
        '"scope_claims": null',
        '"required_claims": {}',
        '"required_claims": null',
        '"required_claims": {"typ": ""}',
        '"required_claims": {"typ": "a", "typ": "b"}',
        '"name_claims": []',
        '"audience_claim": ""',
        '"audience": [""]',
        '"audience": []',
        '"audience": "a", "audience": "b"',
        '"secret": null',
    ],
)
def test_an_empty_member_or_a_duplicate_is_no_default(monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    audience = "" if 'audience"' in member else '"audience": "b", '
    monkeypatch.setenv("TOCSIN_ISSUERS", f'[{{"issuer": "a", {audience}{member}}}]')
    with pytest.raises(
        ConfigurationError, match=r"^TOCSIN_ISSUERS: .*(it is empty|is null: leave it out|is there twice)"
    ):
        load()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_JWT_SCOPE_MAP", "")
    assert load().auth.jwt_scope_map is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ISSUER", "https://kc.example"),
        ("AUDIENCE", "tocsin"),
        ("AUDIENCE_CLAIM", "client_id"),
        ("REQUIRED_CLAIMS", "token_use=access"),
        ("REQUIRE_IAT", "true"),
        ("SCOPE_CLAIMS", "roles"),
        ("SCOPE_MAP", "oncall=nonsense"),
        ("NAME_CLAIMS", "-"),
        ("ALGORITHM", "PS256"),
        ("JWKS_CA_FILE", "ca.pem"),
    ],
)
def test_a_plain_setting_without_a_plain_key_is_not_ignored(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TOCSIN_ISSUERS", json.dumps([{"issuer": "a", "audience": "b", "secret": OTHER}]))
    assert load_keyring(load().auth).issuer("a")
    monkeypatch.setenv(f"TOCSIN_JWT_{name}", value)
    with pytest.raises(ConfigurationError, match=f"^TOCSIN_JWT_{name} is for .*, such as {name.lower()}: set it there"):
        load_keyring(load().auth)


def test_the_settings_of_all_issuers_need_no_plain_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_ISSUERS", json.dumps([{"issuer": "a", "audience": "b", "secret": OTHER}]))
    for name, value in (("REQUIRE_AT_JWT", "true"), ("LEEWAY_SECONDS", "5"), ("MAX_LIFETIME_SECONDS", "600")):
        monkeypatch.setenv(f"TOCSIN_JWT_{name}", value)
    assert load_keyring(load().auth).issuer("a")


def test_the_secrets_of_issuers_do_not_show() -> None:
    settings = AuthSettings.model_validate({"issuers": [{"issuer": "a", "audience": "b", "secret": NEW}]})
    assert NEW not in repr(settings) + str(settings)
