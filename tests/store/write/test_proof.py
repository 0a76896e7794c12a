"""A whole message is never removed unless the log shows its expunge; every other clean-up needs a proof."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.errors import CorruptFile, NoSuchMailbox
from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.index import payload
from dboxfs.index.expunges import LogBytes, expunged_since
from dboxfs.index.log import LogHeader, RecordType, encode_log_header, encode_record, encode_transaction
from dboxfs.store import Kind, Location
from dboxfs.store.write import (
    IndexMissing,
    MailboxInUse,
    Neighbour,
    NewMessage,
    StoreWriter,
    WriteOptions,
    init_store,
    log_records,
)

BOTH = pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
NEIGHBOURS = pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda n: n.value)
ALONE = WriteOptions(Neighbour.ALONE)
OLD = WriteOptions(Neighbour.ALONE, temporary_age=-1)


class Place:
    """A store with messages in it."""

    def __init__(self, kind: Kind, path: Path) -> None:
        self.location = Location(kind, str(path / "store"))
        self.root = path / "store"
        self.inbox = self.root / "mailboxes/INBOX/dbox-Mails"

    async def make(self, count: int = 3) -> Place:
        async with FileSystem(ThreadsDriver(2)) as fs:
            await init_store(fs, self.location)
            await self.writer(fs).save("INBOX", [message(n) for n in range(1, count + 1)])
        return self

    def writer(self, fs: FileSystem, options: WriteOptions = ALONE) -> StoreWriter:
        return StoreWriter(fs, self.location, self.root.stat(), options)

    def messages(self) -> dict[str, bytes]:
        paths = [p for p in self.root.rglob("[um].*") if re.fullmatch(r"[um]\.\d+", p.name)]
        return {str(path): path.read_bytes() for path in paths}

    async def maintain(self, options: WriteOptions = ALONE) -> tuple[int, int, int]:
        """removed, left, recovered"""
        async with FileSystem(ThreadsDriver(2)) as fs:
            writer = self.writer(fs, options)
            await writer.recover()
            await writer.sweep(["INBOX"])
            done = await writer.maintain()
        assert done.failed == 0
        return done.removed, done.left, done.recovered


def message(number: int) -> NewMessage:
    return NewMessage(b"Subject: %d\n\ntext\n" % number)


def tick() -> None:
    """Until the clock of the file system has gone on."""
    time.sleep(0.02)


# -- messages without a record -----------------------------------------------------------------------------


@BOTH
@NEIGHBOURS
async def test_messages_whose_index_is_lost_stay_and_nothing_is_written(
    kind: Kind, neighbour: Neighbour, tmp_path: Path
) -> None:
    place = await Place(kind, tmp_path).make()
    for path in place.root.rglob("dovecot*index*"):
        path.unlink()
    before = place.messages()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs, WriteOptions(neighbour))
        await writer.recover()
        with pytest.raises(IndexMissing, match=r"INDEX=.*dboxfs rescue"):
            await writer.save("INBOX", [message(9)])
        if neighbour is Neighbour.ALONE:
            await writer.maintain()
    assert place.messages() == before
    assert not list(place.root.rglob("*.index.log"))


@BOTH
async def test_snapshot_without_its_log_is_not_forgotten(kind: Kind, tmp_path: Path) -> None:
    place = await Place(kind, tmp_path).make()
    log = (
        place.root / "storage/dovecot.map.index.log"
        if kind is Kind.MDBOX
        else place.inbox / "dovecot.index.log"
    )
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs, WriteOptions(Neighbour.ALONE, rewrite_after=1))
        await writer.save("INBOX", [message(4)])
    assert log.with_suffix("").exists()
    log.unlink()
    async with FileSystem(ThreadsDriver(2)) as fs:
        with pytest.raises(IndexMissing, match="is missing"):
            await place.writer(fs).save("INBOX", [message(5)])
    assert not log.exists()


async def test_messages_that_are_newer_than_the_index_stay(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    shutil.copytree(place.inbox, tmp_path / "older")
    async with FileSystem(ThreadsDriver(2)) as fs:
        await place.writer(fs).save("INBOX", [message(n) for n in range(4, 9)])
    for name in ("dovecot.index.log",):
        shutil.copy2(tmp_path / "older" / name, place.inbox / name)
    async with FileSystem(ThreadsDriver(2)) as fs:
        await place.writer(fs).save("INBOX", [message(9)])
    before = place.messages()
    assert len(before) == 9
    removed, left, _ = await place.maintain()
    assert (removed, left) == (0, 5)
    assert place.messages() == before


async def test_message_that_was_put_back_by_hand_survives_every_maintenance(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make(5)
    file = place.inbox / "u.2"
    shutil.copy2(file, tmp_path / "backup")
    tick()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.expunge("INBOX", [2])
        assert not file.exists()
        tick()
        shutil.copy2(tmp_path / "backup", file)
        for uid in (3, 4):
            assert (await writer.maintain()).left == 1
            tick()
            await writer.expunge("INBOX", [uid])
            await writer.set_flags("INBOX", [1], add=8)
    assert await place.maintain() == (0, 1, 0)
    assert await place.maintain(OLD) == (0, 1, 0)
    assert file.read_bytes() == (tmp_path / "backup").read_bytes()


async def test_file_that_an_expunge_has_left_goes(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    tick()
    faults = FaultsDriver(
        ThreadsDriver(1), [Fault("unlink", 1, error=5), Fault("stat", 99, error=5)], depth=1
    )
    async with FileSystem(faults) as fs:
        await place.writer(fs).expunge("INBOX", [2])
    assert (place.inbox / "u.2").exists()
    assert await place.maintain() == (1, 0, 0)
    assert sorted(os.path.basename(path) for path in place.messages()) == ["u.1", "u.3"]


async def test_files_of_messages_that_a_dead_writer_has_expunged_go_with_the_next_one_beside_a_dovecot(
    tmp_path: Path,
) -> None:
    place, options = await Place(Kind.SDBOX, tmp_path).make(6), WriteOptions()
    tick()
    faults = FaultsDriver(ThreadsDriver(1), [Fault("unlink", 1, crash=Crash.BEFORE)], depth=1)
    async with FileSystem(faults) as fs:
        with pytest.raises(OSError, match="Input/output error"):
            await place.writer(fs, options).expunge("INBOX", [2, 4, 5], execute=True)
    assert faults.crashed
    assert len(place.messages()) == 6
    shutil.copy2(place.inbox / "u.4", tmp_path / "backup")
    (place.inbox / "u.4").unlink()
    tick()
    shutil.copy2(tmp_path / "backup", place.inbox / "u.4")  # a user wants it back
    async with FileSystem(ThreadsDriver(2)) as fs:
        await place.writer(fs, options).recover()
    assert sorted(os.path.basename(path) for path in place.messages()) == ["u.1", "u.3", "u.4", "u.6"]


async def test_file_that_could_not_be_removed_is_removed_by_the_same_writer_whatever_came_since(
    tmp_path: Path,
) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    faults = FaultsDriver(ThreadsDriver(1), [Fault("unlink", 1, error=5)], depth=1)
    async with FileSystem(faults) as fs:
        writer = place.writer(fs)
        await writer.expunge("INBOX", [2])
        await writer.set_flags("INBOX", [1], add=8)
        done = await writer.maintain()
    assert (done.removed, done.left) == (1, 0)
    assert not (place.inbox / "u.2").exists()


@pytest.mark.parametrize("change", ["save", "expunge"])
async def test_file_that_could_not_be_removed_goes_with_the_next_change_of_its_mailbox(
    tmp_path: Path, change: str
) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    faults = FaultsDriver(ThreadsDriver(1), [Fault("unlink", 1, error=5)], depth=1)
    async with FileSystem(faults) as fs:
        writer = place.writer(fs, WriteOptions())  # beside a Dovecot
        await writer.expunge("INBOX", [2])
        assert (place.inbox / "u.2").exists()
        if change == "save":
            await writer.save("INBOX", [message(9)])
        else:
            await writer.expunge("INBOX", [1])
    assert not (place.inbox / "u.2").exists()


def a_log(*transactions: list[bytes], seq: int = 2, before: int = 0) -> bytes:
    header = encode_log_header(LogHeader(indexid=7, file_seq=seq, prev_file_seq=before))
    return header + b"".join(encode_transaction(records) for records in transactions)


def appended(*uids: int) -> bytes:
    return encode_record(
        RecordType.APPEND, b"".join(uid.to_bytes(4, "little") + bytes(4) for uid in uids), True
    )


def gone(*uids: int, external: bool = True) -> bytes:
    entries = [(uid, bytes(16)) for uid in uids]
    return encode_record(RecordType.EXPUNGE_GUID, payload.expunge_guid(entries), external=external)


FLAGS = encode_record(RecordType.FLAG_UPDATE, payload.flag_update([(1, 1)], 8, 0))
TAIL = encode_record(RecordType.HEADER_UPDATE, payload.tail_update(40), external=True)


def test_expunge_of_the_last_transaction_was_when_the_log_was_written() -> None:
    log = LogBytes(a_log([appended(1, 2, 3)], [gone(1)], [gone(2), TAIL], [TAIL]), 500)
    assert expunged_since([1, 2, 3], log) == {1: 0, 2: 500}


def test_expunge_in_a_log_was_after_the_log_before_it_ended() -> None:
    older = LogBytes(a_log([appended(1, 2, 3)], [gone(1)], [FLAGS]), 400)
    log = LogBytes(a_log([gone(2)], [FLAGS], seq=3, before=2), 500)
    assert expunged_since([1, 2, 3], log, older) == {1: 0, 2: 400}
    stranger = LogBytes(a_log([gone(1)], seq=9), 400)
    assert expunged_since([1, 2, 3], log, stranger) == {2: 0}


def test_requests_prove_nothing_and_an_append_takes_an_expunge_back() -> None:
    log = LogBytes(a_log([gone(1, external=False)], [gone(2)], [appended(2)]), 500)
    assert expunged_since([1, 2], log) == {}


def test_old_form_of_an_expunge_counts_too() -> None:
    record = encode_record(
        RecordType.EXPUNGE, (3).to_bytes(4, "little") + (5).to_bytes(4, "little"), external=True
    )
    assert expunged_since([2, 3, 5, 6], LogBytes(a_log([record]), 500)) == {3: 500, 5: 500}


@BOTH
async def test_mailbox_with_the_index_of_the_other_format_is_not_written(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    place = await Place(kind, tmp_path / "a").make()
    other = await Place(Kind.SDBOX if kind is Kind.MDBOX else Kind.MDBOX, tmp_path / "b").make()
    shutil.copytree(other.inbox, place.root / "mailboxes/Work/dbox-Mails")
    before = place.messages()
    async with FileSystem(ThreadsDriver(2)) as fs:
        with pytest.raises(CorruptFile, match=f"Work has the index of an {other.location.kind.value}"):
            await place.writer(fs).save("Work", [message(9)])
    assert place.messages() == before


async def test_errors_name_mailboxes_as_people_do(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        with pytest.raises(NoSuchMailbox, match="Trés/Là: no such mailbox"):
            await writer.save("Tr&AOk-s/L&AOA-", [message(9)])


# -- deleting a mailbox ------------------------------------------------------------------------------------


def put_back(place: Place) -> Path:
    shutil.copy2(place.inbox / "u.1", place.root / "mailboxes/Work/dbox-Mails/u.7")
    return place.root / "mailboxes/Work/dbox-Mails/u.7"


def broken(place: Place) -> Path:
    shutil.copy2(place.inbox / "u.1", place.root / "mailboxes/Work/dbox-Mails/u.7.broken")
    return place.root / "mailboxes/Work/dbox-Mails/u.7.broken"


def deeper(place: Place) -> Path:
    shutil.copytree(place.inbox, place.root / "mailboxes/Work/dbox-Mails/copy")
    return place.root / "mailboxes/Work/dbox-Mails/copy/u.1"


@pytest.mark.parametrize("only_empty", [True, False], ids=["rmdir", "delete"])
@pytest.mark.parametrize("put", [put_back, broken, deeper])
async def test_deleting_a_mailbox_never_takes_a_message_file_that_its_index_does_not_know(
    put: Callable[[Place], Path], only_empty: bool, tmp_path: Path
) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.create_mailbox("Work")
        path = put(place)
        with pytest.raises(MailboxInUse, match=re.escape(str(path))):
            await writer.delete_mailbox("Work", only_empty=only_empty)
        assert path.exists()
        await writer.save("Work", [message(1)])  # it is as alive as before
        os.rename(path, tmp_path / "away")
        if put is deeper:
            shutil.rmtree(path.parent)
        await writer.delete_mailbox("Work")
    assert not (place.root / "mailboxes/Work").exists()
    assert not (place.root / "..DOVECOT-TrasH").exists()


async def test_mailbox_that_is_marked_as_deleted_keeps_messages_that_were_put_into_it(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    async with FileSystem(ThreadsDriver(2)) as fs:
        await place.writer(fs).create_mailbox("Work")
        log = place.root / "mailboxes/Work/dbox-Mails/dovecot.index.log"
        with log.open("ab") as file:
            file.write(encode_record(RecordType.INDEX_DELETED, bytes(4), external=True))
        path = put_back(place)
        await place.writer(fs).recover()
        assert path.exists()
        path.unlink()
        await place.writer(fs).recover()
    assert not (place.root / "mailboxes/Work").exists()


async def test_trash_with_messages_in_it_stays(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    trash = place.root / "..DOVECOT-TrasH"
    shutil.copytree(place.inbox, trash / "0123")
    (trash / "4567").mkdir()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.create_mailbox("Work")
        await writer.delete_mailbox("Work")
    assert sorted(entry.name for entry in trash.iterdir()) == ["0123"]
    assert (trash / "0123/u.1").exists()


# -- temporary files ---------------------------------------------------------------------------------------


@BOTH
async def test_only_what_dboxfs_and_dovecot_call_temporary_is_cleaned(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await Place(kind, tmp_path).make()
    indexes = place.root / "storage" if kind is Kind.MDBOX else place.inbox
    kept = [".temp.notes", "thesis.newlock", "my.index.tmp", "notes.index.log.newlock"]
    monkeypatch.setattr("dboxfs.store.write.maintain.DOTLOCK_STALE", -1)
    for name in (*kept, ".temp.1.P1Q1M1.host"):
        (indexes / name).write_bytes(b"something")
    (indexes / ".temp.2.P1Q1M1.host").symlink_to("/etc/hostname")
    removed, _, _ = await place.maintain(OLD)
    names = {path.name for path in indexes.iterdir()}
    assert removed == 1
    assert {*kept, ".temp.2.P1Q1M1.host"} <= names
    assert ".temp.1.P1Q1M1.host" not in names


@BOTH
async def test_unfinished_halves_of_an_index_go_under_its_lock_when_they_are_old(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await Place(kind, tmp_path).make()
    directory, stem = place.inbox, "dovecot.index"
    if kind is Kind.MDBOX:
        directory, stem = place.root / "storage", "dovecot.map.index"
    log, snapshot = directory / f"{stem}.log.newlock", directory / f"{stem}.tmp"
    log.write_bytes(b"half")
    snapshot.write_bytes(b"half")
    assert (await place.maintain())[0] == 0
    assert not log.exists()  # its maker holds the log's lock, and nobody did
    assert snapshot.exists()
    monkeypatch.setattr("dboxfs.store.write.maintain.DOTLOCK_STALE", -1)
    assert (await place.maintain())[0] == 1
    assert not snapshot.exists()


async def test_a_temporary_file_of_a_living_process_stays_however_old(tmp_path: Path) -> None:
    place = await Place(Kind.SDBOX, tmp_path).make()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs, OLD)
        spool = writer.spool("INBOX")
        await spool.write_all(b"x" * 1000)
        await spool.settle()
        (path,) = place.inbox.glob(".temp.*")
        assert (await writer.maintain()).removed == 0
        assert path.exists()
        spool.close()


# -- ends of files -----------------------------------------------------------------------------------------


async def older_map(place: Place, tmp_path: Path) -> Path:
    """m.1 with two messages that the map does not know."""
    storage = place.root / "storage"
    shutil.copy2(storage / "dovecot.map.index.log", tmp_path / "map")
    async with FileSystem(ThreadsDriver(2)) as fs:
        await place.writer(fs).save("INBOX", [message(4), message(5)])
    shutil.copy2(tmp_path / "map", storage / "dovecot.map.index.log")
    shutil.copy2(place.inbox / "dovecot.index.log", tmp_path / "log")
    return storage / "m.1"


async def recovered(place: Place) -> int:
    async with FileSystem(ThreadsDriver(2)) as fs:
        return await place.writer(fs).recover()


@pytest.mark.parametrize("size", [b"00000000ffffffff", b"zzzzzzzzzzzzzzzz"], ids=["too large", "no number"])
async def test_messages_behind_a_damaged_one_that_the_map_does_not_know_are_not_cut_off(
    size: bytes, tmp_path: Path
) -> None:
    path = await older_map(await Place(Kind.MDBOX, tmp_path).make(), tmp_path)
    data = path.read_bytes()
    at = data.index(b"Subject: 4") - 17
    path.write_bytes(damaged := data[:at] + size + data[at + 16 :])
    assert await recovered(Place(Kind.MDBOX, tmp_path)) == 0
    assert path.read_bytes() == damaged


async def test_message_whose_size_the_map_has_too_small_is_not_cut_off(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(1)
    path, log = place.root / "storage/m.1", place.root / "storage/dovecot.map.index.log"
    whole = path.read_bytes()
    size = (len(whole) - whole.index(b"\n") - 1).to_bytes(4, "little")
    assert log.read_bytes().count(size) == 1
    log.write_bytes(log.read_bytes().replace(size, (20).to_bytes(4, "little")))
    assert await recovered(place) == 0
    assert path.read_bytes() == whole


async def test_end_of_a_save_that_died_is_cut_off(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(1)
    path = place.root / "storage/m.1"
    whole = path.read_bytes()
    for size in (1, 20, 60):
        path.write_bytes(whole + whole[whole.index(b"\n") + 1 :][:size])
        assert await recovered(place) == 1
        assert path.read_bytes() == whole


@BOTH
async def test_log_with_whole_transactions_behind_a_damaged_one_is_not_cut_off(
    kind: Kind, tmp_path: Path
) -> None:
    place = await Place(kind, tmp_path).make(1)
    log = place.inbox / "dovecot.index.log"
    at = log.stat().st_size
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.set_flags("INBOX", [1], add=8)
        await writer.save("INBOX", [message(2), message(3)])
        await writer.set_flags("INBOX", [1], add=4)
    data = bytearray(log.read_bytes())
    data[at + 2] |= 0x7F
    log.write_bytes(data)
    before = place.messages()
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.recover()
        with pytest.raises(CorruptFile, match="dboxfs rescue"):
            await writer.save("INBOX", [message(4)])
        assert (await writer.maintain()).failed == (kind is Kind.SDBOX)
    assert log.read_bytes() == data
    assert place.messages().items() >= before.items()


# -- files of an mdbox -------------------------------------------------------------------------------------


async def test_purge_leaves_a_message_that_a_mailbox_has_whatever_its_count(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(3)
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.expunge("INBOX", [1])
        writer._work.map.forget()
        async with writer._work.map.locked() as index:  # somebody counts too low
            await index.append(log_records.change_refcounts(index.state, [(2, -1)]), tail=True)
        before = place.messages()
        done = await writer.purge()
    assert (done.files, done.messages) == (0, 0)
    assert done.left == ("m.1: map uid 2 counts as dead, but a mailbox has it; dboxfs check says more",)
    assert place.messages() == before


async def test_purge_needs_every_mailbox(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(3)
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.expunge("INBOX", [1])
        await writer.create_mailbox("Work")
        (place.root / "mailboxes/Work/dbox-Mails/dovecot.index.log").write_bytes(b"no log")
        before = place.messages()
        with pytest.raises(CorruptFile, match="Work"):
            await writer.purge()
    assert place.messages() == before


async def test_file_that_was_put_back_after_a_purge_died_stays(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(3)
    old = place.root / "storage/m.1"
    shutil.copy2(old, tmp_path / "backup")
    faults = FaultsDriver(ThreadsDriver(1), [Fault("unlink", None, path="m.1", error=5)], depth=1)
    async with FileSystem(faults) as fs:
        writer = place.writer(fs)
        await writer.expunge("INBOX", [1])
        with pytest.raises(OSError, match="Input/output error"):
            await writer.purge()
    tick()
    os.unlink(old)
    shutil.copy2(tmp_path / "backup", old)
    await recovered(place)
    assert old.read_bytes() == (tmp_path / "backup").read_bytes()
    assert not (place.root / "storage/dboxfs.purge").exists()


async def test_purge_that_died_is_finished(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(3)
    tick()
    faults = FaultsDriver(ThreadsDriver(1), [Fault("unlink", None, path="m.1", error=5)], depth=1)
    async with FileSystem(faults) as fs:
        writer = place.writer(fs)
        await writer.expunge("INBOX", [1])
        with pytest.raises(OSError, match="Input/output error"):
            await writer.purge()
    await recovered(place)
    assert [os.path.basename(path) for path in place.messages()] == ["m.2"]
    assert not (place.root / "storage/dboxfs.purge").exists()


async def test_recount_without_inbox_makes_no_count_smaller(tmp_path: Path) -> None:
    place = await Place(Kind.MDBOX, tmp_path).make(2)
    async with FileSystem(ThreadsDriver(2)) as fs:
        writer = place.writer(fs)
        await writer.create_mailbox("Work")
        await writer.copy("INBOX", [1, 2], "Work")
        async with writer._work.map.locked() as index:  # a writer dies behind this
            await index.append(log_records.change_refcounts(index.state, [(1, 1)]))
    os.rename(place.root / "mailboxes/INBOX", tmp_path / "elsewhere")
    for there, counts in ((False, [3, 2]), (True, [2, 2])):
        if there:
            os.rename(tmp_path / "elsewhere", place.root / "mailboxes/INBOX")
        async with FileSystem(ThreadsDriver(2)) as fs:
            writer = place.writer(fs)
            async with writer._work.map.locked() as index:
                if there:
                    await index.append(log_records.change_refcounts(index.state, [(2, 1)]))
            await writer.recover()
            async with writer._work.locked_map() as mapping:
                assert mapping.refcounts.tolist() == counts
