"""The settings: typed, grouped by concern, read once.

A setting ``port`` is the variable ``TOCSIN_PORT``, in the environment or in a ``.env`` file of the
working folder. Nothing else in the service reads the environment. ``docs/reference.md`` lists all
of them; a test compares.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from service.errors import ConfigurationError
from service.settings.parsing import (
    DEFAULT_SEVERITY_MAP,
    Hosts,
    IssuerUrl,
    JsonList,
    Origins,
    Parameters,
    Proxies,
    PublicKeyAlgorithm,
    Rate,
    RequiredClaims,
    RootPath,
    ScopeMap,
    Seconds,
    SeverityMap,
    SourceGroups,
    Text,
    Texts,
    TrustedUrl,
)
from service.settings.secret_files import FILE_SUFFIX, read_secret_files, secrets_of
from service.severity import Severity
from service.topics import TOPIC_MAX, TOPIC_REGEX

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "TOCSIN_"
YEAR_SECONDS = 366 * 86400
EVENT_MAX_BYTES = 32 * 1024
"""What clients of other languages read by default, such as coder/websocket in Go."""


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerSettings(_Group):
    """The address, the log, and limits on requests."""

    host: Hosts = "127.0.0.1"
    """The addresses to listen on, with commas between; ``::`` is all of IPv6 and of IPv4, ``0.0.0.0``
    all of IPv4."""
    port: int = Field(8000, ge=0, le=65535)
    """The TCP port; 0 picks a free one."""
    root_path: RootPath | None = None
    """The path under which a proxy offers the service, such as ``/tocsin`` (see
    [under a path](#under-a-path))."""
    data_dir: Path = Path(".tocsin")
    """Where the embedded PostgreSQL and the development key are kept."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level of log records that are written."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """JSON lines, or text; ``auto`` writes text to a terminal and JSON elsewhere."""
    access_log: bool = True
    """Write a record for each request and each handshake."""
    forwarded_allow_ips: Proxies = ("127.0.0.1", "::1")
    """The addresses and networks of the proxies whose ``X-Forwarded-For`` and ``-Proto`` are trusted;
    ``*`` trusts whoever connects, and nobody before that (see
    [behind a proxy](#behind-a-proxy))."""
    shutdown_timeout_seconds: int = Field(10, ge=1)
    """How long a stop waits for requests in progress."""
    request_max_bytes: int = Field(256 * 1024, ge=1024)
    """The largest request body; a larger one is answered 413."""
    batch_max_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """The largest body of ``POST /v1/alerts/batch``; a larger one is answered 413."""
    bodies_max_bytes: int = Field(128 * 1024 * 1024, ge=1024)
    """How many bytes of bodies the requests under way on one node may hold, half of them of one
    subject, but at least one body; a request beyond is answered 503 ``overloaded``."""
    request_timeout_seconds: Seconds = 30
    """How long a request's headers, and then its body, may take to arrive."""
    keep_alive_seconds: Seconds = 75
    """How long a connection is kept for the next request. Longer than clients and proxies keep theirs,
    usually up to 60 seconds, so that none sends a request just when the service closes. A node that
    has no socket left closes those first that have been idle for longest."""


class StorageSettings(_Group):
    """PostgreSQL, and the group commit in front of it."""

    database_url: SecretStr | None = None
    """``postgresql://…`` of the database to use; without it an embedded PostgreSQL 18 is
    started."""
    listen_url: SecretStr | None = None
    """``postgresql://…`` of the same database without a connection pooler in between, for LISTEN and
    for commands. Set it where ``TOCSIN_DATABASE_URL`` leads through a pooler, such as PgBouncer (see
    [high availability](high-availability.md#connection-poolers))."""
    auditor_url: SecretStr | None = None
    """``postgresql://…`` with which ``tocsin sql --auditor`` logs in, as ``tocsin_auditor`` or a member of it. By
    default it is that role without a password, which only the embedded PostgreSQL allows."""
    database_node_connections: int = Field(4, ge=1)
    """Connections for the node's own tasks and for revocations. The committer, LISTEN and the ledger
    have one each beside them."""
    database_read_connections: int = Field(6, ge=1)
    """Connections for lists of alerts and for streams that start or replay. One subject may hold
    half of them."""
    database_audit_connections: int = Field(2, ge=1)
    """Connections for ``/v1/audit`` and the deliveries of alerts. One subject may hold half of
    them."""
    database_queue_size: int = Field(2_000, ge=1)
    """Reads that may be under way or wait for a connection, half of them of one subject; further
    ones are answered 503 ``too_many_queries``. For the audit it is eight for each of its
    connections."""
    database_timeout_seconds: Seconds = 10
    """How long one statement, and all queries of one request, may take; longer ones are answered
    503 ``query_timeout``."""
    report_timeout_seconds: Seconds = 60
    """The same for ``/v1/audit/report``, which counts all deliveries of its period."""
    database_connect_timeout_seconds: Seconds = 3
    """How long connecting may take before the database is considered unreachable, and how long a
    query waits for a connection."""
    commit_batch_size: int = Field(500, ge=1, le=5000)
    """The largest number of alerts that one transaction stores."""
    commit_queue_size: int = Field(10_000, ge=1)
    """How many alerts may wait for a commit; further ones are answered 503."""
    commit_queue_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """How many bytes of alerts may wait for a commit; further alerts are answered 503."""
    commit_recovery_timeout_seconds: Seconds = 8
    """How long the outcome of an interrupted commit is looked for before the answer is 503
    ``outcome_unknown``."""
    idempotency_key_ttl_hours: float = Field(24, gt=0, le=8760)
    """How long an ``Idempotency-Key`` is remembered."""
    event_max_bytes: int = Field(EVENT_MAX_BYTES, ge=16 * 1024)
    """The largest ``event`` frame, of whatever kind, that an alert may lead to; ``welcome`` announces it as
    ``event_bytes``. An alert is answered 413 if its JSON is larger than this less 6 KiB, which are for
    what the service adds and for a comment. Events that are stored are sent as they are, whatever
    the setting is now."""


DEFAULT_NAME_CLAIMS = ("name", "preferred_username", "email")


class IssuerSettings(BaseModel):
    """One issuer: what its tokens look like, and exactly one source of its keys.

    ``AuthSettings`` has each of these as ``jwt_…`` and describes it there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    issuer: Text
    audience: Texts
    audience_claim: Text = "aud"
    required_claims: RequiredClaims | None = None
    require_iat: bool = True
    scope_claims: Texts | None = None
    scope_map: ScopeMap | None = None
    name_claims: Texts = DEFAULT_NAME_CLAIMS
    secret: SecretStr | None = None
    secret_previous: SecretStr | None = None
    public_key_file: Path | None = None
    jwks_file: Path | None = None
    jwks_url: TrustedUrl | None = None
    jwks_ca_file: Path | None = None
    algorithm: PublicKeyAlgorithm | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if absent := next((name for name, value in given.items() if value is None), None):
            raise ValueError(f"{absent} is null: leave it out, or give it a value")
        return read_secret_files(given, secrets_of(cls))


class AuthSettings(_Group):
    """Which tokens are accepted."""

    jwt_secret: SecretStr | None = None
    """The shared secret of HS256 tokens: random, at least 32 bytes."""
    jwt_secret_previous: SecretStr | None = None
    """The secret that ``TOCSIN_JWT_SECRET`` replaces: accepted as well, until it is removed from
    the settings."""
    jwt_public_key_file: Path | None = None
    """A PEM file with the public key of the token issuer: RSA, P-256, P-384, P-521 or Ed25519."""
    jwt_jwks_file: Path | None = None
    """A file with a JWK set (RFC 7517, section 5). A change takes effect within a second."""
    jwt_jwks_url: TrustedUrl | None = None
    """The address of the token issuer's JWK set: ``https``, or ``http`` to a loopback address."""
    jwt_jwks_ca_file: Path | None = None
    """A PEM file with the certificate authorities that ``TOCSIN_JWT_JWKS_URL`` is trusted with, and no
    others. Without it they are those of the system, or of the variable ``SSL_CERT_FILE``."""
    jwt_algorithm: PublicKeyAlgorithm | None = None
    """The algorithm of the public key. RSA keys default to RS256, unless this or the JWK says RS384,
    RS512, PS256, PS384 or PS512."""
    jwt_issuer: Text = "tocsin"
    """The required ``iss`` of a token."""
    jwt_audience: Texts = ("tocsin",)
    """The required ``aud`` of a token: it has to hold one of these."""
    jwt_audience_claim: Text = "aud"
    """The claim that holds the audience of tokens without ``aud``, such as ``client_id``. A token that has
    an ``aud`` is checked by that as well."""
    jwt_required_claims: RequiredClaims | None = None
    """Further claims that a token must have, and their values, such as ``token_use=access``. ``true`` and
    numbers are compared as JSON spells them; a claim that is a list never has the value."""
    jwt_require_iat: bool = True
    """Require ``iat``. A token without it counts as issued ``TOCSIN_JWT_MAX_LIFETIME_SECONDS`` before its
    ``exp`` (see [tokens without `iat`](issuers.md#tokens-without-iat))."""
    jwt_scope_claims: Texts | None = None
    """The claims that hold the scopes, each a list or one string separated by spaces, such as
    ``scp,roles`` or ``realm_access.roles``. Without this it is ``scope``, one string."""
    jwt_scope_map: ScopeMap | None = None
    """What the issuer's values allow here, such as ``Alerts.Read=alerts:read, oncall=alerts:read
    alerts:manage``. With it, only these values count; without it, each value is a scope as it stands."""
    jwt_name_claims: Texts = DEFAULT_NAME_CLAIMS
    """The claims that hold the name that a person is shown by; the first that there is counts. ``-``, a
    claim that no token has, shows nobody's name."""
    jwt_require_at_jwt: bool = False
    """Accept only access tokens that say so: with the ``typ`` ``at+jwt`` (RFC 9068, section 2.1)."""
    jwt_leeway_seconds: float = Field(30, ge=0, le=300)
    """How far an issuer's clock may be ahead (``iat``, ``nbf``). Never applied to ``exp``."""
    jwt_max_lifetime_seconds: float = Field(YEAR_SECONDS, gt=0, le=10 * YEAR_SECONDS)
    """The longest lifetime of a token (``exp`` - ``iat``); a longer one is refused. Revocations are
    kept as long."""
    issuers: Annotated[tuple[IssuerSettings, ...], JsonList] = ()
    """More issuers of tokens: a JSON list of ``{"issuer", "audience"}``, each with its keys (see
    "Keys" below) and whatever else the settings above say of the plain one. ``…_REQUIRE_AT_JWT``,
    ``…_LEEWAY_SECONDS`` and ``…_MAX_LIFETIME_SECONDS`` are for all issuers."""
    jwks_ttl_seconds: Seconds = 300
    """How long a fetched key set is cached. A key removed by the issuer stays trusted for up to
    this long."""
    jwks_min_refresh_interval_seconds: Seconds = 10
    """The shortest time between two fetches from one JWKS URL, however many tokens name an unknown
    key."""
    jwks_timeout_seconds: Seconds = 5
    """How long one fetch from a JWKS URL may take, from connecting to the last byte."""
    token_cache_size: int = Field(10_000, ge=1)
    """How many verified tokens are cached, by their hash."""
    revocations_max: int = Field(100_000, ge=1)
    """How many revocations may be in force; further ones are answered 503 ``overloaded``, except
    reactivations."""


class LimitSettings(_Group):
    """Rate limits of REST, per subject, in the notation of the ``limits`` library."""

    write_limit: Rate = "5000/second; 30000/minute"
    """Alerts that one subject may post, and actions on alerts: as many at once, and then as many in a
    second (or a minute). What is refused does not count. A batch of any size is stored while nine
    tenths of the limit are left; the subject then waits until what it owes has passed."""
    read_limit: Rate = "500/second; 6000/minute"
    """Queries, revocations and closed connections of one subject."""
    auth_failure_limit: Rate = "100/minute"
    """Requests and handshakes without a valid token, per address; and rejected handshakes of an address
    that are recorded one by one."""
    connect_limit: Rate = "100/10 seconds; 300/minute"
    """Streams that one subject may open on one node; one beyond is rejected ``rate_limited``, or with 429.
    After a restart of the service each stream of a subject may come back several times."""
    anonymous_limit: Rate = "500/second; 15000/minute"
    """Requests of paths that need no token (the console, the documentation, ``/metrics``, and paths
    that do not exist), per address. A page of the console loads about 100 files."""


class StreamSettings(_Group):
    """The stream: WebSocket, SSE and long poll."""

    allowed_origins: Origins = ()
    """Origins of other sites whose pages may open the stream, such as ``https://console.example``;
    ``*`` allows all. The service's own is always allowed."""
    allow_query_token: bool = True
    """Accept the token of a WebSocket in ``?token=``, which proxies may log."""
    connections_max: int = Field(20_000, ge=1)
    """Streams on one node."""
    connections_per_recipient: int = Field(20, ge=1)
    """Streams of one recipient on one node."""
    message_max_bytes: int = Field(16 * 1024, ge=1024)
    """The largest message that a client may send; a larger one closes the stream with 1009."""
    message_limit: Rate = "200/second; 3000/minute"
    """Messages that one connection may send: a burst, and a sustained rate. On a WebSocket every frame
    counts, also pings, unsolicited pongs and each fragment. Answers to the service's pings do not, nor
    does what a client sends as often as it is sent events: an ``ack``, or a poll, that acknowledges
    more than the last, and a ``seen`` with no more alerts, in all, than there were events."""
    message_violation_limit: Rate = "20/minute"
    """How many messages over the limit a connection may send before it is closed
    ``rate_limited``."""
    heartbeat_seconds: Seconds = 15
    """How often a ``heartbeat`` frame is sent."""
    ping_interval_seconds: Seconds = 20
    """How often a protocol ping is sent (RFC 6455, section 5.5.2)."""
    ping_timeout_seconds: Seconds = 20
    """How long the pong may take before the stream is closed ``heartbeat_timeout``. A client that still
    reads what it was sent before the ping, or sends anything, has longer."""
    slow_consumer_seconds: Seconds = 30
    """How long a client for which more waits may take nothing before the stream is closed
    ``slow_consumer``."""
    longpoll_idle_timeout_seconds: Seconds = 60
    """How long a long-poll client may stay away between two polls before its connection is closed
    ``poll_timeout``."""
    log_poll_interval_seconds: Seconds = 1
    """How often the log is polled for events whose notification was lost."""
    replay_cache_events: int = Field(20_000, ge=1)
    """Events kept in memory for connections that resume."""
    replay_cache_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """Bytes of events kept in memory for connections that resume."""
    replay_chunk_events: int = Field(500, ge=1)
    """Events that are written to a resuming connection at a time."""
    replay_chunk_bytes: int = Field(256 * 1024, ge=1024)
    """Bytes that are written to a resuming connection at a time."""
    replay_readers: int = Field(4, ge=1)
    """How many resuming connections may read the log concurrently, half of them of one recipient."""
    presence_max: int = Field(10_000, ge=1)
    """The largest number of recipients whose presence is announced."""
    dashboard_subscribers_max: int = Field(200, ge=1)
    """Subscribers of the dashboard on one node."""


class LedgerSettings(_Group):
    """The delivery ledger."""

    ledger_flush_seconds: Seconds = 0.2
    """How often the ledger is written."""
    ack_coalesce_seconds: float = Field(0.01, ge=0)
    """Acks of one connection within this time become one receipt, with the time of the last."""
    ledger_pending_max: int = Field(100_000, ge=1)
    """Records that may wait for the database; beyond it handshakes are answered 1013
    ``overloaded``."""
    resume_points_per_recipient: int = Field(100, ge=1)
    """Resume points of one recipient: one for each filter, and for each ``consumer`` and filter. A further
    one takes the place of one without a name that was not used for a day, or is refused
    ``consumer_limit``."""
    resume_point_days: float = Field(90, gt=0)
    """How long a resume point is kept that no stream uses. A consumer that comes back later begins at the
    head of the log."""
    source_stats_max: int = Field(10_000, ge=1)
    """Sources that are counted separately between two flushes; all others are counted as one,
    without a name."""
    node_lease_seconds: Seconds = 10
    """How long this node may be silent before another closes its connections as ``node_lost``. It sends
    no event once it was silent for as long, until it has written the ledger again."""
    housekeeping_interval_seconds: Seconds = 5
    """How often lost nodes are detected, and expired idempotency keys and revocations purged."""


class RetentionSettings(_Group):
    """How long the log and the ledger are kept."""

    retention_days: float | None = Field(None, gt=0)
    """Events older than this are purged, and recorded in ``audit.retention_runs``. Unset:
    everything is kept."""
    retention_interval_seconds: Seconds = 3600
    """How often one of the nodes purges."""
    partition_events: int = Field(1_000_000, ge=10_000, multiple_of=10_000)
    """Events per partition of the log, a multiple of 10,000. Whole partitions are purged, so
    several should fill within the retention time. A new size applies to new partitions. At most 64
    are created ahead, so small ones leave less room for a flood of alerts."""
    archive_dir: Path | None = None
    """A folder that all nodes share, to which partitions are archived before they are purged. A
    partition that cannot be archived is kept."""


class AlertSettings(_Group):
    """How alerts repeat one another, and what their sources learn."""

    dedup_groups: SourceGroups = {}
    """Groups of sources that share their dedup keys, such as ``payments=billing,checkout;
    infra=prometheus,blackbox``: a group is a name and the ``sub`` of each source, which is in one group
    at most. Any other source repeats, and resolves by key, its own alerts only."""
    warn_of_unknown_recipients: bool = True
    """Whether the answer to a post names those of its recipients who have never connected. So a token with
    ``alerts:write`` alone learns whether a name that it sends exists here."""


class IntegrationSettings(_Group):
    """How alerts of a Prometheus Alertmanager are read."""

    alertmanager_topic_label: str = "topic"
    """The label with the topic; characters that a topic cannot hold become ``-``."""
    alertmanager_default_topic: Annotated[str, Field(pattern=TOPIC_REGEX, max_length=TOPIC_MAX)] = "default"
    """The topic of alerts without that label."""
    alertmanager_severity_label: str = "severity"
    """The label with the severity."""
    alertmanager_severity_map: SeverityMap = DEFAULT_SEVERITY_MAP
    """Severities of its values, such as ``ticket=warning, p1=critical``, in addition to the
    defaults."""
    alertmanager_default_severity: Severity = "warning"
    """The severity of alerts without that label, or with any other value."""
    alertmanager_late_seconds: Seconds = 30
    """For how long after a ``resolved`` a ``firing`` that began before its end counts as late, and opens no
    alert; and by how much its replicas may differ in their times. Longer than an Alertmanager waits for its
    peers, 15 seconds each. An alert that it sends again within this time, though it goes on, is not
    opened."""


class ConsoleSettings(_Group):
    """Sign-in to the console with OpenID Connect."""

    oidc_issuer: IssuerUrl | None = None
    """The OpenID provider: ``https``, or ``http`` to a loopback address. Without it the console
    asks for a token."""
    oidc_client_id: str = Field("tocsin-console", min_length=1)
    """The console's client id at the provider, registered there as a public client (without a
    secret)."""
    oidc_scope: str = "openid offline_access alerts:read alerts:manage"
    """The requested scopes, separated by spaces; ``offline_access`` allows tokens to be renewed
    silently."""
    oidc_resource: str | None = None
    """The ``resource`` of the access token (RFC 8707), if the provider requires it."""
    oidc_parameters: Parameters = {}
    """Further parameters of the authorization request, such as ``audience=tocsin,
    prompt=consent``."""


class ClientSettings(_Group):
    """The service that ``tocsin send``, ``tail`` and ``people`` connect to."""

    url: str = "http://127.0.0.1:8000"
    """The address of the service."""
    token: SecretStr | None = None
    """The bearer token."""
    token_file: Path | None = None
    """A file with the token; it is read for each connection, so the token can be renewed."""


class Settings(_Group):
    """All settings of one process."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    stream: StreamSettings = StreamSettings()
    ledger: LedgerSettings = LedgerSettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()
    integrations: IntegrationSettings = IntegrationSettings()
    console: ConsoleSettings = ConsoleSettings()
    client: ClientSettings = ClientSettings()


def groups() -> dict[str, type[_Group]]:
    """Return the class of each group of settings, by the name of its field."""
    return {name: type(group.default) for name, group in Settings.model_fields.items()}


def load() -> Settings:
    """Read the settings: the environment overrides ``.env``; an empty variable counts as unset.

    A secret may be in a file: ``TOCSIN_JWT_SECRET_FILE`` is the path of one that holds
    ``TOCSIN_JWT_SECRET``.

    Raises:
        ConfigurationError: a variable has an invalid value; the message names the variable.

    """
    try:
        variables = {**dotenv_values(".env"), **os.environ}
    except UnicodeDecodeError:
        raise ConfigurationError("the file .env is not UTF-8") from None
    given = {
        name.removeprefix(PREFIX).lower(): text for name, text in variables.items() if name.startswith(PREFIX) and text
    }
    try:
        given = read_secret_files(given, _secrets(), name=lambda setting: PREFIX + setting.upper())
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    try:
        return Settings.model_validate(
            {
                group: {name: given[name] for name in cls.model_fields if name in given}
                for group, cls in groups().items()
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        _group, setting, *within = (str(part) for part in first["loc"])
        place = f"{PREFIX}{setting.upper()}: " + "".join(f"{part}: " for part in within)
        raise ConfigurationError(place + first["msg"].removeprefix("Value error, ")) from None


def _secrets() -> list[str]:
    """Return the settings that may be in a file; ``TOCSIN_TOKEN_FILE`` is a setting of its own, which is read again."""
    own = {name for group in groups().values() for name in group.model_fields}
    return [name for group in groups().values() for name in secrets_of(group) if f"{name}{FILE_SUFFIX}" not in own]


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """Yield each ``TOCSIN_…`` variable that is no setting, with a setting that it resembles."""
    settings = [name for group in groups().values() for name in group.model_fields]
    known = [name.upper() for name in (*settings, *(f"{name}{FILE_SUFFIX}" for name in _secrets()))]
    for variable in sorted(os.environ):
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in known:
            resembling = difflib.get_close_matches(name, known, n=1)
            yield variable, PREFIX + resembling[0] if resembling else None
