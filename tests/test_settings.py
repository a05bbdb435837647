from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from limits import parse_many
from pydantic import ValidationError

from service.errors import ConfigurationError
from service.settings import LimitSettings, Settings, groups, load, unknown_variables

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("nothing_set")]


def refusal() -> str:
    with pytest.raises(ConfigurationError) as raised:
        load()
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_everything_has_a_default() -> None:
    settings = load()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.storage.database_url is None
    assert settings.auth.jwt_secret is None
    assert settings == Settings()


def test_a_variable_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_PORT", "9000")
    monkeypatch.setenv("TOCSIN_ALLOWED_ORIGINS", " https://a.example, https://b.example ,")
    monkeypatch.setenv("TOCSIN_WRITE_LIMIT", "5/second; 100/hour")
    monkeypatch.setenv("TOCSIN_ACCESS_LOG", "no")
    settings = load()
    assert settings.server.port == 9000
    assert settings.server.access_log is False
    assert settings.stream.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.limits.write_limit == "5/second; 100/hour"


@pytest.mark.parametrize(
    ("written", "origins"),
    [
        ("https://a.example/", ("https://a.example",)),
        ("https://a.example:443, HTTP://B.example:80/", ("https://a.example", "http://b.example")),
        ("http://[0:0:0:0:0:0:0:1]:8000", ("http://[::1]:8000",)),
        ("*", ("*",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
    ],
)
def test_an_origin_is_kept_as_a_browser_writes_it(
    monkeypatch: pytest.MonkeyPatch, written: str, origins: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TOCSIN_ALLOWED_ORIGINS", written)
    assert load().stream.allowed_origins == origins


def test_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_FORWARDED_ALLOW_IPS", "127.0.0.1, 10.0.0.0/8 ,2001:db8::/32")
    assert load().server.forwarded_allow_ips == ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")
    monkeypatch.setenv("TOCSIN_FORWARDED_ALLOW_IPS", "*")
    assert load().server.forwarded_allow_ips == ("*",)


def test_the_environment_is_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOCSIN_PORT=9001\nTOCSIN_HOST=0.0.0.0\nTOCSIN_JWT_ISSUER=größe\n")
    monkeypatch.setenv("TOCSIN_PORT", "9002")
    settings = load()
    assert (settings.server.port, settings.server.host) == (9002, "0.0.0.0")
    assert settings.auth.jwt_issuer == "größe"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_PORT", "")
    monkeypatch.setenv("TOCSIN_JWT_SECRET", "")
    monkeypatch.setenv("TOCSIN_JWT_PUBLIC_KEY_FILE", "")
    assert load() == Settings()
    assert load().auth.jwt_secret is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOCSIN_PORT", "x"),
        ("TOCSIN_PORT", "65536"),
        ("TOCSIN_OIDC_ISSUER", "http://login.example"),
        ("TOCSIN_OIDC_ISSUER", "https://login.example/?tenant=ops"),
        ("TOCSIN_OIDC_ISSUER", "https://login.example;script-src *"),
        ("TOCSIN_OIDC_ISSUER", "https://*.example"),
        ("TOCSIN_OIDC_PARAMETERS", "audience"),
        ("TOCSIN_PORT", "-1"),
        ("TOCSIN_LOG_LEVEL", "loud"),
        ("TOCSIN_LOG_FORMAT", "xml"),
        ("TOCSIN_ACCESS_LOG", "perhaps"),
        ("TOCSIN_REQUEST_TIMEOUT_SECONDS", "0"),
        ("TOCSIN_REQUEST_TIMEOUT_SECONDS", "nan"),
        ("TOCSIN_REQUEST_TIMEOUT_SECONDS", "inf"),
        ("TOCSIN_REQUEST_MAX_BYTES", "1e300"),
        ("TOCSIN_IDEMPOTENCY_KEY_TTL_HOURS", "inf"),
        ("TOCSIN_COMMIT_BATCH_SIZE", "0"),
        ("TOCSIN_JWT_ALGORITHM", "none"),
        ("TOCSIN_JWT_ALGORITHM", "HS256"),
        ("TOCSIN_JWT_LEEWAY_SECONDS", "301"),
        ("TOCSIN_WRITE_LIMIT", "many"),
        ("TOCSIN_READ_LIMIT", "5/second; many"),
        ("TOCSIN_AUTH_FAILURE_LIMIT", "5/fortnight"),
        ("TOCSIN_ALLOWED_ORIGINS", "a.example"),
        ("TOCSIN_ALLOWED_ORIGINS", "https://a.example/console"),
        ("TOCSIN_ALLOWED_ORIGINS", "https://a.example//"),
        ("TOCSIN_ALLOWED_ORIGINS", "https://*.example"),
        ("TOCSIN_ALLOWED_ORIGINS", "https://a.example https://b.example"),
        ("TOCSIN_ALLOWED_ORIGINS", "https://u@a.example"),
        ("TOCSIN_ALLOWED_ORIGINS", "null"),
        ("TOCSIN_FORWARDED_ALLOW_IPS", "proxy.example"),
        ("TOCSIN_FORWARDED_ALLOW_IPS", "10.0.0.0/40"),
        ("TOCSIN_FORWARDED_ALLOW_IPS", "10.0.0.*"),
    ],
)
def test_what_a_setting_may_not_be_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal().startswith(f"{name}: ")


def test_a_fault_in_the_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TOCSIN_PORT=x\n")
    assert refusal().startswith("TOCSIN_PORT: ")
    (tmp_path / ".env").write_bytes(b"TOCSIN_HOST=\xff\n")
    assert ".env" in refusal()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_JWT_SECRET", "hunter2" * 8)
    monkeypatch.setenv("TOCSIN_DATABASE_URL", "postgresql://tocsin:hunter2@db/tocsin")
    assert "hunter2" not in repr(load()) + str(load())
    monkeypatch.setenv("TOCSIN_PORT", "x")
    assert "hunter2" not in refusal()


def test_a_misspelt_variable_is_found_with_what_it_resembles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOCSIN_JWT_SECRETT", "TOCSIN_PRT", "TOCSIN_QQQQQQ", "TOCSIN_PORT"):
        monkeypatch.setenv(name, "1")
    assert dict(unknown_variables()) == {
        "TOCSIN_JWT_SECRETT": "TOCSIN_JWT_SECRET",
        "TOCSIN_PRT": "TOCSIN_PORT",
        "TOCSIN_QQQQQQ": None,
    }


def test_no_two_settings_share_a_variable() -> None:
    names = [name for group in groups().values() for name in group.model_fields]
    assert len(names) == len(set(names))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


def test_the_parameters_of_the_authorization_request_are_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_OIDC_PARAMETERS", "audience=https://tocsin.example, prompt = consent")
    assert load().console.oidc_parameters == {"audience": "https://tocsin.example", "prompt": "consent"}


@pytest.mark.parametrize(
    "rate", ["1/second", "5 per 2 Minutes", "10/hour;20/day", "7/month, 9 per year|1/day", " 3/ 4 hour "]
)
def test_a_rate_is_what_the_library_of_limits_reads(rate: str) -> None:
    assert LimitSettings(write_limit=rate).write_limit == rate
    assert parse_many(rate)
    for bad in (f"{rate};", f"{rate} 5", rate.replace("e", "é"), f"x{rate}", f"{rate}/second", rate[1:]):
        try:
            parse_many(bad)
        except ValueError:
            with pytest.raises(ValidationError):
                LimitSettings(write_limit=bad)


def test_groups_of_sources_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_DEDUP_GROUPS", " payments = billing, check out ;infra=prometheus,blackbox=2; ")
    assert load().alerts.dedup_groups == {"payments": ("billing", "check out"), "infra": ("prometheus", "blackbox=2")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("billing", "write groups such as payments=billing,checkout"),
        ("billing,checkout", "write groups such as"),
        ("=billing,checkout", "write groups such as"),
        ("payments=", "the group payments has a source without a name"),
        ("payments=billing,,checkout", "the group payments has a source without a name"),
        ("payments=billing,check\tout", "the group payments has a source without a name"),
        ("a=billing; a=checkout", "the group a is there twice"),
        ("a=billing,checkout; b=infra,billing", "the source billing is in a and in b"),
        ("a=billing,billing", "the source billing is in a and in a"),
    ],
)
def test_groups_that_are_wrong_are_refused_with_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv("TOCSIN_DEDUP_GROUPS", text)
    message = refusal()
    assert message.startswith("TOCSIN_DEDUP_GROUPS: ")
    assert said in message
