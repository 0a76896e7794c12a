"""A mailbox that this process writes is read again when the writer pauses, not at each event of its own."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.faults import FaultsDriver
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.quiet import TREE_PAUSES, WRITER_PAUSES, WRITER_READ_AFTER, QuietReads
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

ALONE = WriteOptions(Neighbour.ALONE)
MANY = 9


async def test_own_changes_in_a_row_are_read_once_and_those_of_others_are_seen(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    mock_clock.rate = 0.1  # also where the machine is busy a save takes no longer than the pause
    location = Location(Kind.SDBOX, str(tmp_path / "store"))
    async with FileSystem(ThreadsDriver(2), sync=False) as fs:
        await init_store(fs, location)
        async with open_store(fs, location) as store:
            folder = store.folders["INBOX"]
            box = folder.mailbox
            assert box is not None
            writer = StoreWriter(fs, location, store.owner, ALONE, views=store)
            other = StoreWriter(fs, location, store.owner, ALONE)
            await writer.save("INBOX", [NewMessage(b"Subject: first\n\n")])
            await store.see(folder)
            before = store.refreshes
            for number in range(MANY):
                await writer.save("INBOX", [NewMessage(b"Subject: %d\n\n" % number)])
                assert len(box) == number + 2
                await trio.sleep(WRITER_PAUSES / 4)
            assert store.refreshes - before <= MANY // 3
            await other.save("INBOX", [NewMessage(b"Subject: another's\n\n")])
            with trio.fail_after(5):
                while len(box) < MANY + 2:
                    await trio.sleep(WRITER_PAUSES / 4)


async def test_own_mailboxes_made_in_a_row_have_the_tree_read_once_and_those_of_others_are_seen(
    tmp_path: Path,
) -> None:
    location, counted = Location(Kind.SDBOX, str(tmp_path / "store")), FaultsDriver(ThreadsDriver(2))
    async with FileSystem(counted, sync=False) as fs:
        await init_store(fs, location)
        async with open_store(fs, location) as store:
            writer = StoreWriter(fs, location, store.owner, ALONE, views=store)
            other = StoreWriter(fs, location, store.owner, ALONE)
            listed = counted.counts["listdir"]
            for number in range(MANY * 4):
                await writer.create_mailbox(f"Own{number}")
                await store.refresh_tree(f"Own{number}")
                assert store.folders[f"Own{number}"].mailbox is not None
            assert counted.counts["listdir"] - listed < MANY * MANY * 4
            await other.create_mailbox("Another's")
            with trio.fail_after(5):
                while "Another's" not in store.folders:
                    await trio.sleep(TREE_PAUSES)


class _Written:
    """An index in which a writer has its turns."""

    def __init__(self) -> None:
        self.turns = 0
        self._began = 0.0

    def turn(self) -> None:
        self.turns += 1
        self._began = trio.current_time()

    def was_fed(self, seconds: float) -> bool:
        return trio.current_time() - self._began < seconds


async def test_a_writer_that_never_pauses_is_read_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as tasks:
        index = _Written()
        reads, quiet = list[float](), QuietReads()

        async def read() -> None:
            reads.append(trio.current_time())

        begun = trio.current_time()
        for _ in range(100):
            index.turn()
            quiet.read(index, read, tasks, tasks)
            await trio.sleep(WRITER_PAUSES / 2)
        last = trio.current_time()
        assert begun + WRITER_PAUSES < reads[0] <= begun + WRITER_READ_AFTER + WRITER_PAUSES
        await trio.sleep(3 * WRITER_PAUSES)
        assert reads[-1] > last - WRITER_PAUSES / 2
        assert len(reads) <= 1 + (last - begun) / WRITER_READ_AFTER
        quiet.read(index, read, tasks, tasks)  # nobody writes: at once
        await trio.testing.wait_all_tasks_blocked()
        assert reads[-1] == trio.current_time()
