"""``tocsin people``: what an administrator does about people who leave or come back."""

from __future__ import annotations

from service.cli.lazy_group import LazyGroup

people = LazyGroup(
    "people",
    "Deactivate a recipient who leaves, or reactivate one who is back.",
    {
        "deactivate": ("service.cli.people_activation", "Deactivate a recipient: no token of theirs is accepted."),
        "reactivate": (
            "service.cli.people_activation",
            "Reactivate a recipient: new tokens are accepted.",
        ),
    },
)
