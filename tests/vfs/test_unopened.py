"""A file system whose files are never opened, on a store in memory and pages that are a dictionary."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

import pytest
import trio
import trio.testing

from dboxfs.dbox import Compression
from dboxfs.dbox.encoders import Method
from dboxfs.fsapi import Driver, Fault, FaultsDriver
from dboxfs.fsapi.drivers.memory_tree import MemoryNode
from dboxfs.fsapi.ops import Job, Op
from dboxfs.store import Facts, Kind
from dboxfs.store.sdbox import departed
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from dboxfs.vfs import unopened as unopened_module
from dboxfs.vfs.host import Item
from dboxfs.vfs.node import CONTROL
from dboxfs.vfs.unopened import Unopened
from tests.vfs.inside import ROOT_DIRECTORY, Mounted, Program, mounted, raises

T = TypeVar("T")

COUNT = 300


class Batch:
    def __init__(self, pages: Pages, inodes: Sequence[int]) -> None:
        self.pages = pages
        self.inodes = inodes

    def push(self, items: Sequence[Item]) -> None:
        assert {inode for inode, _ in items} <= set(self.inodes)
        self.pages.lost |= {inode for inode, _ in items} & self.pages.unknown
        known = {inode: bytes(data) for inode, data in items if inode not in self.pages.unknown}
        self.pages.there.update(known)

    async def wait(self) -> None:
        self.pages.waits += 1
        await trio.lowlevel.checkpoint()


class Pages:
    """The kernel's page cache: what was pushed is there.

    :ivar waits: READs that were answered after their window was stored.
    :ivar unknown: inodes that the kernel doesn't know.
    """

    def __init__(self) -> None:
        self.waits = 0
        self.there: dict[int, bytes] = {}
        self.in_flight: list[int] = []
        self.dropped: list[int] = []
        self.unknown: set[int] = set()
        self.lost: set[int] = set()

    def begin(self, inode: int) -> None:
        self.in_flight.append(inode)

    def end(self, inode: int) -> None:
        self.in_flight.remove(inode)

    def wanted(self, inodes: Iterable[int]) -> set[int]:
        return set(inodes) - set(self.in_flight)

    def missed(self, inode: int) -> bool:
        return inode in self.lost

    def expect(self, inodes: Sequence[int]) -> Batch:
        return Batch(self, inodes)

    def drop(self, inodes: Sequence[int]) -> None:
        self.dropped += inodes


def text(uid: int) -> bytes:
    return b"Subject: %d\n\n" % uid + b"text of %d\n" % uid * (uid % 40)


class Reader:
    """A program, and the kernel below it: it asks only for what is not there."""

    def __init__(self, m: Mounted) -> None:
        self.m = m
        self.pages = Pages()
        self.unopened = Unopened(m.reading, self.pages)
        self.base = m.reading.inodes.of(m.folder())
        self.reads = 0

    async def read(self, uid: int) -> bytes:
        inode = self.base | uid
        if inode not in self.pages.there:
            self.reads += 1
            self.pages.there[inode] = await self.unopened.read(inode, 1 << 20, 0)
            await trio.testing.wait_all_tasks_blocked()  # the program works with it
        return self.pages.there[inode]

    async def again(self, uid: int, size: int = 1 << 20, offset: int = 0) -> bytes:
        """The kernel has dropped it."""
        return await self.unopened.read(self.base | uid, size, offset)


@pytest.fixture
async def r(m: Mounted) -> Reader:
    await m.others.save("INBOX", [NewMessage(text(uid)) for uid in range(2, COUNT + 1)])
    await m.follow()
    box = m.folder().mailbox
    assert box is not None
    await box.scan()
    return Reader(m)


async def expunge(m: Mounted, *uids: int) -> None:
    await m.others.expunge("INBOX", uids)
    await m.follow()


async def test_a_walk_gets_the_bytes_of_the_messages_with_a_read_for_each_window(r: Reader) -> None:
    assert [await r.read(uid) for uid in range(2, COUNT + 1)] == [text(uid) for uid in range(2, COUNT + 1)]
    assert r.reads <= 8
    assert r.pages.in_flight == []


async def test_only_the_first_windows_of_a_walk_keep_the_program_waiting(r: Reader) -> None:
    for uid in range(2, COUNT + 1):
        await r.read(uid)
    assert r.pages.waits == 2
    assert r.reads > 4


async def test_a_program_that_reads_messages_between_parts_of_the_listing_gets_a_window_for_each_part(
    r: Reader,
) -> None:
    """The kernel knows a message only once it was listed."""
    for first in range(2, COUNT, 60):
        part = range(first, min(first + 60, COUNT + 1))
        r.pages.unknown = {r.base | uid for uid in range(part[-1] + 1, COUNT + 1)}
        assert [await r.read(uid) for uid in part] == [text(uid) for uid in part]
    assert r.reads <= 18


async def test_a_walk_backwards_does_too(r: Reader) -> None:
    assert [await r.read(uid) for uid in range(COUNT, 1, -1)] == [text(uid) for uid in range(COUNT, 1, -1)]
    assert r.reads <= 8


async def test_compressed_messages_are_pushed_as_their_plain_text(m: Mounted, r: Reader) -> None:
    options = WriteOptions(Neighbour.ALONE, compress=Method(Compression.ZSTD, 3))
    packing = StoreWriter(m.fs, m.location, m.store.owner, options)
    many = [text(uid) * 9 for uid in range(COUNT + 1, 2 * COUNT)]
    await packing.save("INBOX", [NewMessage(one) for one in many])
    await m.follow()
    box = m.folder().mailbox
    assert box is not None
    await box.scan()
    reads = r.reads
    assert [await r.read(uid) for uid in range(COUNT + 1, 2 * COUNT)] == many
    assert r.reads - reads <= 8


async def test_one_message_alone_is_read_in_pieces_and_brings_nothing(r: Reader) -> None:
    assert await r.again(39, 20, 10) == text(39)[10:30]
    assert await r.again(39, 1 << 20, 30) == text(39)[30:]
    assert await r.again(39, 100, len(text(39))) == b""
    assert r.pages.there == {}


async def test_a_message_that_is_gone_is_stale(m: Mounted, r: Reader) -> None:
    with raises(errno.ESTALE):
        await r.again(COUNT + 1)


async def test_who_has_begun_to_read_reads_on_after_an_expunge(m: Mounted, r: Reader, p: Program) -> None:
    assert await r.again(39, 20, 0) == text(39)[:20]
    await expunge(m, 39)
    assert await r.again(39, 1 << 20, 20) == text(39)[20:]
    assert (await m.reading.getattr(r.base | 39)).size == len(text(39))
    r.unopened.forget([r.base | 39])


async def test_in_an_mdbox_who_has_read_nothing_reads_on_too_until_the_kernel_forgets(
    m: Mounted, r: Reader, kind: Kind
) -> None:
    await expunge(m, 39, 40)
    if kind is Kind.SDBOX:
        with raises(errno.ESTALE):
            await r.again(39)
        return
    assert await r.again(39) == text(39)
    r.unopened.forget([r.base | 39, r.base | 40])
    for uid in (39, 40):
        with raises(errno.ESTALE):
            await r.again(uid)


async def looked_up(m: Mounted, r: Reader, name: bytes) -> int:
    """The inode of a message that the kernel has asked for by its name."""
    return (await m.reading.lookup(r.base, name)).inode


@pytest.mark.parametrize("heard", [True, False])
async def test_a_message_that_was_looked_up_is_read_after_it_was_replaced_and_shows_its_own_size(
    m: Mounted, r: Reader, heard: bool
) -> None:
    inode = await looked_up(m, r, b"39.eml")
    async with m.again() as other:
        await other.program().write("INBOX/39.eml", b"Subject: new\n\nanother text, and a longer one\n" * 99)
    if heard:
        await m.follow()
    assert await r.unopened.read(inode, 1 << 20, 0) == text(39)
    assert (await m.reading.getattr(inode)).size == len(text(39))
    await m.follow()
    assert await looked_up(m, r, b"39.eml") != inode


async def test_a_message_that_was_looked_up_is_read_after_it_was_moved(m: Mounted, r: Reader) -> None:
    inode = await looked_up(m, r, b"39.eml")
    async with m.again() as other:
        await other.program().rename("INBOX/39.eml", "Work/39.eml")
    await m.follow()
    assert await r.unopened.read(inode, 1 << 20, 0) == text(39)


async def test_the_size_of_a_message_that_was_replaced_is_never_that_of_the_new_one(
    m: Mounted, r: Reader
) -> None:
    inode = r.base | 39  # the kernel knows it from a listing
    async with m.again() as other:
        await other.program().write("INBOX/39.eml", b"Subject: new\n\nanother text\n")
    await m.follow()
    assert (await m.reading.getattr(inode)).size == len(text(39))
    r.unopened.forget([inode])
    with raises(errno.ESTALE):
        await m.reading.getattr(inode)


async def test_a_name_whose_message_was_replaced_while_it_was_looked_up_is_that_of_the_new_one(
    m: Mounted, r: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = m.folder().mailbox
    assert box is not None
    facts_of = box.facts_of

    async def replaced_then(uid: int) -> Facts:
        facts = await facts_of(uid)
        if uid == 39:
            async with m.again() as other:
                await other.program().write("INBOX/39.eml", b"Subject: new\n\n")
        return facts

    monkeypatch.setattr(box, "facts_of", replaced_then)
    inode = await looked_up(m, r, b"39.eml")
    wanted = text(39) if inode == r.base | 39 else b"Subject: new\n\n"
    assert await r.unopened.read(inode, 1 << 20, 0) == wanted


async def test_a_mailbox_that_was_made_again_has_nothing_of_what_was_in_it_before(
    m: Mounted, r: Reader
) -> None:
    await m.others.save("Work", [NewMessage(text(uid)) for uid in (1, 2, 3)])
    await m.follow("Work")
    base = m.reading.inodes.of(m.folder("Work"))
    await m.reading.lookup(base, b"2.eml")
    await m.others.expunge("Work", [2])
    await m.follow("Work")
    assert await r.unopened.read(base | 2, 1 << 20, 0) == text(2)
    await m.others.delete_mailbox("Work")
    await m.others.create_mailbox("Work")
    await m.others.save("Work", [NewMessage(text(4))])
    await m.store.refresh_tree()
    await m.follow("Work")
    assert m.uids("Work") == [1]
    again = m.reading.inodes.of(m.folder("Work"))
    assert again != base
    with raises(errno.ESTALE):
        await r.unopened.read(again | 2, 1 << 20, 0)


async def test_a_message_whose_mailbox_was_renamed_a_moment_ago_is_read(m: Mounted, r: Reader) -> None:
    """Nobody has told the mount yet; the kernel, which opens nothing, would not look the name up again."""
    await m.others.save("Work", [NewMessage(text(uid)) for uid in (1, 2, 3)])
    await m.follow("Work")
    base = m.reading.inodes.of(m.folder("Work"))
    await m.others.rename_mailbox("Work", "Job")
    assert await r.unopened.read(base | 2, 1 << 20, 0) == text(2)


class Renaming:
    """A driver under which Work and Job change their names before operation number ``at`` from now."""

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.at = 0
        self.boxes: dict[str, MemoryNode] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def rename(self) -> None:
        old, new = ("Work", "Job") if "Work" in self.boxes else ("Job", "Work")
        self.boxes[new] = self.boxes.pop(old)

    def submit(self, op: Op[T], done: Callable[[Job[T]], None], *, background: bool = False) -> Job[T]:
        self.at -= 1
        if self.at == 0:
            self.rename()
        return self.inner.submit(op, done, background=background)


async def test_a_message_is_read_while_its_mailbox_is_renamed_again_at_any_moment(kind: Kind) -> None:
    drivers: list[Renaming] = []

    def renaming(driver: Driver) -> Driver:
        drivers.append(Renaming(driver))
        return cast(Driver, drivers[0])

    async with mounted(kind, faults=renaming) as m:
        await m.others.save("Work", [NewMessage(text(1))])
        await m.follow("Work")
        inode = m.reading.inodes.of(m.folder("Work")) | 1
        unopened, (driver,) = Unopened(m.reading, Pages()), drivers
        driver.boxes = m.tree.find(f"{ROOT_DIRECTORY}/mailboxes").entries
        for again in range(1, 45):
            driver.rename()
            driver.at = again
            assert await unopened.read(inode, 1 << 20, 0) == text(1), again
            driver.at = 0
            unopened.forget([inode])
            await m.store.refresh_tree()


async def test_no_more_files_are_held_than_the_limit_and_those_that_were_looked_up_last_are(
    m: Mounted, r: Reader, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departed, "MOST_HELD", 4)
    inodes = [await looked_up(m, r, b"%d.eml" % uid) for uid in range(10, 20)]
    await expunge(m, *range(10, 20))
    assert [await r.unopened.read(inode, 1 << 20, 0) for inode in inodes[-4:]] == [
        text(uid) for uid in range(16, 20)
    ]
    if kind is Kind.SDBOX:
        with raises(errno.ESTALE):
            await r.unopened.read(inodes[5], 1 << 20, 0)
    opened = m.fs.stats()["opens"]
    r.unopened.forget(inodes)
    for inode in inodes:
        with raises(errno.ESTALE):
            await r.unopened.read(inode, 1 << 20, 0)
    assert m.fs.stats()["opens"] == opened


async def test_no_more_bytes_are_held_than_the_limit_but_always_the_message_that_was_looked_up_last(
    m: Mounted, r: Reader, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is Kind.MDBOX:  # holds places, not files
        return
    monkeypatch.setattr(departed, "MOST_HELD_BYTES", 1500)
    inodes = [await looked_up(m, r, b"%d.eml" % uid) for uid in (36, 37, 38, 39)]
    await expunge(m, 36, 37, 38, 39)
    assert await r.unopened.read(inodes[-1], 1 << 20, 0) == text(39)
    with raises(errno.ESTALE):
        await r.unopened.read(inodes[0], 1 << 20, 0)
    monkeypatch.setattr(departed, "MOST_HELD_BYTES", 1)
    inode = await looked_up(m, r, b"79.eml")
    await expunge(m, 79)
    assert await r.unopened.read(inode, 1 << 20, 0) == text(79)


async def test_no_more_messages_stay_open_than_the_limit(
    m: Mounted, r: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unopened_module, "KEPT_BODIES", 4)
    for uid in range(2, 100, 7):
        await r.again(uid)
    assert len(m.reading.open_files.being_read) == 4
    r.unopened.close()
    assert len(m.reading.open_files.being_read) == 0


@pytest.mark.parametrize("given_up", ["limit", "forgotten", "repair", "unmounted"])
async def test_a_read_in_flight_gets_its_bytes_although_its_message_is_given_up(
    given_up: str, kind: Kind, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(unopened_module, "KEPT_BODIES", 1)
    large = b"Subject: large\n\n" + b"".join(b"line %d\n" % n for n in range(300_000))
    drivers: list[FaultsDriver] = []

    def slow(driver: Driver) -> Driver:
        drivers.append(FaultsDriver(driver))
        return drivers[0]

    async with mounted(kind, faults=slow) as m:
        await m.others.save("INBOX", [NewMessage(large), NewMessage(text(3))])
        await m.follow()
        r = Reader(m)
        assert await r.again(3) == text(3)
        assert await r.again(2, 20, 0) == large[:20]
        drivers[0].replan([Fault("read", delay=10.0)])
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def in_flight() -> None:
                got.append(await r.again(2, 4096, 2_000_000))

            nursery.start_soon(in_flight)
            await trio.sleep(5)
            match given_up:
                case "limit":
                    drivers[0].replan([])
                    assert await r.again(3) == text(3)
                case "forgotten":
                    r.unopened.forget([r.base | 2])
                case "repair":
                    r.unopened.doubt(m.reading.inodes.node(r.base))
                case _:
                    r.unopened.close()
            assert not got, "it is in flight"
        assert got == [large[2_000_000:][:4096]]
        drivers[0].replan([])
        r.unopened.close()
        assert len(m.reading.open_files.being_read) == 0


async def test_a_repair_has_the_kernel_drop_what_it_has(m: Mounted, r: Reader) -> None:
    await r.again(39)
    r.unopened.doubt(m.reading.inodes.node(r.base))
    assert r.pages.dropped == [r.base | uid for uid in m.uids()]
    assert len(m.reading.open_files.being_read) == 0


async def names_from(r: Reader, inode: int, offset: int, count: int) -> list[tuple[bytes, int]]:
    """What one READDIR gives: names, and the offsets behind them."""
    directory, above, start = await r.unopened.directory(inode, offset)
    await directory.prepare(start)
    found = [(name, above | behind) for behind, name, _ in directory.above(start)]
    found += [(row.name, above | row.next) for row in directory.messages(start)]
    return found[:count]


async def test_a_listing_goes_on_in_the_snapshot_in_which_it_began(m: Mounted, r: Reader) -> None:
    first = await names_from(r, r.base, 0, 100)
    await expunge(m, *range(50, 60), 150)
    other = await names_from(r, r.base, 0, 10)  # another program begins
    rest = await names_from(r, r.base, first[-1][1], COUNT)
    assert len({name for name, _ in first + rest}) == len(first + rest)
    assert {b"%d.eml" % uid for uid in m.uids()} <= {name for name, _ in first + rest}
    assert b"150.eml" not in {name for name, _ in rest}
    assert other[-1][1] >> 40 != first[-1][1] >> 40


async def test_a_listing_that_a_change_has_overtaken_is_told_to_be_old_when_the_kernel_comes_for_its_end(
    m: Mounted, r: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m.store, "is_watched", lambda folder: True)
    await names_from(r, r.base, 0, 1)  # looks at the mailbox for the first time
    last = (await names_from(r, r.base, 0, COUNT + 2))[-1][1]
    m.told.listings.clear()
    assert await names_from(r, r.base, last, 1) == []
    assert m.told.listings == []
    last = (await names_from(r, r.base, 0, COUNT + 2))[-1][1]
    await expunge(m, 150)
    m.told.listings.clear()  # this it may have heard before it had copied the entries
    assert await names_from(r, r.base, last, 1) == []
    assert m.told.listings == [r.base]


async def test_a_listing_of_a_mailbox_that_is_not_watched_is_told_to_be_old_each_time(
    m: Mounted, r: Reader
) -> None:
    await names_from(r, r.base, 0, 1)  # looks at the mailbox for the first time
    for _ in range(2):
        m.told.listings.clear()
        await names_from(r, r.base, 0, 1)
        assert m.told.listings == [r.base]


async def test_a_control_file_is_a_snapshot_with_its_exact_size(
    m: Mounted, r: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await m.reading.lookup(CONTROL, b"stats.json")
    second = await m.reading.lookup(CONTROL, b"stats.json")
    assert first.inode != second.inode
    assert first.entry_timeout == 0.0
    data = await r.unopened.read(first.inode, 1 << 20, 0)
    assert len(data) == first.size == (await m.reading.getattr(first.inode)).size
    assert json.loads(data)["messages"] == COUNT
    for _ in range(100):
        await m.reading.lookup(CONTROL, b"store.json")
    with raises(errno.ESTALE):
        await r.unopened.read(first.inode, 100, 0)
