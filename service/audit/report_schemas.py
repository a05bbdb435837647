"""The answer of the report."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.audit.schemas import RejectionCount, SourceCounts
from service.severity import Severity


class SeverityCount(BaseModel):
    """Alerts of one severity."""

    severity: Severity
    alerts: int = Field(description="created in the period")
    unresolved: int = Field(description="of these, how many are still open or acknowledged")


class DeliveryStats(BaseModel):
    """Deliveries, and how long they took, in seconds; null where there is nothing to measure."""

    sent: int = Field(description="one for each event and connection")
    received: int
    replayed: int = Field(description="of those sent, to connections that caught up: these are not measured")
    sent_p50: float | None = Field(description="from the event until it had gone to the socket")
    sent_p95: float | None
    sent_p99: float | None
    received_p50: float | None = Field(description="from the socket until the receipt")
    received_p95: float | None
    received_p99: float | None


class TopicDeliveryStats(DeliveryStats):
    """The deliveries of one topic."""

    topic: str


class UnreceivedCount(BaseModel):
    """How many alerts a recipient has not received."""

    recipient: str
    alerts: int
    max_severity: Severity
    waiting: float = Field(description="seconds since the oldest of them was created")


class ConnectionCounts(BaseModel):
    """How many connections were opened and are open."""

    opened: int = Field(description="in the period")
    open_now: int


class CloseCount(BaseModel):
    """How many connections ended for a reason."""

    reason: str | None
    code: int | None
    connections: int


class LogGap(BaseModel):
    """A gap in the log: proof of damage."""

    after_seq: int
    before_seq: int
    missing: int


_TIMES = {
    "sent_p50": 0.0041,
    "sent_p95": 0.0093,
    "sent_p99": 0.0214,
    "received_p50": 0.018,
    "received_p95": 0.042,
    "received_p99": 0.35,
}


class AuditReport(BaseModel):
    """A period on one page, with the first ten of each list."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "since": "2026-11-20T10:00:00Z",
                    "until": "2026-11-21T10:00:00Z",
                    "alerts": [{"severity": "critical", "alerts": 3, "unresolved": 1}],
                    "measured_every": 1,
                    "deliveries": {"sent": 120, "received": 118, "replayed": 7, **_TIMES},
                    "slowest_topics": [{"topic": "payments.eu", "sent": 40, "received": 39, "replayed": 0, **_TIMES}],
                    "unreceived": [{"recipient": "bob", "alerts": 2, "max_severity": "critical", "waiting": 3611.5}],
                    "connections": {"opened": 14, "open_now": 3},
                    "closes": [{"reason": "token_expired", "code": 1008, "connections": 5}],
                    "rejections": [{"reason": "scope_missing", "rejections": 2}],
                    "sources": [{"source": "billing", "alerts": 512, "repeated": 31, "replayed": 2, "refused": 1}],
                    "log_gaps": [{"after_seq": 17, "before_seq": 19, "missing": 1}],
                }
            ]
        }
    )

    since: AwareDatetime
    until: AwareDatetime
    alerts: list[SeverityCount]
    measured_every: int = Field(description="the latencies are those of every so-manieth event; 1: of all")
    deliveries: DeliveryStats
    slowest_topics: list[TopicDeliveryStats] = Field(description="by their sent_p95")
    unreceived: list[UnreceivedCount] = Field(
        description="the recipients that have not received the most alerts of the period"
    )
    connections: ConnectionCounts
    closes: list[CloseCount] = Field(description="connections that ended in the period")
    rejections: list[RejectionCount] = Field(description="in all hours that the period touches")
    sources: list[SourceCounts] = Field(description="in all hours that the period touches")
    log_gaps: list[LogGap] = Field(description="of the whole log; empty, or something is wrong")
