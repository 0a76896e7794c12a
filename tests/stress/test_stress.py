"""A short stress of each kind; the long one is ``scripts/stress``.

``DBOXFS_STRESS_OPS`` is the number of operations of each.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import counted
from tests.fuse_rw.rw import resynced
from tests.live.dovecot import Dovecot
from tests.stress.stress import Plan, Stress

OPERATIONS = int(os.environ.get("DBOXFS_STRESS_OPS", "80"))


@resynced
@pytest.mark.parametrize(
    ("mode", "driver"),
    [("one", "mdbox"), ("two", "sdbox"), ("two", "mdbox"), ("stores", "sdbox"), ("alone-stores", "mdbox")],
)
def test_everything_that_was_acknowledged_is_there_and_nothing_else(
    dovecot: Dovecot, tmp_path: Path, pytestconfig: pytest.Config, mode: str, driver: str
) -> None:
    plan = Plan("1", driver, mode, OPERATIONS, 600, workers=3)
    with Stress(plan, dovecot, tmp_path) as stress:
        tally = stress.run()
    assert tally.faults == []
    assert tally.operations >= OPERATIONS
    counts = counted.of(pytestconfig, "stress")
    counts[str(plan)] = tally.operations
