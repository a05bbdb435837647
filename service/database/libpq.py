"""The parameters of an address in libpq's form, and the connections that they describe.

asyncpg reads some of libpq's parameters, and sends all others to the server as settings, which
refuses them. So each is honoured here, or refused in one line that says what to write instead. A
message shows no value, and no name that is not in a table below: either may be a part of a
password that holds an unescaped ``&``.

Reference: PostgreSQL's documentation, "Database Connection Control Functions", section 34.1.2.
"""

from __future__ import annotations

import math
import os
import random
import re
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

import asyncpg
from sqlalchemy import URL, make_url

from service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APPLICATION_NAME = "tocsin"
SYSTEM = "system"
"""The value of ``sslrootcert`` that stands for the certificate authorities of the machine."""

SESSION = {
    "client_min_messages": "warning",  # says that a commit did not wait for its standby
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "search_path": "public",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",  # how long a statement may take is measured here
    "timezone": "UTC",
}
"""What a session sets, whatever the defaults of the role, of the database and of the server are."""
NO_TRANSACTION_TIMEOUT = """
CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL
     THEN set_config('transaction_timeout', '0', {local}) END
"""
"""The expression that sets it, too, where the server has it (PostgreSQL 17); see ``DURABLE_COMMIT``."""

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
_OF_ASYNCPG = (
    *("sslmode", "sslnegotiation", "sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("krbsrvname", "gsslib", *_FILES),
)
_TEXT = r"[^\0]*"
_NUMBER = r"-?\d{1,9}"
_TLS_VERSION = r"TLSv1(\.[123])?"

_HONOURED = {
    **dict.fromkeys(("host", "port", "application_name", "fallback_application_name", "options"), _TEXT),
    **dict.fromkeys(_OF_ASYNCPG, _TEXT),
    **dict.fromkeys(("connect_timeout", "keepalives", "tcp_user_timeout"), _NUMBER),
    **dict.fromkeys(("keepalives_idle", "keepalives_interval", "keepalives_count"), _NUMBER),
    **dict.fromkeys(("ssl_min_protocol_version", "ssl_max_protocol_version"), _TLS_VERSION),
    "sslmode": "disable|allow|prefer|require|verify-ca|verify-full",
    "sslnegotiation": "postgres|direct",
    "target_session_attrs": "any|read-write|read-only|primary|standby|prefer-standby",
    "load_balance_hosts": "disable|random",
    # What asyncpg does in any case.
    "channel_binding": "disable|prefer",
    "client_encoding": r"(?i:utf-?8|unicode|auto)",
    "gssencmode": "disable|prefer",
    "max_protocol_version": r"3\.\d|latest",
    "min_protocol_version": r"3\.0",
    "replication": "false|off|no|0",
    "sslcertmode": "allow",
    "sslcompression": "0|1",  # libpq ignores it, too
    "sslsni": "1",
}
"""Each parameter, and the values of it that are honoured."""

TLS_REQUIRED = ("require", "verify-ca", "verify-full")
_NOT_FOR_PSQL = ("load_balance_hosts", "max_protocol_version", "min_protocol_version", "sslcertmode")
"""Parameters that psql before PostgreSQL 18 does not know; it connects with their defaults."""

_BY_CERTIFICATE = "write sslmode=verify-full&sslrootcert=system instead, which verifies the server by its certificate"
_IN_PUBLIC = "is not supported: remove it, as the tables are in the schema public"
_WITH_OPTIONS = "write options=-c%20name%3Dvalue for a setting of the server"
_NO_SERVICE_FILE = "is not supported: write the host, the user and all else into the address"
_INSTEAD = {
    "channel_binding": f"cannot be required: {_BY_CERTIFICATE}",
    "client_encoding": "must be UTF8",
    "gssencmode": "must be disable or prefer: connections are encrypted with TLS, as sslmode says",
    "hostaddr": "is not supported: write the address as the host",
    "replication": "must be off",
    "require_auth": f"is not supported: {_BY_CERTIFICATE}",
    "requiressl": "is not supported: write sslmode=require",
    "ssl": "must be true: write sslmode",
    "sslcertmode": "must be allow",
    "sslcrldir": "is not supported: write sslcrl",
    # Of other drivers.
    "currentSchema": _IN_PUBLIC,
    "pgbouncer": "is not supported: remove it, and set TOCSIN_LISTEN_URL to PostgreSQL's own address",
    "schema": _IN_PUBLIC,
    "search_path": _IN_PUBLIC,
    "statement_timeout": "is not supported: set TOCSIN_DATABASE_TIMEOUT_SECONDS",
    **dict.fromkeys(("service", "servicefile"), _NO_SERVICE_FILE),
    **dict.fromkeys(("connection_limit", "pool_timeout", "requirepeer", "sslsni"), "is not supported: remove it"),
}
"""What to write instead of a value that is not honoured, or of the parameter."""


def checked(url: URL, setting: str, *, stores: bool) -> URL:
    """Return an address whose parameters are all honoured.

    Of several hosts it is the primary that is connected to, unless it says otherwise.

    Raises:
        ConfigurationError: a parameter is not. With ``stores``, also where it asks for a standby.

    """
    if os.environ.get("PGSERVICE"):  # which psql would read, and asyncpg does not
        raise ConfigurationError(f"PGSERVICE {_NO_SERVICE_FILE} in {setting}, and unset it")
    query = dict(url.query)
    for number, (name, value) in enumerate(query.items(), 1):
        if (why := _refusal(name, value)) is not None:
            known = name in _HONOURED or name in _INSTEAD
            raise ConfigurationError(f"{setting}: {name if known else f'parameter {number} of its query'} {why}")
    if query.pop("ssl", None) is not None:  # as libpq reads it, for JDBC's addresses
        query.setdefault("sslmode", "require")
    if query.get("sslrootcert") == SYSTEM and query.setdefault("sslmode", "verify-full") != "verify-full":
        raise ConfigurationError(f"{setting}: sslrootcert=system needs sslmode=verify-full")
    if stores and query.get("target_session_attrs") in ("read-only", "standby", "prefer-standby"):
        raise ConfigurationError(
            f"{setting}: target_session_attrs must be primary, read-write or any: alerts are stored at the primary"
        )
    if "," in str(query.get("host", "")):
        query.setdefault("target_session_attrs", "primary")
    return url.set(query=query)


def _refusal(name: str, value: str | tuple[str, ...]) -> str | None:
    """Return why a parameter is not honoured, and what to do; None: it is."""
    if not isinstance(value, str):
        return "is there more than once: remove all but one"
    if not value:
        return "has no value: write one, or remove it"
    if name == "ssl" and value == "true":
        return None
    if name not in _HONOURED:
        return _INSTEAD.get(name, f"is not supported: remove it, or {_WITH_OPTIONS}")
    if not re.fullmatch(_HONOURED[name], value):
        return _INSTEAD.get(name, f"must be {_spelled(_HONOURED[name])}")
    return _refusal_of_value(name, value)


def _refusal_of_value(name: str, value: str) -> str | None:
    if name in _FILES and not (name == "sslrootcert" and value == SYSTEM) and not os.access(value, os.R_OK):
        return "names a file that cannot be read"
    if name == "passfile" and Path(value).stat().st_mode & 0o077:  # libpq and asyncpg would ignore it
        return "names a file that others may read: run chmod 600 on it"
    if name == "options":
        for setting in SESSION:
            if re.search(rf"\b{setting}\b", value, re.IGNORECASE):
                return f"sets {setting}: remove that, as the service sets it itself"
    return None


def _spelled(pattern: str) -> str:
    if (
        words := {_TEXT: "text", _NUMBER: "a whole number", _TLS_VERSION: "TLSv1.2 or TLSv1.3"}.get(pattern)
    ) is not None:
        return words
    *others, last = pattern.replace("\\", "").split("|")
    return f"{', '.join(others)} or {last}" if others else last


_NEXT_HOST = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,  # closed at once, as by a proxy whose server is gone
)
"""Errors after which the next host is tried."""


async def connect_session(address: URL | str, **options: Any) -> Any:
    """Connect to PostgreSQL itself, not to a pooler, with the settings that the service needs."""
    settings = {**SESSION, **options.get("server_settings", {})}
    connection = await connect(address, **{**options, "server_settings": settings})
    try:
        await connection.execute(f"SELECT {NO_TRANSACTION_TIMEOUT.format(local='false')}")
    except BaseException:
        connection.terminate()
        raise
    return connection


def within(url: URL, seconds: float) -> URL:
    """Return an address whose hosts are tried within so many seconds, all together, unless it says otherwise."""
    query: dict[str, Any] = dict(url.query)
    if float(query.get("connect_timeout", 0)) > 0:
        return url
    return url.update_query_dict({"connect_timeout": str(seconds / len(list(_attempts(url, query))))})


async def connect(address: URL | str, *, timeout: float = 60, **options: Any) -> Any:  # noqa: ASYNC109 - asyncpg's
    """Connect to the first host of an address that answers and is what ``target_session_attrs`` asks for.

    asyncpg has one time limit for all hosts together, so one that is switched off would hide those
    after it. Here ``timeout`` (seconds) is shared out, unless ``connect_timeout`` of the address says
    how long each host may take (``within``). ``options`` are asyncpg's.
    """
    url = make_url(address)
    query: dict[str, Any] = dict(url.query)
    attempts = list(_attempts(url, query))
    limit = float(query.get("connect_timeout", 0))
    seconds = limit if limit > 0 else timeout / len(attempts)
    failure: Exception | None = None
    for host, port, attributes in attempts:
        try:
            connection = await asyncpg.connect(
                f"postgresql://?{urlencode({name: query[name] for name in _OF_ASYNCPG if name in query})}",
                host=host,
                port=port,
                user=url.username,
                password=url.password or None,
                database=url.database or None,
                target_session_attrs=attributes,
                timeout=seconds,
                ssl=_system_trust(query) if query.get("sslrootcert") == SYSTEM else None,
                **{**options, "server_settings": _settings(url, options.get("server_settings", {}))},
            )
        except asyncpg.TargetServerAttributeNotMatched:
            failure = asyncpg.TargetServerAttributeNotMatched(f"none of its hosts is {attributes}")
        except _NEXT_HOST as error:
            failure = error
        else:
            return _kept_alive(connection, query)
    assert failure is not None  # noqa: S101 - there is a host
    raise failure


def _attempts(url: URL, query: Mapping[str, str]) -> Iterator[tuple[str | None, int | None, str | None]]:
    """Yield the hosts in the order to try them, each with its port and what it has to be."""
    named = (query.get("host") or unquote(url.host or "")).split(",")
    hosts = [host.removeprefix("[").removesuffix("]") or None for host in named]
    ports = [int(port) if port else None for port in (query.get("port") or str(url.port or "")).split(",")]
    places = list(zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True))
    if query.get("load_balance_hosts") == "random":
        random.shuffle(places)
    requested = query.get("target_session_attrs")
    for attributes in ("standby", "any") if requested == "prefer-standby" else (requested,):
        for host, port in places:
            yield host, port, attributes


def application_name(url: URL) -> str:
    """Return the name of the connections of an address in ``pg_stat_activity``."""
    return str(url.query.get("application_name") or url.query.get("fallback_application_name") or APPLICATION_NAME)


def _settings(url: URL, settings: Mapping[str, str]) -> dict[str, str]:
    options = {"options": str(url.query["options"])} if "options" in url.query else {}
    return {"application_name": application_name(url), **options, **settings}


def _system_trust(query: Mapping[str, str]) -> ssl.SSLContext:
    """Return the context of ``sslrootcert=system``, which asyncpg does not know."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    for name, bound in (
        ("ssl_min_protocol_version", "minimum_version"),
        ("ssl_max_protocol_version", "maximum_version"),
    ):
        if name in query:
            setattr(context, bound, ssl.TLSVersion[query[name].replace(".", "_")])
    if "sslcrl" in query:
        context.load_verify_locations(cafile=query["sslcrl"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if "sslcert" in query:
        context.load_cert_chain(query["sslcert"], query.get("sslkey"), lambda: query.get("sslpassword", ""))
    return context


def _kept_alive(connection: Any, query: Mapping[str, str]) -> Any:
    """Return a connection whose kernel notices a server that is gone.

    Raises:
        OSError: the kernel refuses a value.

    """
    connected = connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg hides it
    try:
        if connected.family != socket.AF_UNIX:
            _set_keepalives(connected, query)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _set_keepalives(connected: socket.socket, query: Mapping[str, str]) -> None:
    """Set what the address says; by default probes are sent, as libpq does."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(query.get("keepalives", 1)) != 0)
    for name, option in (
        ("keepalives_idle", "TCP_KEEPIDLE"),
        ("keepalives_interval", "TCP_KEEPINTVL"),
        ("keepalives_count", "TCP_KEEPCNT"),
        ("tcp_user_timeout", "TCP_USER_TIMEOUT"),
    ):
        if (value := int(query.get(name, 0))) > 0 and hasattr(socket, option):  # 0: the system's
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def for_psql(url: URL, connection: Any) -> URL:
    """Return the address for psql: in terms that versions before PostgreSQL 18 know, and with TLS where it had it.

    ``connection`` is one to the address. Without a requirement, a psql that has no TLS does without.
    """
    query: dict[str, Any] = {name: value for name, value in url.query.items() if name not in _NOT_FOR_PSQL}
    has_tls = connection._transport.get_extra_info("ssl_object") is not None  # noqa: SLF001 - asyncpg hides it
    if has_tls and query.get("sslmode") not in TLS_REQUIRED:
        query["sslmode"] = "require"
    if query.get("sslrootcert") == SYSTEM and (authorities := ssl.get_default_verify_paths().cafile) is not None:
        query["sslrootcert"] = authorities
    if query.get("sslnegotiation") == "postgres":  # its default
        del query["sslnegotiation"]
    if "connect_timeout" in query:
        query["connect_timeout"] = str(math.ceil(float(query["connect_timeout"])))
    return url.set(query=query)


def command_line_address(url: URL) -> str:
    """Return the address for psql, without its secrets: everybody may read a command line."""
    public = url.set(drivername="postgresql")._replace(password=None).difference_update_query(("sslpassword",))
    place, mark, query = public.render_as_string().partition("?")
    return place + mark + query.replace("+", "%20")  # libpq reads + as itself
