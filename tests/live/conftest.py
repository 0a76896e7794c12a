"""What the live tests share beyond the daemon and the mounts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import counted
from tests.live.equal import Tally


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Iterator[Tally]:
    """Counts what was compared with Dovecot; the sums are printed at the end of the session."""
    mine = Tally()
    yield mine
    found = {"mailboxes": mine.mailboxes, "messages": mine.messages, "bytes": mine.bytes}
    for what, count in found.items():
        counts = counted.of(pytestconfig, f"{what} compared with Dovecot")
        counts[""] = counts.get("", 0) + count
