"""mkdir, rmdir and rename of directories: mailboxes come, go and get other names."""

from __future__ import annotations

import errno
import os

import pytest

from dboxfs.fsapi import Driver
from dboxfs.fsapi.drivers.faults import FaultsDriver
from dboxfs.store import Kind
from dboxfs.vfs.rename import NOREPLACE
from tests.vfs.inside import ONE, TWO, Mounted, Program, mounted, raises


async def test_mkdir_makes_a_mailbox(m: Mounted, p: Program) -> None:
    attrs = await p.mkdir("New")
    assert (await p.names(""), await p.inode("New")) == (["INBOX", "New", "Work"], attrs.inode)
    await p.write("New/note", TWO)
    async with m.again() as again:
        assert await again.program().texts("New") == {"note": TWO}


async def test_mailboxes_are_nested(m: Mounted, p: Program) -> None:
    await p.mkdir("Work/A")
    await p.mkdir("Work/A/B")
    await p.write("Work/A/B/note", TWO)
    assert await p.names("Work") == ["A"]
    assert await p.texts("Work/A/B") == {"note": TWO}
    assert "Work/A/B" in m.store.folders


@pytest.mark.parametrize("name", ["ümlaut", "a b", "&", "100%", "x" * 60, "tilde~", "a.eml", "INBOX2"])
async def test_a_name_is_shown_as_it_is(m: Mounted, p: Program, name: str) -> None:
    await p.mkdir(name)
    assert name in await p.names("")
    await p.write(f"{name}/note", TWO)
    async with m.again() as again:
        assert await again.program().read(f"{name}/note") == TWO


@pytest.mark.parametrize("name", ["5.eml", "x%41", "%2Ex", "nul%00", "inbox", "Inbox"])
async def test_a_name_that_no_mailbox_is_shown_under_is_refused(m: Mounted, p: Program, name: str) -> None:
    with raises(errno.EINVAL):
        await p.mkdir(name)
    with raises(errno.EINVAL):
        await p.rename("Work", name)
    assert await p.names("") == ["INBOX", "Work"]


@pytest.mark.parametrize(("name", "stored"), [("5%2Eeml", "5.eml"), ("x%2541", "x%41")])
async def test_what_cannot_be_shown_is_escaped_reversibly(
    m: Mounted, p: Program, name: str, stored: str
) -> None:
    await p.mkdir(name)
    assert name in await p.names("")
    assert stored in m.store.folders


@pytest.mark.parametrize("path", ["Work", "INBOX", ".dboxfs", "INBOX/1.eml"])
async def test_mkdir_refuses_a_name_that_is_taken(m: Mounted, p: Program, path: str) -> None:
    with raises(errno.EEXIST, errno.EINVAL):
        await p.mkdir(path)


async def test_rmdir_deletes_an_empty_mailbox(m: Mounted, p: Program) -> None:
    await p.rmdir("Work")
    assert await p.names("") == ["INBOX"]
    async with m.again() as again:
        assert await again.program().names("") == ["INBOX"]


async def test_rmdir_refuses_a_mailbox_with_messages_or_children(m: Mounted, p: Program) -> None:
    await p.write("Work/note", TWO)
    with raises(errno.ENOTEMPTY):
        await p.rmdir("Work")
    await p.unlink("Work/note")
    await p.mkdir("Work/Sub")
    with raises(errno.ENOTEMPTY):
        await p.rmdir("Work")
    await p.rmdir("Work/Sub")
    await p.rmdir("Work")


async def test_rmdir_refuses_a_mailbox_that_is_being_written_into(m: Mounted, p: Program) -> None:
    file = await p.create("Work/note")
    with raises(errno.ENOTEMPTY):
        await p.rmdir("Work")
    await file.close()
    await p.unlink("Work/note")
    await p.rmdir("Work")


async def test_rmdir_takes_temporaries_with_it(m: Mounted, p: Program) -> None:
    await p.write("Work/.tmp", TWO)
    await p.rmdir("Work")
    assert await p.names("") == ["INBOX"]


async def test_inbox_stays(m: Mounted, p: Program) -> None:
    await p.unlink("INBOX/1.eml")
    with raises(errno.EOPNOTSUPP, errno.EPERM, errno.EBUSY):
        await p.rmdir("INBOX")
    with raises(errno.EOPNOTSUPP, errno.EPERM, errno.EBUSY):
        await p.rename("INBOX", "Other")
    assert await p.names("") == ["INBOX", "Work"]


async def test_rmdir_of_nothing_is_refused(m: Mounted, p: Program) -> None:
    for path in ("nothing", "INBOX/nothing", "INBOX/1.eml"):
        with raises(errno.ENOENT, errno.ENOTDIR):
            await p.rmdir(path)


async def test_rename_of_a_mailbox_takes_messages_and_children_along(m: Mounted, p: Program) -> None:
    await p.mkdir("Work/Sub")
    await p.write("Work/note", ONE)
    await p.write("Work/Sub/note", TWO)
    before = await p.inode("Work/note"), await p.inode("Work/Sub")
    await p.rename("Work", "Job")
    assert await p.names("") == ["INBOX", "Job"]
    assert (await p.texts("Job"), await p.texts("Job/Sub")) == ({"note": ONE}, {"note": TWO})
    assert (await p.inode("Job/note"), await p.inode("Job/Sub")) == before, "inodes stay"


async def test_a_mailbox_can_be_renamed_into_another(m: Mounted, p: Program) -> None:
    await p.write("Work/note", TWO)
    await p.rename("Work", "INBOX/Work")
    assert await p.names("INBOX") == ["1.eml", "Work"]
    assert await p.texts("INBOX/Work") == {"note": TWO}


async def test_a_mailbox_cannot_be_renamed_into_itself(m: Mounted, p: Program) -> None:
    with raises(errno.EINVAL, errno.EOPNOTSUPP, errno.EEXIST):
        await p.rename("Work", "Work/Sub")
    assert await p.names("") == ["INBOX", "Work"]


async def test_a_mailbox_cannot_take_the_place_of_something(m: Mounted, p: Program) -> None:
    await p.mkdir("Other")
    with raises(errno.EEXIST):
        await p.rename("Work", "Other")
    with raises(errno.ENOTDIR):
        await p.rename("Work", "INBOX/1.eml")
    with raises(errno.EEXIST):
        await p.rename("Work", "Other", NOREPLACE)


async def test_an_open_message_goes_on_while_its_mailbox_is_renamed(m: Mounted, p: Program) -> None:
    await p.write("Work/note", TWO)
    file, directory = await p.open("Work/note"), await m.vfs.opendir(await p.inode("Work"))
    await directory.prepare(0)
    await p.rename("Work", "Job")
    assert await file.read() == TWO
    assert (await file.stat()).size == len(TWO)
    await directory.prepare(1)
    assert [row.name for row in directory.messages(0)] == [b"note"]
    await file.close()


async def test_a_file_being_written_goes_with_its_mailbox(m: Mounted, p: Program) -> None:
    file = await p.create("Work/note")
    await file.write(b"one ")
    await p.rename("Work", "Job")
    await file.write(b"two")
    await file.close()
    assert await p.texts("Job") == {"note": b"one two"}


async def test_a_temporary_goes_with_its_mailbox(m: Mounted, p: Program) -> None:
    await p.write("Work/.tmp", TWO)
    await p.rename("Work", "Job")
    assert await p.read("Job/.tmp") == TWO
    await p.rename("Job/.tmp", "Job/note")
    assert await p.texts("Job") == {"note": TWO}


async def test_a_file_in_a_mailbox_that_somebody_else_has_renamed_is_saved_there(
    m: Mounted, p: Program
) -> None:
    file = await p.create("Work/note")
    await file.write(TWO)
    await m.others.rename_mailbox("Work", "Job")
    await file.close()
    await m.store.refresh_tree()
    assert await p.texts("Job") == {"note": TWO}


async def test_a_file_in_a_mailbox_that_is_gone_is_enoent_at_close(m: Mounted, p: Program) -> None:
    file = await p.create("Work/note")
    await file.write(TWO)
    await m.others.delete_mailbox("Work")
    await m.others.create_mailbox("Work")
    await m.follow("Work")
    with raises(errno.ENOENT):
        await file.close()
    assert await m.stored("Work") == []


async def test_a_request_by_the_old_inode_finds_a_mailbox_that_somebody_else_renames(
    m: Mounted, p: Program
) -> None:
    await p.write("Work/note", TWO)
    directory, message = await p.inode("Work"), await p.inode("Work/note")
    await m.others.rename_mailbox("Work", "Job")
    await m.store.refresh_tree()
    assert (await m.vfs.lookup(directory, b"note", p.pid)).inode == message
    assert (await m.vfs.getattr(message)).size == len(TWO)


async def test_a_mailbox_made_again_under_the_same_name_has_another_inode(m: Mounted, p: Program) -> None:
    before = await p.inode("Work")
    await p.rmdir("Work")
    await p.mkdir("Work")
    assert await p.inode("Work") != before


async def test_a_message_gives_way_to_a_mailbox_of_its_name(m: Mounted, p: Program) -> None:
    await p.write("Work/foo", TWO)
    await m.others.create_mailbox("Work/foo")
    await m.store.refresh_tree()
    assert await p.names("Work") == ["1.eml", "foo"]
    assert await p.read("Work/1.eml") == TWO
    await m.others.delete_mailbox("Work/foo")
    await m.store.refresh_tree()
    assert await p.texts("Work") == {"foo": TWO}


async def test_the_kernel_is_not_told_of_a_directory_that_it_takes_away(m: Mounted, p: Program) -> None:
    await p.rmdir("Work")
    assert [entry for entry in m.told.entries if entry[1] == b"Work"] == []


async def test_the_kernel_is_told_of_a_directory_that_others_take_away(m: Mounted, p: Program) -> None:
    await m.others.delete_mailbox("Work")
    await m.store.refresh_tree()
    assert (1, b"Work", 0) in m.told.entries


async def test_a_parent_without_messages_holds_no_files(m: Mounted, p: Program) -> None:
    await m.others.create_mailbox("Above/Below")
    await m.others.delete_mailbox("Above")
    await m.store.refresh_tree()
    if m.folder("Above").mailbox is None:
        with raises(errno.EPERM):
            await p.create("Above/note")
        assert await p.names("Above") == ["Below"]
        await p.rename("Above", "Else")
        assert await p.exists("Else/Below")


async def test_the_root_and_the_control_directory_cannot_be_changed(m: Mounted, p: Program) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR):
        with raises(errno.EACCES):
            await m.vfs.open(1, flags, p.pid)
    with raises(errno.ENOENT, errno.EPERM):
        await p.unlink(".dboxfs/stats.json")


async def test_a_mailbox_is_made_renamed_and_removed_without_a_look_at_every_other_one(
    kind: Kind, autojump_clock: object
) -> None:
    """Otherwise the cost of a restore grows with the square of the number of mailboxes."""
    drivers = list[FaultsDriver]()

    def counted(driver: Driver) -> Driver:
        drivers.append(FaultsDriver(driver))
        return drivers[-1]

    async with mounted(kind, faults=counted) as m:
        p, looks = m.program(), list[int]()
        for number in range(20):
            await p.mkdir(f"Many{number}")
            await p.mkdir(f"Many{number}/Sub")
            before = drivers[0].counts["listdir"]
            await p.rename(f"Many{number}/Sub", f"Many{number}/Renamed")
            await p.mkdir("Short")
            await p.rmdir("Short")
            looks.append(drivers[0].counts["listdir"] - before)
        assert 0 < looks[-1] == looks[0]
        assert len(await p.names("")) == 2 + 20
        assert await p.names("Many7") == ["Renamed"]
