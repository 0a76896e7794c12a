"""Two programs at once, in one mount or each in a mount of its own: whatever step of the first the second
comes at, the answers and the store are those of some order of their calls.

A run takes some of the pairs at some of the steps; ``DBOXFS_PAIRS=all`` every pair of :data:`OPERATIONS` in
both formats and both tree layouts, in one mount and in two, at all steps.  Where a program is about a file
that was looked up before, no text may be lost; elsewhere all is compared.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter

import pytest
from trio.testing import MockClock

from dboxfs.store import Kind
from dboxfs.store.location import TreeLayout
from tests.vfs.interleaved import Made, Outcome, amid, in_turn, orders
from tests.vfs.operations import OPERATIONS, maker, tree_of

ALL = os.environ.get("DBOXFS_PAIRS") == "all"
PAIRS = list(itertools.product(OPERATIONS, repeat=2))
LOST = [
    ("rename over", "unlink"), ("rename over", "unlink other"), ("rename", "move away"),
    ("append", "rename mailbox"), ("rename mailbox", "rename mailbox into"), ("append", "unlink"),
    ("move", "rename mailbox"), ("rename mailbox", "mkdir"),
]  # fmt: skip
"""Pairs that lose a text, a name or a mailbox where a change does not look again under the lock."""

BY_INODE = {"flags", "keywords", "link", "link away"}
"""The kernel has looked up the file that they are about before they come."""

GONE = ({"unlink"}, {"unlink other"}, {"unlink", "move away"})
"""An unlink of what another program has removed a moment before succeeds."""

REMOVED = {"rmdir", "create in Empty"}
"""The close of a file that was open when its directory was removed is ENOENT (SEMANTICS)."""

layouts = pytest.mark.parametrize("layout", list(TreeLayout), ids=lambda layout: layout.value)
mounted = pytest.mark.parametrize("mounts", [1, 2], ids=["one mount", "two mounts"])


class Allowed:
    """What the orders of the calls of two operations give; an order is tried when it is needed."""

    def __init__(self, make: Made, first: str, second: str) -> None:
        self._make = make
        self._pair = OPERATIONS[first], OPERATIONS[second]
        self._orders = orders(*self._pair)
        self._known: list[Outcome] = []
        names = {first, second}
        self._exact = not (names & BY_INODE or names in GONE or names == REMOVED)

    async def has(self, got: Outcome) -> bool:
        """Whether one of them gives *got*; of what is not exact: whether one has no text that *got* lacks."""
        while not any(self._fits(got, known) for known in self._known) and self._orders:
            self._known.append(await in_turn(self._make, *self._pair, self._orders.pop(0)))
        return any(self._fits(got, known) for known in self._known)

    def _fits(self, got: Outcome, known: Outcome) -> bool:
        if self._exact:
            return got == known
        texts, wanted = ([text for _, _, text, _ in some.messages] for some in (got, known))
        return not Counter(wanted) - Counter(texts) and (got.mailboxes, got.left) == (known.mailboxes, ())


async def check(make: Made, first: str, second: str, begin: int, every: int) -> None:
    """Have *second* come at some steps of *first*, and when it has ended."""
    allowed = Allowed(make, first, second)
    for nth in itertools.count(begin, every):
        got, last = await amid(make, OPERATIONS[first], OPERATIONS[second], nth)
        assert await allowed.has(got), f"{first} | {second} at step {nth}: {got}"
        if nth > last:
            break


@mounted
@layouts
async def test_two_programs_at_once_leave_what_one_after_the_other_leaves(
    kind: Kind, layout: TreeLayout, mounts: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    make = maker(await tree_of(kind, layout), kind, layout, mounts)
    turn = 4 * (kind is Kind.MDBOX) + 2 * (layout is TreeLayout.INDEX) + mounts - 1
    for number, (first, second) in enumerate(PAIRS if ALL else LOST):
        if ALL:
            await check(make, first, second, 1, 1)
        elif number % 4 == turn % 4:
            await check(make, first, second, 1 + turn % 4, 4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
