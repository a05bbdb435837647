"""``tocsin audit``: what operators ask, answered from the database in use."""

from __future__ import annotations

from service.cli.lazy_group import LazyGroup

audit = LazyGroup(
    "audit",
    "Answer who was sent what, who received it, and who has not.",
    {
        "alert": (
            "service.cli.audit_reports",
            "Show who was sent an alert, who received or saw it, and what happened to it.",
        ),
        "recipient": ("service.cli.audit_lists", "List what an admin was sent, and when they received it."),
        "unreceived": ("service.cli.audit_lists", "List who has not received which alert that they may see."),
        "connections": (
            "service.cli.audit_lists",
            "List the connections of admins.",
        ),
        "rejections": (
            "service.cli.audit_lists",
            "Count the streams that were rejected at the handshake, and list some.",
        ),
        "rejection-counts": (
            "service.cli.audit_lists",
            "Count the streams that were rejected at the handshake, by the hour.",
        ),
        "sources": ("service.cli.audit_lists", "List what each source posted, by the hour."),
        "report": ("service.cli.audit_reports", "Sum up a period on one page; by default the last 24 hours."),
        "verify": ("service.cli.audit_verify", "Prove that nobody altered the log or the ledger."),
    },
)
