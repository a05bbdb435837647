"""Where verification stands: a small file with what an interrupted run has reached, and what the last whole run found.

An interrupted run is gone on with. That what lies before fits is then remembered, not proved: only the hash of the link
that was reached is looked at again. The run after a whole one begins anew, and the heads that were found must still be
in the chains: so nobody has linked anew what was there, as long as they could not change this file as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from service.errors import CommandFailed
from service.integrity.link_checks import Anchor

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Checkpoint:
    """The file at ``path``, about the database called ``database``; both hold a place for each chain, by its name."""

    path: Path
    database: str
    reached: dict[str, Anchor] = field(default_factory=dict)
    """How far a run got that was interrupted."""
    noted: dict[str, Anchor] = field(default_factory=dict)
    """The heads that the last whole run found."""

    @classmethod
    def read(cls, path: Path, database: str) -> Checkpoint:
        """Read the file; an empty bookmark where there is none, or one about another database.

        Raises:
            CommandFailed: the file cannot be read.

        """
        try:
            content = json.loads(path.read_text())
            if content["database"] != database:
                return cls(path, database)
            return cls(path, database, _places(content["reached"]), _places(content["noted"]))
        except FileNotFoundError:
            return cls(path, database)
        except OSError as error:
            raise CommandFailed(f"{path} cannot be read ({error.strerror}): name another with --state") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise CommandFailed(f"{path} holds something else: remove it, or begin anew with --from-start") from None

    def reach(self, chain: str, place: Anchor) -> None:
        """Note how far a run got."""
        self.reached[chain] = place
        self._write()

    def finish(self, heads: dict[str, Anchor]) -> None:
        """Note that a run was whole, and found these heads."""
        self.reached, self.noted = {}, heads
        self._write()

    def _write(self) -> None:
        content = {"database": self.database, "reached": _shown(self.reached), "noted": _shown(self.noted)}
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(content))
            beside.replace(self.path)
        except OSError as error:
            raise CommandFailed(
                f"{self.path} cannot be written ({error.strerror}): name another with --state"
            ) from None


def _places(content: dict[str, Any]) -> dict[str, Anchor]:
    return {chain: Anchor(int(place["position"]), bytes.fromhex(place["hash"])) for chain, place in content.items()}


def _shown(places: dict[str, Anchor]) -> dict[str, dict[str, Any]]:
    return {chain: {"position": place.position, "hash": place.hash.hex()} for chain, place in places.items()}
