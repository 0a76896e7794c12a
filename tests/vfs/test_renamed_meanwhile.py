"""A mailbox is renamed by another program while a request about it is carried out: the request succeeds."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from dboxfs.store import Kind, open_store
from dboxfs.store.location import TreeLayout
from dboxfs.store.write import StoreWriter
from tests.vfs.inside import ONE, TWO, Mounted, Program, mounted


def renamed_behind(monkeypatch: pytest.MonkeyPatch, m: Mounted, change: str, old: str, new: str) -> None:
    """As soon as *change* of a writer is done, the mailbox *old* is called *new*, and the mount knows."""
    real = getattr(StoreWriter, change)

    async def changed(self: StoreWriter, *args: object, **kwargs: object) -> object:
        answer = await real(self, *args, **kwargs)
        if old in m.store.folders:
            await m.others.rename_mailbox(old, new)
            await m.store.refresh_tree()
        return answer

    monkeypatch.setattr(StoreWriter, change, changed)


@pytest.mark.parametrize("over", [False, True], ids=["new", "over"])
async def test_a_message_that_is_moved_is_in_its_target_whatever_that_is_called_by_then(
    m: Mounted, p: Program, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if over:
        await p.write("Work/note", TWO)
    renamed_behind(monkeypatch, m, "move", "Work", "Job")
    await p.rename("INBOX/1.eml", "Work/note")
    assert (await p.texts("Job"), await p.names("INBOX")) == ({"note": ONE}, [])


async def test_a_message_that_is_moved_has_left_its_source_whatever_that_is_called_by_then(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await p.write("Work/note", TWO)
    renamed_behind(monkeypatch, m, "move", "Work", "Job")
    await p.rename("Work/note", "INBOX/note")
    assert (await p.texts("INBOX"), await p.names("Job")) == ({"1.eml": ONE, "note": TWO}, [])


async def test_a_copy_is_in_its_target_whatever_that_is_called_by_then(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed_behind(monkeypatch, m, "copy", "Work", "Job")
    await p.link("INBOX/1.eml", "Work/note")
    assert await p.texts("Job") == {"note": ONE}


@pytest.mark.parametrize("change", ["replace_flags", "take_place", "save"])
async def test_whatever_changes_a_message_succeeds_in_a_mailbox_that_is_renamed_meanwhile(
    m: Mounted, p: Program, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("one", ONE), ("two", TWO)):
        await p.write(f"Work/{name}", text)
    file = await p.open("Work/one", os.O_WRONLY | os.O_APPEND)
    await file.write(b"more\n")
    renamed_behind(monkeypatch, m, change, "Work", "Job")
    if change == "replace_flags":
        await p.set_xattr("Work/two", "flags", "\\Seen")
        assert await p.xattr("Job/two", "flags") == "\\Seen"
    elif change == "take_place":
        await p.rename("Work/two", "Work/one")
        assert (await p.texts("Job"))["one"] == TWO
    else:
        await file.flush()
        assert await p.texts("Job") == {"one": ONE + b"more\n", "two": TWO}
    await file.close()


async def test_removals_follow_a_mailbox_that_is_renamed_before_they_are_carried_out(
    m: Mounted, p: Program, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        await p.write(f"Work/{number}", ONE)
    for number in range(29):
        await p.unlink(f"Work/{number}")
    await m.others.rename_mailbox("Work", "Job")
    await m.vfs.finish()
    assert [text for _, text in await m.stored("Job")] == [ONE]
    assert caplog.text == ""


@pytest.mark.parametrize("way", ["create", "rename", "link"])
async def test_a_mailbox_of_which_only_the_directory_was_seen_takes_messages(
    m: Mounted, p: Program, way: str
) -> None:
    """Another program makes a mailbox in several steps, and the mount looks between two of them."""
    root = m.location.root
    await m.fs.mkdir(f"{root}/mailboxes/New")
    await m.store.refresh_tree()
    assert m.folder("New").mailbox is None
    await m.others.create_mailbox("Other")
    await m.fs.rename(f"{root}/mailboxes/Other/dbox-Mails", f"{root}/mailboxes/New/dbox-Mails")
    if way == "create":
        await p.write("New/note", ONE)
    elif way == "rename":
        await p.rename("INBOX/1.eml", "New/note")
    else:
        await p.link("INBOX/1.eml", "New/note")
    assert await p.texts("New") == {"note": ONE}


NOTE = b"user.dbox.flags"


async def reads(p: Program, inode: int, directory: int) -> None:
    opened = await p.vfs.open(inode, os.O_RDONLY, p.pid)
    assert await opened.file.read(1 << 20, 0) == TWO
    await opened.file.release()


async def looks(p: Program, inode: int, directory: int) -> None:
    assert (await p.vfs.getattr(inode, p.pid)).size == len(TWO)
    assert (await p.vfs.lookup(directory, b"note", p.pid)).inode == inode


async def reads_attributes(p: Program, inode: int, directory: int) -> None:
    assert await p.vfs.getxattr(inode, b"user.dbox.keywords") == b""
    assert NOTE in await p.vfs.listxattr(inode)
    assert await p.vfs.getxattr(directory, b"user.dbox.subscribed") == b"0"


async def lists(p: Program, inode: int, directory: int) -> None:
    listed = await p.vfs.opendir(directory)
    await listed.prepare(0)
    await listed.sizes(0)
    assert [row.name for row in listed.messages(0)] == [b"note"]


async def marks(p: Program, inode: int, directory: int) -> None:
    await p.rw.setxattr(inode, NOTE, b"\\Seen")
    await p.rw.removexattr(inode, NOTE)
    await p.rw.setxattr(inode, NOTE, b"\\Flagged")
    assert await p.vfs.getxattr(inode, NOTE) == b"\\Flagged"


async def subscribes(p: Program, inode: int, directory: int) -> None:
    await p.rw.setxattr(directory, b"user.dbox.subscribed", b"1")


async def changes_modes(p: Program, inode: int, directory: int) -> None:
    for changed in (inode, directory):
        await p.rw.setattr(changed, None, None, None, p.pid)


async def dates(p: Program, inode: int, directory: int) -> None:
    await p.rw.setattr(inode, None, 1_000_000_000, None, p.pid)
    assert (await p.stat("Job/note")).modified_ns == 10**18


async def cuts(p: Program, inode: int, directory: int) -> None:
    await p.rw.setattr(inode, len(TWO) - 1, None, None, p.pid)
    assert await p.texts("Job") == {"note": TWO[:-1]}


async def appends(p: Program, inode: int, directory: int) -> None:
    opened = await p.vfs.open(inode, os.O_WRONLY | os.O_APPEND, p.pid)
    assert await opened.file.write(b"more\n", len(TWO)) == 5
    await opened.file.flush()
    await opened.file.release()
    assert await p.texts("Job") == {"note": TWO + b"more\n"}


async def makes(p: Program, inode: int, directory: int) -> None:
    opened, _ = await p.rw.create(directory, b"new", os.O_WRONLY, p.pid)
    assert await opened.file.write(ONE, 0) == len(ONE)
    await opened.file.flush()
    await opened.file.release()
    assert await p.texts("Job") == {"note": TWO, "new": ONE}


async def unlinks(p: Program, inode: int, directory: int) -> None:
    await p.rw.unlink(directory, b"note", p.pid)
    assert await p.names("Job") == []


async def renames(p: Program, inode: int, directory: int) -> None:
    await p.rw.rename(directory, b"note", directory, b"other", 0, p.pid)
    assert await p.texts("Job") == {"other": TWO}


async def renames_over(p: Program, inode: int, directory: int) -> None:
    await p.rw.rename(await p.inode("INBOX"), b"1.eml", directory, b"note", 0, p.pid)
    assert await p.texts("Job") == {"note": ONE}


async def moves_out(p: Program, inode: int, directory: int) -> None:
    await p.rw.rename(directory, b"note", await p.inode("INBOX"), b"note", 0, p.pid)
    assert (await p.texts("INBOX"), await p.names("Job")) == ({"1.eml": ONE, "note": TWO}, [])


async def moves_in(p: Program, inode: int, directory: int) -> None:
    await p.rw.rename(await p.inode("INBOX"), b"1.eml", directory, b"one", 0, p.pid)
    assert (await p.texts("Job"), await p.names("INBOX")) == ({"note": TWO, "one": ONE}, [])


async def links(p: Program, inode: int, directory: int) -> None:
    await p.rw.link(inode, await p.inode("INBOX"), b"linked", p.pid)
    await p.rw.link(await p.inode("INBOX/1.eml"), directory, b"one", p.pid)
    assert await p.texts("INBOX") == {"1.eml": ONE, "linked": TWO}
    assert await p.texts("Job") == {"note": TWO, "one": ONE}


async def makes_mailboxes(p: Program, inode: int, directory: int) -> None:
    await p.rw.mkdir(directory, b"sub")
    await p.rw.rmdir(directory, b"sub")


@pytest.mark.parametrize(
    "use",
    [
        reads, looks, reads_attributes, lists, marks, subscribes, changes_modes, dates, cuts, appends, makes,
        unlinks, renames, renames_over, moves_out, moves_in, links, makes_mailboxes,
    ],
)  # fmt: skip
async def test_what_is_looked_up_is_found_under_the_new_name_of_its_mailbox_before_the_mount_hears_of_that(
    m: Mounted, p: Program, use: Callable[[Program, int, int], Awaitable[None]]
) -> None:
    """As the file that a program holds on ext4, where a directory above it is renamed."""
    inode, directory = await p.write("Work/note", TWO), await p.inode("Work")
    await m.others.rename_mailbox("Work", "Job")
    await use(p, inode, directory)


@pytest.mark.parametrize("layout", list(TreeLayout), ids=lambda layout: layout.value)
async def test_a_mailbox_is_renamed_behind_the_change_of_a_message_in_it(
    kind: Kind, layout: TreeLayout, autojump_clock: MockClock
) -> None:
    async with mounted(kind, layout=layout) as m:

        async def there() -> bool:
            async with open_store(m.fs, m.location, follow=False) as fresh:
                return "Job" in fresh.folders

        async with trio.open_nursery() as nursery, m.others.held("Work"):
            nursery.start_soon(m.program().rename, "Work", "Job")
            await trio.sleep(0.1)
            assert not await there()
        assert await there()


TEMPORARY = ".temp."
"""In the names of files that are no messages yet."""

BIG = b"Subject: big\n\n" + b"0123456789abcdef" * (20 << 10)
"""An upload that does not stay in memory."""


@pytest.mark.parametrize("end", ["saved", "removed", "never closed"])
@pytest.mark.parametrize("by", ["this mount", "another program"])
async def test_the_temporary_file_of_an_upload_goes_with_it_also_where_its_mailbox_is_renamed(
    kind: Kind, by: str, end: str
) -> None:
    async with mounted(kind) as m:
        p = m.program()
        file = await p.create("Work/big")
        await file.write(BIG)
        assert any(TEMPORARY in path for path in m.files())
        if by == "this mount":
            await p.rename("Work", "Job")
        else:
            await m.others.rename_mailbox("Work", "Job")
        if end == "saved":
            await file.close()
            assert await p.texts("Job") == {"big": BIG}
        elif end == "removed":
            await m.store.refresh_tree()
            await p.unlink("Job/big")
            await file.close()
        else:
            await m.store.refresh_tree()
    assert not [path for path in m.files() if TEMPORARY in path]


async def test_the_staging_file_of_a_mailbox_that_is_renamed_is_removed_at_the_end(kind: Kind) -> None:
    async with mounted(kind, restore=True) as m:
        p = m.program()
        await p.write("Work/big", BIG)
        assert any(TEMPORARY in path for path in m.files())
        await p.rename("Work", "Job")
        await m.vfs.finish()
        assert [text for _, text in await m.stored("Job")] == [BIG]
    assert not [path for path in m.files() if TEMPORARY in path]
