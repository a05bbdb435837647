"""Deduplication: which alerts repeat one another.

While an alert is open or acknowledged, another one repeats it if all of this is equal: its source,
or the group of sources that share their keys (``TOCSIN_DEDUP_GROUPS``), its topic, the set of its
recipients, and its ``dedup_key``. So nobody repeats, or resolves by its key, what somebody else
posted, and no alert is lost in one that other people received.

The recipients are those with which an alert was posted: escalation changes whom it is for, and not
which alerts repeat it. They are kept as a digest, because a list may be longer than a row of an
index.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

EVERYBODY = "everybody"
"""The audience of an alert that names no recipients."""


def audience_of(recipients: Collection[str] | None) -> str:
    """Return what stands for a set of recipients: a digest, in hex, or ``EVERYBODY``."""
    if recipients is None:
        return EVERYBODY
    return sha256(orjson.dumps(sorted(set(recipients)))).hexdigest()


class KeyOfSource(NamedTuple):
    """A dedup key of a source, within a topic."""

    source: str
    topic: str
    key: str


class DedupIdentity(NamedTuple):
    """What alerts that repeat one another have in common, if the source is of the same group."""

    key: KeyOfSource
    audience: str


class DedupGroups:
    """The groups of sources that share their dedup keys. A source is in one group at most."""

    def __init__(self, groups: Mapping[str, Collection[str]]) -> None:
        self.members = [(source, name) for name, sources in groups.items() for source in sources]
        self._sharing = {source: frozenset(sources) for sources in groups.values() for source in sources}

    def sharing(self, source: str) -> frozenset[str]:
        """Return the sources that share their keys with ``source``, and itself."""
        return self._sharing.get(source) or frozenset((source,))

    def keys(self, key: KeyOfSource) -> list[KeyOfSource]:
        """Return the key of the source, and the equal keys of those that share theirs with it."""
        return [key._replace(source=source) for source in sorted(self.sharing(key.source))]


NO_GROUPS = DedupGroups({})
