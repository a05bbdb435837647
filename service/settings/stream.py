"""Settings of the stream."""

from __future__ import annotations

from pydantic import Field

from service.settings.group import SettingsGroup
from service.settings.parsing import Origins, Rate, Seconds


class StreamSettings(SettingsGroup):
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
