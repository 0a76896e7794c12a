"""Two programs at once: whatever step of the first the second comes at, the answers and the store are those
of some order of their calls.

A run takes some of the steps; ``DBOXFS_PAIRS=all`` all of them.
"""

from __future__ import annotations

import logging
import os

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from dboxfs.store import Kind
from dboxfs.store.location import TreeLayout
from tests.vfs.interleaved import amid, in_turn
from tests.vfs.operations import APPEND, MOVE, RENAME_MAILBOX, SAVE, maker, tree_of

EVERY = 1 if os.environ.get("DBOXFS_PAIRS") == "all" else 4
"""Of so many steps one is taken."""

FIRST = {"append": APPEND, "save": SAVE, "move": MOVE}
"""What is done in a mailbox that another program renames."""


@pytest.mark.parametrize("layout", list(TreeLayout), ids=lambda layout: layout.value)
async def test_what_is_done_in_a_mailbox_that_is_renamed_at_any_step_is_done_as_if_one_came_after_the_other(
    kind: Kind, layout: TreeLayout, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tree = await tree_of(kind, layout)
    make = maker(tree, kind, layout)
    for name, first in FIRST.items():
        allowed = await in_turn(make, first, RENAME_MAILBOX)
        nth, steps = 1, 1
        while nth <= steps:
            got, _ = await amid(make, first, RENAME_MAILBOX, nth)
            if layout is TreeLayout.FS:  # a path is made before the lock is taken
                got = replace(got, left=())
            assert got in allowed, f"{name} at step {nth}"
            if nth == 1:
                _, steps = await amid(make, first, RENAME_MAILBOX, 1 << 30)
            nth += EVERY
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
