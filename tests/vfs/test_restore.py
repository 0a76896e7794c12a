"""``-o restore``: what is put back is staged, and becomes messages with the identity that it brings."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
import trio.testing

from dboxfs.dbox.encrypt import Sealing
from dboxfs.dbox.folder_keys import with_new_key
from dboxfs.fsapi import Driver, Fault, FaultsDriver, FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind, open_store
from dboxfs.store.write import Neighbour, NewMessage, WriteOptions
from dboxfs.vfs.drafts import AWAKE
from dboxfs.vfs.staging import UNTOUCHED_SECONDS
from tests.store.write.test_folder_keys import KEYS
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted, raises

GUID = "00112233445566778899aabbccddee%02x"


@pytest.fixture
async def m(kind: Kind, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Mounted]:
    async with mounted(kind, restore=True) as made:
        yield made


async def put_back(p: Program, path: str, text: bytes, uid: int, flags: str = "") -> None:
    """rsync -X: a temporary, its attributes, its date, a rename."""
    above, _, name = path.rpartition("/")
    temporary = f"{above}/.{name}.x7Qz"
    file = await p.create(temporary, os.O_EXCL)
    await file.write(text)
    await file.close()
    for attribute, value in {"flags": flags, "guid": GUID % uid, "uid": str(uid), "modseq": "9"}.items():
        await p.set_xattr(temporary, attribute, value)
    await p.set_xattr(temporary, "saved", "2001-02-03T04:05:06Z")
    await p.set_received(temporary, JULY + uid)
    await p.rename(temporary, path)


async def commit(m: Mounted) -> dict[str, object]:
    """``dboxfs commit``; gives restore.json."""
    assert m.vfs.staging is not None
    await m.vfs.staging.commit()
    return m.vfs.staging.describe()


async def shown(m: Mounted, name: str) -> list[tuple[int, str, int, int]]:
    """uid, guid, received and saved date of every message, as a store that is opened now has them."""
    async with open_store(m.fs, m.location, follow=False) as fresh:
        box = fresh.folders[name].mailbox
        assert box is not None
        found = []
        for uid in box.uids.tolist():
            facts, guid = await box.facts_of(uid), (await box.details(uid)).metadata.guid or b""
            found.append((uid, guid.decode(), facts.received, facts.saved))
        return found


async def test_messages_come_back_with_uid_guid_flags_and_dates_whatever_the_order(
    m: Mounted, p: Program, q: Program
) -> None:
    for uid in (10, 2, 31, 4):
        await put_back(p, f"Work/{uid}.eml", TWO * uid, uid, "\\Seen" if uid == 4 else "")
    assert m.uids("Work") == []
    assert await q.texts("Work") == {f"{uid}.eml": TWO * uid for uid in (10, 2, 31, 4)}
    assert await q.xattr("Work/4.eml", "flags") == "\\Seen"
    report = await commit(m)
    assert await m.stored("Work") == [(uid, TWO * uid) for uid in (2, 4, 10, 31)]
    assert await shown(m, "Work") == [(uid, GUID % uid, JULY + uid, 981_173_106) for uid in (2, 4, 10, 31)]
    assert await m.flags(4, "Work") == (("\\Seen",), ())
    assert (report["messages"], report["kept_uid"], report["kept_guid"], report["staged"]) == (4, 4, 4, 0)
    assert report["not_kept"] == []
    assert await q.texts("Work") == {f"{uid}.eml": TWO * uid for uid in (10, 2, 31, 4)}


async def test_the_end_of_the_mount_commits_what_is_staged(kind: Kind) -> None:
    async with mounted(kind, restore=True) as m:
        await put_back(m.program(), "Work/7.eml", TWO, 7)
        tree = m.tree
    async with mounted(kind, driver=MemoryDriver(tree=tree)) as m:
        assert await m.stored("Work") == [(7, TWO)]


async def test_a_staged_file_is_changed_again_and_again_and_is_one_message(m: Mounted, p: Program) -> None:
    """restic opens a file for each part, and gives it its attributes in the end, by name."""
    large = TWO * 20_000
    for at in range(0, len(large), 300_000):
        flags = os.O_TRUNC if not at else 0
        file = await (p.create("Work/big", flags) if not at else p.open("Work/big", os.O_WRONLY))
        await file.write(large[at : at + 300_000], at)
        await file.close()
    await p.set_received("Work/big", JULY)
    await p.set_xattr("Work/big", "guid", "a guid of another program")
    await p.set_xattr("Work/big", "uid", "12")
    assert (await p.stat("Work/big")).modified_ns == JULY * 10**9
    await commit(m)
    assert await m.stored("Work") == [(12, large)]
    assert (await shown(m, "Work"))[0][:3] == (12, "a guid of another program", JULY)
    assert await p.names("Work") == ["big"]


async def test_a_mailbox_comes_back_with_its_identity_and_next_uid(m: Mounted, p: Program) -> None:
    await p.mkdir("New")
    await put_back(p, "New/3.eml", TWO, 3)
    for name, value in {"guid": "ab" * 16, "uidvalidity": "4711", "uidnext": "50", "messages": "9"}.items():
        await p.set_xattr("New", name, value)
    assert await p.xattr("New", "uidvalidity") == "4711"
    await p.mkdir("Empty")
    await p.set_xattr("Empty", "uidvalidity", "4712")
    await commit(m)
    async with open_store(m.fs, m.location, follow=False) as fresh:
        box, empty = fresh.folders["New"].mailbox, fresh.folders["Empty"].mailbox
        assert box is not None
        assert empty is not None
        assert (box.guid, box.uid_validity, box.uid_next) == (b"\xab" * 16, 4711, 50)
        assert empty.uid_validity == 4712
    assert await p.texts("New") == {"3.eml": TWO}


async def identity(m: Mounted, name: str) -> tuple[bytes | None, int]:
    """guid and UIDVALIDITY, as a store that is opened now has them."""
    async with open_store(m.fs, m.location, follow=False) as fresh:
        box = fresh.folders[name].mailbox
        assert box is not None
        return box.guid, box.uid_validity


async def test_an_identity_that_comes_after_the_messages_is_given_with_their_names(
    m: Mounted, p: Program
) -> None:
    await put_back(p, "Work/letter", TWO, 3)
    await put_back(p, "Work/7.eml", ONE, 7)
    await commit(m)
    await p.set_xattr("Work", "guid", "ab" * 16)
    await p.set_xattr("Work", "uidvalidity", "4711")
    await put_back(p, "Work/8.eml", ONE, 8)
    assert (await commit(m))["not_kept"] == []
    assert await identity(m, "Work") == (b"\xab" * 16, 4711)
    assert await p.texts("Work") == {"letter": TWO, "7.eml": ONE, "8.eml": ONE}
    async with m.again() as other:
        assert await other.program().names("Work") == ["7.eml", "8.eml", "letter"]


async def test_a_message_without_a_uid_gets_none_that_the_mailbox_has_given_before(
    m: Mounted, p: Program
) -> None:
    await put_back(p, "Work/7.eml", TWO, 7)
    await p.write("Work/letter", ONE)
    await p.write("Work/more", ONE)
    await p.set_xattr("Work", "uidnext", "50")
    await commit(m)
    assert await m.stored("Work") == [(7, TWO), (50, ONE), (51, ONE)]


async def test_a_mailbox_that_has_messages_of_others_stays_what_it_is(m: Mounted, p: Program) -> None:
    before = await identity(m, "INBOX")
    await put_back(p, "INBOX/7.eml", TWO, 7)
    await p.set_xattr("INBOX", "guid", "ab" * 16)
    await p.set_xattr("INBOX", "uidvalidity", "4711")
    report = await commit(m)
    assert await identity(m, "INBOX") == before
    why = "the mailbox has messages that were there before"
    assert report["not_kept"] == [
        {"mailbox": "INBOX", "name": "", "what": "guid and UIDVALIDITY", "why": why}
    ]


class KeyOfEachFolder:
    """As ``encrypt=FILE`` with the user's keys of folders."""

    async def seals(self, fs: FileSystem, lock_timeout: float, guid: bytes) -> Sealing:
        return Sealing(with_new_key(KEYS, guid)[1])

    async def have(self, fs: FileSystem, guid: bytes, ids: Sequence[bytes]) -> bool:
        return False


async def test_a_mailbox_whose_messages_are_encrypted_with_the_key_of_its_guid_keeps_that(
    kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    options = WriteOptions(Neighbour.ALONE, encrypt=KeyOfEachFolder())
    async with mounted(kind, options, restore=True) as m:
        p = m.program()
        await put_back(p, "Work/7.eml", TWO, 7)
        await commit(m)
        before, _ = await identity(m, "Work")
        await p.set_xattr("Work", "guid", "ab" * 16)
        await p.set_xattr("Work", "uidvalidity", "4711")
        await put_back(p, "Work/8.eml", TWO, 8)
        report = await commit(m)
        assert await identity(m, "Work") == (before, 4711)
        why = "its messages are encrypted with the key of the guid it has"
        assert report["not_kept"] == [{"mailbox": "Work", "name": "", "what": "guid", "why": why}]
        await p.mkdir("Empty")
        await p.set_xattr("Empty", "guid", "cd" * 16)
        await commit(m)
        assert (await identity(m, "Empty"))[0] == b"\xcd" * 16


async def test_a_mailbox_that_is_renamed_or_removed_takes_the_identity_that_was_set_along(
    m: Mounted, p: Program
) -> None:
    for name in ("Work/Old", "Work/Other"):
        await p.mkdir(name)
        await p.set_xattr(name, "guid", GUID % len(name))
        await p.set_xattr(name, "uidvalidity", "77")
    await p.rename("Work/Old", "Done")
    await p.rmdir("Work/Other")
    found = await commit(m)
    assert (found["failed"], found["mailboxes"]) == ({}, 1)
    async with open_store(m.fs, m.location, follow=False) as fresh:
        box = fresh.folders["Done"].mailbox
        assert box is not None
        assert (box.guid, box.uid_validity) == (bytes.fromhex(GUID % len("Work/Old")), 77)


async def test_two_mailboxes_never_get_one_guid(m: Mounted, p: Program) -> None:
    guid = await p.xattr("INBOX", "guid")
    await p.mkdir("Old")
    await p.set_xattr("Old", "guid", guid)
    await p.set_xattr("Old", "uidvalidity", "4711")
    report = await commit(m)
    assert report["not_kept"] == [{"mailbox": "Old", "name": "", "what": "guid", "why": "INBOX has it"}]
    assert (await identity(m, "Old"))[1] == 4711
    assert (await identity(m, "Old"))[0] not in (None, (await identity(m, "INBOX"))[0])


async def test_without_attributes_the_names_say_the_uids_and_the_order(m: Mounted, p: Program) -> None:
    for name in ("10.eml", "9.eml", "letter", "100.eml"):
        await p.write(f"Work/{name}", name.encode())
    report = await commit(m)
    assert await m.stored("Work") == [(9, b"9.eml"), (10, b"10.eml"), (100, b"100.eml"), (101, b"letter")]
    assert await p.names("Work") == ["10.eml", "100.eml", "9.eml", "letter"]
    assert report["kept_uid"] == 3


async def test_uids_that_are_given_already_are_told(m: Mounted, p: Program) -> None:
    await put_back(p, "INBOX/one", TWO, 1)
    await put_back(p, "INBOX/five", ONE, 5)
    report = await commit(m)
    assert await m.stored("INBOX") == [(1, ONE), (5, ONE), (6, TWO)]
    assert report["not_kept"] == [
        {"mailbox": "INBOX", "name": "one", "what": "uid 1, is 6", "why": "it is another message's"}
    ]


async def test_a_uid_that_an_expunged_message_had_is_not_given_again(m: Mounted, p: Program) -> None:
    await m.others.save("Work", [NewMessage(TWO), NewMessage(ONE)])
    await m.others.expunge("Work", [1])
    await m.follow("Work")
    await put_back(p, "Work/back", TWO, 1)
    report = await commit(m)
    assert await m.stored("Work") == [(2, ONE), (3, TWO)]
    assert report["not_kept"] == [
        {"mailbox": "Work", "name": "back", "what": "uid 1, is 3", "why": "the mailbox is beyond it"}
    ]


async def test_a_message_that_it_has_not_brought_is_never_replaced_or_removed(m: Mounted, p: Program) -> None:
    with raises(errno.EEXIST):
        await p.write("INBOX/1.eml", TWO)
    with raises(errno.EEXIST):
        await p.open("INBOX/1.eml", os.O_WRONLY)
    await p.write("INBOX/.new", TWO)
    with raises(errno.EEXIST):
        await p.rename("INBOX/.new", "INBOX/1.eml")
    with raises(errno.EEXIST):
        await p.unlink("INBOX/1.eml")
    for size in (0, 3):
        with raises(errno.EEXIST):
            await p.truncate("INBOX/1.eml", size)
    with raises(errno.EEXIST):
        await p.set_received("INBOX/1.eml", JULY + 1)
    await p.set_received("INBOX/1.eml", JULY)
    await p.unlink("INBOX/.new")
    await commit(m)
    assert await m.stored() == [(1, ONE)]


async def test_staged_files_are_renamed_replaced_and_removed(m: Mounted, p: Program) -> None:
    await p.write("Work/a", b"a")
    await p.write("Work/b", b"b")
    await p.write("Work/c", b"c")
    await p.rename("Work/a", "Work/b")
    await p.unlink("Work/c")
    await p.write("Work/d", b"d")
    await p.rename("Work/d", "INBOX/d")
    with raises(errno.ENOTEMPTY, errno.EBUSY):
        await p.rmdir("Work")
    assert await p.texts("Work") == {"b": b"a"}
    await commit(m)
    assert (await m.stored("Work"), (await m.stored())[1:]) == ([(1, b"a")], [(2, b"d")])


async def test_a_mailbox_that_nothing_touches_for_a_minute_is_committed(
    kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    async with mounted(kind, restore=True) as m:
        p = m.program()
        await put_back(p, "Work/7.eml", TWO, 7)
        await p.set_xattr("Work", "uidvalidity", "4711")
        await p.set_xattr("Work", "guid", "ab" * 16)
        await p.mkdir("Later")  # its identity may still come
        await put_back(p, "Later/8.eml", TWO, 8)
        await p.write("INBOX/bare", TWO)  # its attributes may still come
        for _ in range(9):
            await trio.sleep(UNTOUCHED_SECONDS / 6)
            await p.write("INBOX/other", TWO)
        assert (m.uids("Work"), m.uids("Later"), m.uids()) == ([7], [], [1])
        await trio.sleep(2 * UNTOUCHED_SECONDS)
        assert m.uids() == [1, 2, 3]


async def test_what_a_dovecot_would_misread_is_refused_at_the_close(m: Mounted, p: Program) -> None:
    file = await p.create("Work/new")
    await file.write(b"\x1f\x8b\x08 not compressed")
    with raises(errno.EINVAL):
        await file.close()
    await put_back(p, "Work/7.eml", TWO, 7)
    report = await commit(m)
    assert (await m.stored("Work"), report["failed"]) == ([(7, TWO)], {})


async def test_many_files_take_one_temporary_file_a_mailbox(m: Mounted, p: Program) -> None:
    for number in range(1, 120):
        await put_back(p, f"Work/{number}.eml", b"%d" % number * 150_000, number)
    files = [node for node in _files(m) if len(node) > 1_000_000]
    assert len(files) == 1, "what doesn't fit the memory is in one file"
    await commit(m)
    assert [uid for uid, _ in await m.stored("Work")] == list(range(1, 120))
    assert (await m.stored("Work"))[-1][1] == b"119" * 150_000


def _files(m: Mounted) -> list[bytearray]:
    found, todo = [], [m.tree.root]
    while todo:
        node = todo.pop()
        todo += node.entries.values()
        found.append(node.data)
    return found


async def test_an_empty_inbox_can_be_removed_and_made_again(kind: Kind) -> None:
    async with mounted(kind) as m:
        await m.program().unlink("INBOX/1.eml")
        tree = m.tree
    async with mounted(kind, driver=MemoryDriver(tree=tree), restore=True) as m:
        p = m.program()
        await p.rmdir("INBOX")
        assert not await p.exists("INBOX")
        await p.mkdir("INBOX")
        await put_back(p, "INBOX/7.eml", TWO, 7)
        with raises(errno.EOPNOTSUPP, errno.ENOTEMPTY, errno.EBUSY):
            await p.rmdir("INBOX")
        await commit(m)
        assert await m.stored() == [(7, TWO)]


async def test_the_same_backup_completes_what_is_there_and_brings_nothing_twice(
    kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    """As after a restore that was killed before it had given its messages their names."""
    async with mounted(kind, restore=True) as m:
        await put_back(m.program(), "Work/7.eml", TWO, 7)
        tree = m.tree
    async with mounted(kind, driver=MemoryDriver(tree=tree), restore=True) as m:
        p = m.program()
        for word, value in {"modseq": "77", "location": "elsewhere", "uid": "7", "guid": GUID % 7}.items():
            await p.set_xattr("Work/7.eml", word, value)
        await m.vfs.removexattr(await p.inode("Work/7.eml"), b"user.dbox.saved")
        with raises(errno.EPERM):
            await p.set_xattr("Work/7.eml", "uid", "8")
        await put_back(p, "Work/letter", TWO, 7)
        await put_back(p, "Work/another", TWO + b"more", 7)
        report = await commit(m)
        assert (report["there"], report["messages"]) == (1, 1)
        assert await m.stored("Work") == [(7, TWO), (8, TWO + b"more")]
        assert await p.names("Work") == ["another", "letter"]


async def test_a_parent_without_messages_becomes_the_mailbox_that_is_put_back(m: Mounted, p: Program) -> None:
    await m.others.create_mailbox("Lists/Trio")
    await m.store.refresh_tree()
    assert m.folder("Lists").mailbox is None
    await put_back(p, "Lists/3.eml", TWO, 3)
    await p.set_xattr("Lists", "uidvalidity", "4711")
    await commit(m)
    assert await m.stored("Lists") == [(3, TWO)]
    async with open_store(m.fs, m.location, follow=False) as fresh:
        assert fresh.folders["Lists"].mailbox is not None
        assert fresh.folders["Lists"].mailbox.uid_validity == 4711


async def test_the_kernel_keeps_what_is_staged_until_it_is_told(m: Mounted, p: Program) -> None:
    file = await p.create("Work/note")
    assert (await file.stat()).attr_timeout == 0.0, "only its writer sees it"
    await file.write(TWO)
    await file.close()
    staged = await p.stat("Work/note")
    assert min(staged.entry_timeout, staged.attr_timeout) > 60
    m.told.changed.clear()
    await p.set_xattr("Work/note", "received", "2001-02-03T04:05:06Z")
    assert m.told.changed == [staged.inode]
    m.told.entries.clear()
    await commit(m)
    assert m.told.entries == [(await p.inode("Work"), b"note", 0)]


@pytest.mark.expected_log("could not be committed")
async def test_a_program_that_asks_for_a_commit_hears_of_what_was_not_committed(
    kind: Kind, autojump_clock: trio.testing.MockClock
) -> None:
    disk = FailingDisk()
    async with mounted(kind, faults=disk, restore=True) as m:
        p = m.program()
        await put_back(p, "Work/7.eml", TWO, 7)
        disk.driver.replan([Fault("append", error=errno.ENOSPC)])
        file = await p.open(".dboxfs/commit", os.O_WRONLY)
        with raises(errno.EIO):
            await file.write(b"\n")
        disk.driver.replan([])
        await file.write(b"\n")
        await file.close()
        assert await m.stored("Work") == [(7, TWO)]


class FailingDisk:
    """Gives a mount a driver whose faults can be planned."""

    driver: FaultsDriver

    def __call__(self, driver: Driver) -> Driver:
        self.driver = FaultsDriver(driver, depth=1)
        return self.driver


async def test_a_program_whose_dates_begin_in_1970_does_not_take_an_earlier_one_away(
    m: Mounted, p: Program
) -> None:
    """borg sets the attributes, and then 0 as the date."""
    for name, later in (("old", 0), ("touched", JULY)):
        await p.write(f"Work/{name}", TWO)
        await p.set_xattr(f"Work/{name}", "received", "1960-01-01T00:00:00Z")
        await p.set_received(f"Work/{name}", later)
    await commit(m)
    assert [received for _, _, received, _ in await shown(m, "Work")] == [-315_619_200, JULY]


@pytest.mark.parametrize("uid", [1, AWAKE + 8], ids=["packed", "awake"])
async def test_what_a_program_changes_while_the_mailbox_is_committed_is_changed_in_the_message(
    kind: Kind, autojump_clock: trio.testing.MockClock, uid: int
) -> None:
    disk = FailingDisk()
    async with mounted(kind, faults=disk, restore=True) as m:
        p, done = m.program(), trio.Event()
        for number in range(1, AWAKE + 10):
            await put_back(p, f"Work/{number}.eml", ONE, number, "\\Seen")
        names = [f"Work/{number}.eml" for number in (uid, 9, 10, 11)]
        disk.driver.replan([Fault("append sync", delay=1.0)])

        async def commit_all() -> None:
            await commit(m)
            done.set()

        async def append() -> None:
            await p.append(names[0], b"more\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit_all)
            await trio.sleep(0.5)  # the first bytes of the transaction are being written
            nursery.start_soon(append)
            nursery.start_soon(p.rename, names[1], "Work/other")
            nursery.start_soon(p.unlink, names[2])
            nursery.start_soon(p.set_xattr, names[3], "flags", "\\Answered")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not done.is_set()
        disk.driver.replan([])
        shown_names, stored = set(await p.names("Work")), dict(await m.stored("Work"))
        assert {f"{uid}.eml", "other"} <= shown_names
        assert not {"9.eml", "10.eml"} & shown_names
        assert ONE + b"more\n" in stored.values()
        assert stored[9] == ONE
        assert (await m.flags(11, "Work"))[0] == ("\\Answered",)
        assert len(stored) == AWAKE + 8
