"""Two programs move one message, or messages against each other, or mark what is moved.

Each has a mount of its own, and the second comes at a step of the first.  An sdbox locks both mailboxes of a
move, as an mdbox does.
"""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from dboxfs.store import Kind
from dboxfs.store.location import TreeLayout
from tests.vfs.inside import ONE, TWO, Mounted, mounted
from tests.vfs.interleaved import Made, Operation, Outcome, amid, in_turn, orders
from tests.vfs.operations import maker, one, renames, sets, tree_of

AWAY = one(renames("Work/job", "INBOX/job"))
ELSEWHERE = one(renames("Work/job", "Empty/job"))
HERE = one(renames("INBOX/note", "Work/note"))
OVER = one(renames("INBOX/note", "Work/job"))
MARKED = one(sets("Work/job", "flags", "\\Seen"))


@pytest.fixture
async def make(autojump_clock: MockClock) -> Made:
    """Two mounts of an sdbox."""
    return maker(await tree_of(Kind.SDBOX, TreeLayout.FS), Kind.SDBOX, TreeLayout.FS, 2)


EVERY = 5
"""Of so many steps one is tried."""


async def at_steps(make: Made, first: Operation, second: Operation) -> list[Outcome]:
    found = []
    for nth in itertools.count(3, EVERY):
        got, steps = await amid(make, first, second, nth)
        found.append(got)
        if nth > steps:
            break
    return found


@pytest.mark.parametrize(
    ("first", "second"),
    [(AWAY, ELSEWHERE), (ELSEWHERE, AWAY), (AWAY, HERE), (OVER, AWAY)],
    ids=["one message", "one message, the other way round", "against each other", "over what moves"],
)
async def test_two_moves_at_once_leave_each_message_once_as_one_after_the_other(
    make: Made, first: Operation, second: Operation
) -> None:
    allowed = [await in_turn(make, first, second, order) for order in orders(first, second)]
    for got in await at_steps(make, first, second):
        assert got in allowed


async def test_marks_that_a_message_is_given_while_it_is_moved_move_with_it_or_are_refused(
    make: Made,
) -> None:
    answers = set()
    for got in await at_steps(make, AWAY, MARKED):
        (job,) = [message for message in got.messages if message[1] == "job"]
        answers.add(got.second[0])
        assert (job[0], job[3].split()[0]) == ("INBOX", "\\Seen" if got.second == (0,) else "\\Flagged")
    assert len(answers) > 1


async def test_a_move_that_waits_for_a_mailbox_holds_none_behind_it_also_after_a_rename(
    autojump_clock: MockClock,
) -> None:
    """The order is that of the guids, which a rename does not change: with that of the names, a program that
    has seen them before a rename and one that has seen them after it would wait for each other.
    """
    async with mounted(Kind.SDBOX) as m:
        await m.others.create_mailbox("M")
        await m.store.refresh_tree()
        first, second = sorted(("M", "Work"), key=lambda name: guid_of(m, name))
        for renamed in ("A", "Z"):
            await m.others.rename_mailbox(second, renamed)
            await m.store.refresh_tree()
            second = renamed
            for name, text in ((first, ONE), (second, TWO)):
                await m.program().write(f"{name}/moved", text)
            for source, target in ((first, second), (second, first)):
                await moves_behind(m, source, target, waits_for=first, meanwhile=second)


def guid_of(m: Mounted, name: str) -> bytes:
    box = m.folder(name).mailbox
    assert box is not None
    assert box.guid is not None
    return box.guid


async def moves_behind(m: Mounted, source: str, target: str, *, waits_for: str, meanwhile: str) -> None:
    """A move waits for a mailbox that another writer holds; meanwhile that one can lock the other mailbox."""
    (uid, *_) = m.uids(source)

    async def move() -> None:
        await m.vfs.writer.move(source, [uid], target)

    async with trio.open_nursery() as nursery, m.others.held(waits_for):
        nursery.start_soon(move)
        await trio.sleep(0.02)
        with trio.fail_after(5):
            async with m.others.held(meanwhile):
                pass
    await m.follow(source)
    assert uid not in m.uids(source)
