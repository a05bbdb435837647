"""The checkpoint of a verification: the progress of an interrupted run, and the last heads.

A run that was interrupted is resumed. What it had checked is not checked again, only that its last
link still has the same hash. The run after a complete one starts from the beginning, and the heads
that the complete one found must still be in the chains: so nobody has rewritten the chains since,
unless they could change this file as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from service.errors import CommandFailed
from service.integrity.link_checks import LinkRef

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Checkpoint:
    """The file at ``path``, about one database; a link for each chain, by its name."""

    path: Path
    database: str
    progress: dict[str, LinkRef] = field(default_factory=dict)
    """How far an interrupted run got."""
    heads: dict[str, LinkRef] = field(default_factory=dict)
    """The heads that the last complete run found."""

    @classmethod
    def read(cls, path: Path, database: str) -> Checkpoint:
        """Read the file; without one, or about another database, the checkpoint is empty.

        Raises:
            CommandFailed: the file cannot be read.

        """
        try:
            content = json.loads(path.read_text())
            if content["database"] != database:
                return cls(path, database)
            return cls(path, database, _links(content["progress"]), _links(content["heads"]))
        except FileNotFoundError:
            return cls(path, database)
        except OSError as error:
            raise CommandFailed(f"{path} cannot be read ({error.strerror}): name another with --state") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise CommandFailed(f"{path} holds something else: remove it, or start again with --from-start") from None

    def save_progress(self, chain: str, link: LinkRef) -> None:
        """Save that a run has checked a chain up to ``link``."""
        self.progress[chain] = link
        self._write()

    def save_heads(self, heads: dict[str, LinkRef]) -> None:
        """Save that a run was complete, and found these heads."""
        self.progress, self.heads = {}, heads
        self._write()

    def _write(self) -> None:
        content = {"database": self.database, "progress": _as_json(self.progress), "heads": _as_json(self.heads)}
        temporary = self.path.with_name(f"{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content))
            temporary.replace(self.path)
        except OSError as error:
            raise CommandFailed(
                f"{self.path} cannot be written ({error.strerror}): name another with --state"
            ) from None


def _links(content: dict[str, Any]) -> dict[str, LinkRef]:
    return {chain: LinkRef(int(link["position"]), bytes.fromhex(link["hash"])) for chain, link in content.items()}


def _as_json(links: dict[str, LinkRef]) -> dict[str, dict[str, Any]]:
    return {chain: {"position": link.position, "hash": link.hash.hex()} for chain, link in links.items()}
