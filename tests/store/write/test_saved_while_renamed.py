"""Messages that are saved together while another program renames their mailbox."""

from __future__ import annotations

import copy
import re
from contextlib import suppress

import trio
from trio.testing import MockClock

from dboxfs.errors import NoSuchMailbox
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.memory_tree import Tree
from dboxfs.store import Kind, open_store
from dboxfs.store.write import NewMessage, StoreWriter
from tests.vfs.inside import ALONE, ROOT_DIRECTORY, location_of, make_store
from tests.vfs.interleaved import Stopping

MESSAGES = [NewMessage(b"Subject: %d\n\ntext\n" % n) for n in range(3)]
WAITS = 2.0
"""Seconds of the mock clock after which the rename waits for the save."""


async def renamed_at(tree: Tree, nth: int) -> int:
    """Have a mailbox renamed at the *nth* step of a save; gives the number of steps."""
    location, stopping = location_of(Kind.SDBOX), Stopping(MemoryDriver(tree=tree))
    async with FileSystem(stopping) as fs, FileSystem(MemoryDriver(tree=tree)) as other:
        owner = await other.stat(location.root)
        saves, renames = (StoreWriter(some, location, owner, ALONE) for some in (fs, other))
        ended = trio.Event()

        async def save() -> None:
            with suppress(NoSuchMailbox):
                await saves.save("Work", MESSAGES)
            ended.set()
            stopping.reached.set()

        stopping.stop_at(nth)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(save)
            await stopping.reached.wait()
            renamed = trio.Event()

            async def rename() -> None:
                await renames.rename_mailbox("Work", "Job")
                renamed.set()

            nursery.start_soon(rename)
            with trio.move_on_after(WAITS):
                await renamed.wait()
            stopping.go_on()
            await ended.wait()
    return stopping.count


async def test_of_messages_that_are_saved_together_while_their_mailbox_is_renamed_no_file_is_left_alone(
    autojump_clock: MockClock,
) -> None:
    memory, nth, steps = MemoryDriver(), 1, 1
    memory.make_dirs(ROOT_DIRECTORY.rpartition("/")[0])
    await make_store(memory, Kind.SDBOX)
    while nth <= steps:
        tree = copy.deepcopy(memory.tree)
        steps = await renamed_at(tree, nth)
        files = [name for name in _names(tree) if re.fullmatch(r"u\.\d+", name)]
        async with (
            FileSystem(MemoryDriver(tree=tree)) as fs,
            open_store(fs, location_of(Kind.SDBOX), follow=False) as store,
        ):
            boxes = [folder.mailbox for folder in store.folders.values() if folder.mailbox is not None]
            assert sum(map(len, boxes)) == len(files), f"renamed at step {nth}"
        nth += 1


def _names(tree: Tree) -> list[str]:
    """The names of all files."""
    found, todo = [], [tree.find(ROOT_DIRECTORY)]
    while todo:
        for name, child in todo.pop().entries.items():
            todo.append(child)
            found += [] if child.is_dir else [name]
    return found
