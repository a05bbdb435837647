"""Every setting, typed, grouped by concern, read once.

A setting ``port`` is the variable ``TOCSIN_PORT``, in the environment or in a ``.env`` file of the working folder.
Nothing else of the service reads the environment. The table in ``docs/reference.md`` lists them all; a test compares.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from service.errors import ConfigurationError
from service.severity import Severity
from service.topics import TOPIC_MAX, TOPIC_REGEX

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "TOCSIN_"
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d+)?")
_RATE = r"\s*\d+\s*(?:/|per)\s*\d*\s*(?:second|minute|hour|day|month|year)s?\s*"
_RATES = re.compile(f"{_RATE}(?:[,;|]{_RATE})*", re.ASCII | re.IGNORECASE)
"""What ``limits.parse_many`` reads. Importing ``limits`` would double the time that a command takes to start."""
DEFAULT_SEVERITY_MAP: dict[str, Severity] = {
    "critical": "critical",
    "page": "critical",
    "error": "error",
    "high": "error",
    "warning": "warning",
    "info": "info",
    "none": "info",
}


def _rate(value: str) -> str:
    """Accept the notation of the ``limits`` library: ``10/second; 300/minute``."""
    if not _RATES.fullmatch(value):
        raise ValueError("write a rate such as 10/second, or several: 10/second; 300/minute")
    return value


def _split(value: object) -> object:
    """Read a comma-separated list from one variable."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _json(value: object) -> object:
    """Read JSON from one variable."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("this is no JSON") from None
    return value


def _trusted_url(value: str) -> str:
    """Accept ``https``, and ``http`` to this very machine: whoever can change the answer can sign any token."""
    url = urlsplit(value)
    if url.username is not None or url.fragment or not url.hostname or not value.isascii() or not value.isprintable():
        raise ValueError("write an address such as https://issuer.example/jwks.json, without a user")
    if url.port == 0:
        raise ValueError("port 0 cannot be connected to")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname)):
        raise ValueError("use https, or http to a loopback address")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pairs(value: object) -> object:
    """Read ``page=critical, ticket=warning`` from one variable, beside what is the default."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    return {**DEFAULT_SEVERITY_MAP, **{name.strip().lower(): severity.strip() for name, _, severity in pairs}}


def _issuer_url(value: str) -> str:
    """Accept the identifier of an OpenID provider: it stands in a header, and a path is put after it."""
    if not _HOST.fullmatch(urlsplit(_trusted_url(value)).netloc) or urlsplit(value).query:
        raise ValueError("write an address such as https://login.example/realms/ops, without a query")
    return value


def _parameters(value: object) -> object:
    """Read ``audience=tocsin, prompt=login`` from one variable."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError("write pairs such as audience=tocsin, prompt=login")
    return {name.strip(): text.strip() for name, _, text in pairs}


Rate = Annotated[str, AfterValidator(_rate)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
TrustedUrl = Annotated[str, AfterValidator(_trusted_url)]
PublicKeyAlgorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]
YEAR_SECONDS = 366 * 86400


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerSettings(_Group):
    """Where the service listens and what it writes to its log."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """The TCP port; 0 picks a free one."""
    data_dir: Path = Path(".tocsin")
    """Where the embedded PostgreSQL and the development key are kept."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log record that is written."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """JSON lines, or text; ``auto`` writes text to a terminal and JSON elsewhere."""
    access_log: bool = True
    """Write a record for each request and each handshake."""
    forwarded_allow_ips: str = "127.0.0.1,::1"
    """The proxies whose ``X-Forwarded-For`` and ``-Proto`` are believed; ``*`` believes all."""
    shutdown_timeout_seconds: int = Field(10, ge=1)
    """How long a stop waits for requests under way."""
    request_max_bytes: int = Field(256 * 1024, ge=1024)
    """The largest request body; a larger one is answered 413."""
    batch_max_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """The largest body of ``POST /v1/alerts/batch``; a larger one is answered 413."""
    request_timeout_seconds: Seconds = 30
    """How long a request's headers, and then its body, may take to arrive."""


class StorageSettings(_Group):
    """PostgreSQL, and the group commit in front of it."""

    database_url: SecretStr | None = None
    """``postgresql://…`` of the database to use; without it an embedded PostgreSQL 18 is started."""
    database_pool_size: int = Field(8, ge=1)
    """Connections for queries; the committer and the bus have one each besides."""
    database_timeout_seconds: Seconds = 10
    """How long one statement may take."""
    database_connect_timeout_seconds: Seconds = 3
    """How long connecting may take before the database counts as unreachable."""
    commit_batch_size: int = Field(500, ge=1, le=5000)
    """The most alerts that one transaction stores."""
    commit_queue_size: int = Field(10_000, ge=1)
    """How many alerts may wait for a commit; one more is answered 503."""
    commit_queue_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """How many bytes of alerts may wait for a commit; beyond it one more is answered 503."""
    commit_recovery_timeout_seconds: Seconds = 8
    """How long an unknown commit outcome is asked for before the answer is 503 ``outcome_unknown``."""
    idempotency_key_ttl_hours: float = Field(24, gt=0, le=8760)
    """How long an ``Idempotency-Key`` is remembered."""


class IssuerSettings(BaseModel):
    """One issuer of tokens: its ``iss``, the ``aud`` it names us by, and where its keys are, in just one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    secret: SecretStr | None = None
    secret_previous: SecretStr | None = None
    public_key_file: Path | None = None
    jwks_file: Path | None = None
    jwks_url: TrustedUrl | None = None
    algorithm: PublicKeyAlgorithm | None = None


class AuthSettings(_Group):
    """Which tokens are believed."""

    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens, at least 32 bytes."""
    jwt_secret_previous: SecretStr | None = None
    """The secret that ``TOCSIN_JWT_SECRET`` replaces: believed as well, until it is taken out of the settings."""
    jwt_public_key_file: Path | None = None
    """A PEM file with the public key of the token issuer: RSA, P-256 or Ed25519."""
    jwt_jwks_file: Path | None = None
    """A file with a JWK set (RFC 7517, section 5). It is read again within a second of a change."""
    jwt_jwks_url: TrustedUrl | None = None
    """Where the token issuer publishes its JWK set: ``https``, or ``http`` to a loopback address."""
    jwt_algorithm: PublicKeyAlgorithm | None = None
    """The algorithm of the public key where the key allows two; RSA means RS256 unless this, or the JWK, says PS256."""
    jwt_issuer: str = "tocsin"
    """The ``iss`` that a token must carry."""
    jwt_audience: str = "tocsin"
    """The ``aud`` that a token must carry."""
    jwt_leeway_seconds: float = Field(30, ge=0, le=300)
    """How far an issuer's clock may be ahead of ours (``iat``, ``nbf``). Never applied to ``exp``."""
    jwt_max_lifetime_seconds: float = Field(YEAR_SECONDS, gt=0, le=10 * YEAR_SECONDS)
    """The longest life of a token (``exp`` - ``iat``); a longer one is refused. Revocations are kept as long."""
    issuers: Annotated[tuple[IssuerSettings, ...], BeforeValidator(_json)] = ()
    """More issuers of tokens: a JSON list of ``{"issuer", "audience"}``, each with its keys (see "Keys" below)."""
    jwks_ttl_seconds: Seconds = 300
    """How long keys from a JWKS URL are used before they are fetched again: so long a withdrawn one still counts."""
    jwks_min_refresh_interval_seconds: Seconds = 10
    """The least time between two fetches from one JWKS URL, however many tokens name a key that is not known."""
    jwks_timeout_seconds: Seconds = 5
    """How long one fetch from a JWKS URL may take, from the connection to the last byte."""
    token_cache_size: int = Field(10_000, ge=1)
    """How many verified tokens are remembered by their hash."""
    revocations_max: int = Field(100_000, ge=1)
    """How many revocations may be in force; one more is answered 503 ``overloaded``."""


class LimitSettings(_Group):
    """REST limits, each by token subject, in the notation of the ``limits`` library."""

    write_limit: Rate = "1000/second; 30000/minute"
    """Alerts posted by one subject."""
    read_limit: Rate = "50/second; 1500/minute"
    """Queries, revocations and closed connections by one subject."""
    auth_failure_limit: Rate = "100/minute"
    """Requests and handshakes with a bad token, by address."""


class StreamSettings(_Group):
    """The stream: WebSocket, SSE and long poll."""

    allowed_origins: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Origins of other sites whose pages may open the stream; ``*`` allows all. The service's own is always allowed."""
    connections_max: int = Field(20_000, ge=1)
    """Streams that one node holds."""
    connections_per_recipient: int = Field(20, ge=1)
    """Streams that one admin may hold on one node."""
    message_max_bytes: int = Field(16 * 1024, ge=1024)
    """The largest message that a client may send; a larger one closes the stream with 1009."""
    message_limit: Rate = "200/second; 3000/minute"
    """Messages that one connection may send: a burst, and a sustained rate."""
    message_violation_limit: Rate = "20/minute"
    """How many messages over the limit a connection may send before it is closed ``rate_limited``."""
    heartbeat_seconds: Seconds = 15
    """How often a ``heartbeat`` frame is sent."""
    ping_interval_seconds: Seconds = 20
    """How often a protocol ping is sent (RFC 6455, section 5.5.2)."""
    ping_timeout_seconds: Seconds = 20
    """How long its pong may take before the stream is closed ``heartbeat_timeout``."""
    slow_consumer_seconds: Seconds = 30
    """How long a socket may stay full before the stream is closed ``slow_consumer``."""
    longpoll_idle_timeout_seconds: Seconds = 60
    """How long a long-poll client may stay away between two polls before its connection is closed ``poll_timeout``."""
    log_poll_interval_seconds: Seconds = 1
    """How often the log is asked for events that no notification announced."""
    replay_cache_events: int = Field(20_000, ge=1)
    """Events kept in memory for connections that resume."""
    replay_cache_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """The most bytes that those events may take."""
    replay_chunk_events: int = Field(500, ge=1)
    """The most events that are written to a resuming connection at a time."""
    replay_chunk_bytes: int = Field(256 * 1024, ge=1024)
    """The most bytes that are written to a resuming connection at a time."""
    replay_readers: int = Field(4, ge=1)
    """How many resuming connections may read the log at the same time."""
    presence_max: int = Field(10_000, ge=1)
    """The most admins whose joining and leaving is announced."""
    dashboard_subscribers_max: int = Field(200, ge=1)
    """Subscribers of the dashboard that one node serves."""


class LedgerSettings(_Group):
    """The delivery ledger."""

    ledger_flush_seconds: Seconds = 0.2
    """How often the ledger is written."""
    ack_coalesce_seconds: float = Field(0.01, ge=0)
    """Acks of one connection that come closer together than this are one receipt, with the time of the last."""
    ledger_pending_max: int = Field(100_000, ge=1)
    """Facts that may wait for the database; handshakes are answered 1013 ``overloaded`` beyond it."""
    source_stats_max: int = Field(10_000, ge=1)
    """Sources of alerts that are counted apart between two flushes; others are one source, without a name."""
    node_lease_seconds: Seconds = 10
    """How long a node may be silent before its connections are closed as ``node_lost``."""
    housekeeping_interval_seconds: Seconds = 5
    """How often lost nodes are looked for, and expired keys and revocations are purged."""


class RetentionSettings(_Group):
    """How long the log and the ledger are kept."""

    retention_days: float | None = Field(None, gt=0)
    """What is older is let go, and noted in ``audit.retention_runs``; without it everything is kept for ever."""
    retention_interval_seconds: Seconds = 3600
    """How often one of the nodes looks for what is old."""
    partition_events: int = Field(1_000_000, ge=10_000, multiple_of=10_000)
    """Events of one partition of the log, in ten thousands: what is old goes in whole partitions, so let several fill
    within the retention. A new size is that of the next partitions. Small ones leave less room for a flood: no more
    than 64 are made ahead."""
    archive_dir: Path | None = None
    """Where partitions of the log are archived before they go, a folder that all nodes share; one that could not be
    archived stays."""


class IntegrationSettings(_Group):
    """What a Prometheus Alertmanager posts to ``/v1/integrations/alertmanager``."""

    alertmanager_topic_label: str = "topic"
    """The label whose value is the topic; what no topic may hold becomes ``-``."""
    alertmanager_default_topic: Annotated[str, Field(pattern=TOPIC_REGEX, max_length=TOPIC_MAX)] = "default"
    """The topic of alerts without that label."""
    alertmanager_severity_label: str = "severity"
    """The label whose value says how bad it is."""
    alertmanager_severity_map: Annotated[dict[str, Severity], BeforeValidator(_pairs)] = DEFAULT_SEVERITY_MAP
    """What its values mean, such as ``ticket=warning, p1=critical``, beside the defaults."""
    alertmanager_default_severity: Severity = "warning"
    """The severity of alerts without that label, or with another value."""


class ConsoleSettings(_Group):
    """How people sign in to the console with OpenID Connect."""

    oidc_issuer: Annotated[str, AfterValidator(_issuer_url)] | None = None
    """The OpenID provider: ``https``, or ``http`` to a loopback address. Without it the console asks for a token."""
    oidc_client_id: str = Field("tocsin-console", min_length=1)
    """The console's name at the provider, registered there as a public client (one without a secret)."""
    oidc_scope: str = "openid offline_access alerts:read alerts:manage"
    """The scopes that are asked for, separated by spaces; ``offline_access`` is for renewing without a person."""
    oidc_resource: str | None = None
    """The ``resource`` (RFC 8707) for which the access token is to be, where the provider wants it named."""
    oidc_parameters: Annotated[dict[str, str], BeforeValidator(_parameters)] = {}
    """More parameters of the authorization request, such as ``audience=tocsin, prompt=consent``."""


class ClientSettings(_Group):
    """The service that ``tocsin send`` and ``tocsin tail`` call."""

    url: str = "http://127.0.0.1:8000"
    """The address of the service."""
    token: SecretStr | None = None
    """The bearer token."""
    token_file: Path | None = None
    """A file that holds the token. It is read for each connection, so that the token can be renewed."""


class Settings(_Group):
    """All settings of one process."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    stream: StreamSettings = StreamSettings()
    ledger: LedgerSettings = LedgerSettings()
    retention: RetentionSettings = RetentionSettings()
    integrations: IntegrationSettings = IntegrationSettings()
    console: ConsoleSettings = ConsoleSettings()
    client: ClientSettings = ClientSettings()


def groups() -> dict[str, type[_Group]]:
    """Return the classes of the fields of ``Settings``, by their names."""
    return {name: type(group.default) for name, group in Settings.model_fields.items()}


def load() -> Settings:
    """Read the settings: the environment before ``.env``; an empty variable is one that is not set.

    Raises:
        ConfigurationError: a variable holds something that it may not; the message names it.

    """
    try:
        variables = {**dotenv_values(".env"), **os.environ}
        given = {name.removeprefix(PREFIX).lower(): text for name, text in variables.items() if name.startswith(PREFIX)}
        return Settings.model_validate(
            {
                group: {name: given[name] for name in cls.model_fields if given.get(name)}
                for group, cls in groups().items()
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        _group, setting, *within = (str(part) for part in first["loc"])
        place = f"{PREFIX}{setting.upper()}: " + "".join(f"{part}: " for part in within)
        raise ConfigurationError(place + first["msg"].removeprefix("Value error, ")) from None
    except UnicodeDecodeError:
        raise ConfigurationError("the file .env is not UTF-8") from None


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """Yield each ``TOCSIN_…`` variable that is no setting, with the setting that it resembles."""
    known = [name.upper() for group in groups().values() for name in group.model_fields]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known:
            resembling = difflib.get_close_matches(name, known, n=1)
            yield variable, PREFIX + resembling[0] if resembling else None
