"""One state of an index in a process: readers see what its writer does, without reading it back, and a writer
goes on only with a state that the log proves.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.faults import Fault, FaultsDriver
from dboxfs.index import payload
from dboxfs.index.log import RecordType, encode_record
from dboxfs.store import Folder, Kind, Listener, Location, Store, open_store
from dboxfs.store.indexes.delta import Delta
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

BOTH = pytest.mark.parametrize("kind", [Kind.SDBOX, Kind.MDBOX])

LOGS_ARE_NOT_READ = Fault("peek", path="dovecot.index", error=errno.EIO)


class One:
    """A process that reads and writes a store, and another one that writes it too."""

    def __init__(self, store: Store, driver: FaultsDriver, writer: StoreWriter, other: StoreWriter) -> None:
        self.store = store
        self.driver = driver
        self.writer = writer
        self.other = other
        self.told: list[tuple[list[int], list[int]]] = []
        self.may_reload = False

    @property
    def inbox(self) -> Folder:
        return self.store.folders["INBOX"]

    @property
    def uids(self) -> list[int]:
        assert self.inbox.mailbox is not None
        return [int(uid) for uid in self.inbox.mailbox.uids]

    def tell(self, folder: Folder, delta: Delta) -> None:
        assert self.may_reload or not delta.reloaded, "nothing has happened that could not be followed"
        self.told.append((delta.appended.tolist(), delta.expunged.tolist()))

    def log_path(self) -> Path:
        assert self.inbox.mailbox is not None
        return Path(self.inbox.mailbox.index.log_path)


@asynccontextmanager
async def one_process(kind: Kind, tmp_path: Path, options: WriteOptions | None = None) -> AsyncIterator[One]:
    location = Location(kind, str(tmp_path / "mail"))
    driver = FaultsDriver(ThreadsDriver(2))
    async with FileSystem(ThreadsDriver(2), sync=False) as beside, FileSystem(driver, sync=False) as fs:
        await init_store(beside, location)
        other = StoreWriter(beside, location, (tmp_path / "mail").stat(), options)
        await other.save("INBOX", [NewMessage(b"Subject: 1\n\n")])
        async with open_store(fs, location, follow=False) as store:
            writer = StoreWriter(fs, location, store.owner, options, views=store)
            one = One(store, driver, writer, other)
            store.listen(Listener(one.tell, _stays, _stays))
            yield one


def _stays(folder: Folder) -> None:
    raise AssertionError(f"{folder.name} stays the same")


@BOTH
async def test_a_save_is_replayed_once_into_the_map_and_once_into_the_mailbox(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[str] = []
    feed = IndexFiles.feed

    def counted(self: IndexFiles, data: bytes, mtime_ns: int) -> None:
        replayed.append(os.path.basename(self.log_path))
        feed(self, data, mtime_ns)

    async with one_process(kind, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        monkeypatch.setattr(IndexFiles, "feed", counted)
        await one.writer.save("INBOX", [NewMessage(b"Subject: 3\n\n")])
        assert one.uids == [1, 2, 3]
    logs = ["dovecot.index.log"] if kind is Kind.SDBOX else ["dovecot.map.index.log", "dovecot.index.log"]
    assert replayed == logs


@BOTH
async def test_what_a_process_saves_it_shows_at_once_without_reading_it_back(
    kind: Kind, tmp_path: Path
) -> None:
    async with one_process(kind, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        one.driver.replan([LOGS_ARE_NOT_READ])
        await one.writer.save("INBOX", [NewMessage(b"Subject: 3\n\n")])
        await one.writer.set_flags("INBOX", [2], add=8)
        assert one.uids == [1, 2, 3]
        assert one.told == [([2], []), ([3], []), ([], [])]
        assert one.inbox.mailbox is not None
        assert one.inbox.mailbox.flags(2) == ("\\Seen",)
        one.driver.replan([])
        body = await one.inbox.mailbox.open(3)
        assert await body.read(100, 0) == b"Subject: 3\n\n"
        body.close()


@BOTH
async def test_what_a_process_expunges_it_hides_at_once(kind: Kind, tmp_path: Path) -> None:
    options = WriteOptions(neighbour=Neighbour.ALONE)
    async with one_process(kind, tmp_path, options) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n"), NewMessage(b"Subject: 3\n\n")])
        one.driver.replan([LOGS_ARE_NOT_READ])
        await one.writer.expunge("INBOX", [2])
        assert one.uids == [1, 3]
        assert one.told[-1] == ([], [2])


@BOTH
async def test_what_a_process_asks_a_dovecot_to_expunge_it_hides_at_once(kind: Kind, tmp_path: Path) -> None:
    async with one_process(kind, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        one.driver.replan([LOGS_ARE_NOT_READ])
        await one.writer.expunge("INBOX", [1])
        assert one.uids == [2]
        assert one.told[-1] == ([], [1])
        await one.writer.take_place("INBOX", (await one.writer.save("INBOX", [NewMessage(b"\n")])).uids[0], 2)
        assert one.uids == [3]


@BOTH
async def test_what_others_have_written_is_read_under_the_lock_and_shown_with_the_own(
    kind: Kind, tmp_path: Path
) -> None:
    async with one_process(kind, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        await one.other.save("INBOX", [NewMessage(b"Subject: 3\n\n")])
        assert one.uids == [1, 2]
        saved = await one.writer.save("INBOX", [NewMessage(b"Subject: 4\n\n")])
        assert saved.uids == (4,)
        assert one.uids == [1, 2, 3, 4]


@BOTH
async def test_a_look_that_runs_while_the_writer_appends_takes_nothing_twice(
    kind: Kind, tmp_path: Path
) -> None:
    async with one_process(kind, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        for when in ("peek", "append sync publish"):
            one.driver.replan([Fault(when, delay=0.02)])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.store.refresh_mailbox, one.inbox)
                await trio.sleep(0.005)
                nursery.start_soon(one.writer.save, "INBOX", [NewMessage(b"Subject: more\n\n")])
                for _ in range(20):
                    await trio.sleep(0.005)
                    await one.store.refresh_mailbox(one.inbox)
        assert one.uids == [1, 2, 3, 4]
        assert [uid for appended, _ in one.told for uid in appended] == [2, 3, 4]


@BOTH
async def test_a_writer_does_not_go_on_with_what_a_reader_saw_and_its_writer_took_back(
    kind: Kind, tmp_path: Path
) -> None:
    async with one_process(kind, tmp_path) as one:
        for number in range(40):  # it is longer than what a log is known by
            await one.other.save("INBOX", [NewMessage(b"Subject: %d\n\n" % number)])
        await one.store.refresh_mailbox(one.inbox)
        one.may_reload = True
        log = one.log_path()
        whole = log.read_bytes()
        # a write of two transactions, of which the first reached the disk: next_uid = 80
        cut_back = encode_record(
            RecordType.HEADER_UPDATE, payload.header_update(28, struct.pack("<I", 80)), external=True
        )
        log.write_bytes(whole + cut_back)
        await one.store.refresh_mailbox(one.inbox)
        assert one.inbox.mailbox is not None
        assert one.inbox.mailbox.uid_next == 80
        log.write_bytes(whole)
        # another writer comes, whose records are as long
        instead = encode_record(
            RecordType.HEADER_UPDATE, payload.header_update(28, struct.pack("<I", 60)), external=True
        )
        assert len(instead) == len(cut_back)
        log.write_bytes(whole + instead)
        saved = await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        assert saved.uids == (60,)
        assert one.uids == [*range(1, 42), 60]
        assert one.inbox.mailbox.uid_next == 61


@BOTH
async def test_a_save_that_fails_is_not_shown(kind: Kind, tmp_path: Path) -> None:
    async with one_process(kind, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        told = len(one.told)
        one.driver.replan([Fault("append", error=errno.ENOSPC)])
        with pytest.raises(OSError, match="No space"):
            await one.writer.save("INBOX", [NewMessage(b"Subject: 3\n\n")])
        one.driver.replan([])
        assert one.uids == [1, 2]
        assert len(one.told) == told
        await one.store.refresh_mailbox(one.inbox)
        assert one.uids == [1, 2]
        assert (await one.writer.save("INBOX", [NewMessage(b"Subject: 3\n\n")])).uids == (3,)


async def test_a_map_is_kept_once_for_reading_and_writing(tmp_path: Path) -> None:
    async with one_process(Kind.MDBOX, tmp_path) as one:
        await one.writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
        assert one.store.storage is not None
        read = await one.store.storage.map()
        written = await one.writer.seen_map()
        assert written.state is read.state
        assert len(read) == 2
        await one.writer.save("INBOX", [NewMessage(b"Subject: 3\n\n")])
        assert len(read) == 3


def _open_below(root: Path) -> list[str]:
    """Files that this process has open."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if os.path.islink(link)]
    return [name for name in names if name.startswith(str(root))]


@BOTH
async def test_an_error_while_a_log_is_rotated_leaves_no_log_open_and_none_locked(
    kind: Kind, tmp_path: Path
) -> None:
    options = WriteOptions(neighbour=Neighbour.ALONE, rewrite_after=100, rotate_log=200)
    nth, done = 0, 0
    while done >= nth:
        nth += 1
        location = Location(kind, str(tmp_path / f"mail{nth}"))
        driver = FaultsDriver(ThreadsDriver(1), depth=1)
        async with FileSystem(driver, sync=False) as fs:
            await init_store(fs, location)
            first = WriteOptions(neighbour=Neighbour.ALONE, rewrite_after=1 << 20)
            writer = StoreWriter(fs, location, tmp_path.stat(), first)
            await writer.save("INBOX", [NewMessage(b"Subject: %d\n\n" % number) for number in range(9)])
            writer = StoreWriter(fs, location, tmp_path.stat(), options)
            before = driver.counts.total()
            driver.replan([Fault("*", nth, error=errno.EIO)])
            with suppress(OSError, DboxfsError):
                await writer.save("INBOX", [NewMessage(b"Subject: 2\n\n")])
                await writer.maintain()
            done = driver.counts.total() - before
            driver.replan([])
            assert _open_below(tmp_path) == [], nth
            with trio.fail_after(20):
                await writer.save("INBOX", [NewMessage(b"Subject: 3\n\n")])
    assert (tmp_path / f"mail{nth}/mailboxes/INBOX/dbox-Mails/dovecot.index.log.2").exists()
    assert nth > 30


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda neighbour: neighbour.value)
async def test_a_save_into_the_newest_file_of_an_mdbox_is_two_jobs_of_a_worker(
    tmp_path: Path, neighbour: Neighbour
) -> None:
    location = Location(Kind.MDBOX, str(tmp_path / "mail"))
    async with FileSystem(driver := ThreadsDriver(2)) as fs:
        await init_store(fs, location)
        async with open_store(fs, location, follow=False) as store:
            writer = StoreWriter(fs, location, store.owner, WriteOptions(neighbour), views=store)
            await writer.save("INBOX", [NewMessage(b"Subject: the file is made\n\n")])
            await writer.save("INBOX", [NewMessage(b"Subject: its end is known\n\n")])
            before = driver.stats()["jobs"]
            saved = await writer.save("INBOX", [NewMessage(b"Subject: it goes there\n\n")])
            assert (saved.uids, driver.stats()["jobs"] - before) == ((3,), 2)
