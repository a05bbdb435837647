"""Settings of the server, and of the requests that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from service.settings.group import SettingsGroup
from service.settings.parsing import Hosts, Proxies, Rate, RootPath, Seconds


class ServerSettings(SettingsGroup):
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


class LimitSettings(SettingsGroup):
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
