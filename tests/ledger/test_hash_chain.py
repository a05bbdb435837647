from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from itertools import permutations

import pytest

from service.ledger.hash_chain import ledger_link

pytestmark = pytest.mark.unit

AT = datetime(1970, 1, 1, 0, 0, 1, 5, UTC)
LINES = [b'["receipt",1]', b'["closing",2]', '["dispatch","ü"]'.encode()]


def test_a_link_is_what_the_documentation_says() -> None:
    content = bytes(31) + b"\1" + (7).to_bytes(8, "big") + (1_000_005).to_bytes(8, "big")
    assert ledger_link(bytes(31) + b"\1", 7, AT, LINES) == sha256(content + b"\n".join(sorted(LINES))).digest()


def test_the_order_in_which_the_lines_are_read_does_not_matter() -> None:
    assert len({ledger_link(bytes(32), 1, AT, lines) for lines in permutations(LINES)}) == 1


def test_whatever_is_changed_changes_the_link() -> None:
    same = (bytes(32), 1, AT, LINES)
    others = [
        (b"\1" * 32, 1, AT, LINES),
        (bytes(32), 2, AT, LINES),
        (bytes(32), 1, AT.replace(microsecond=6), LINES),
        (bytes(32), 1, AT, LINES[:2]),
        (bytes(32), 1, AT, [*LINES, LINES[0]]),
    ]
    assert len({ledger_link(*link) for link in (same, *others)}) == 1 + len(others)
