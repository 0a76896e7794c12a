"""What has which name, what a listing shows, and what stat tells: SEMANTICS.md, Names and Attributes."""

from __future__ import annotations

import errno
import stat

import pytest

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from dboxfs.vfs.attrs import LONG, NS, SHORT
from dboxfs.vfs.node import CONTROL, ROOT
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, raises


async def test_a_mailbox_is_a_directory_and_a_message_a_file(m: Mounted, p: Program) -> None:
    inbox, message = await p.stat("INBOX"), await p.stat("INBOX/1.eml")
    assert (stat.S_IFMT(inbox.mode), stat.S_IMODE(inbox.mode)) == (stat.S_IFDIR, 0o700)
    assert (stat.S_IFMT(message.mode), stat.S_IMODE(message.mode)) == (stat.S_IFREG, 0o600)


async def test_a_message_that_nobody_named_is_its_uid(m: Mounted, p: Program) -> None:
    assert await p.names() == ["1.eml"]
    assert await p.read("INBOX/1.eml") == ONE


async def test_size_and_dates_are_exact(m: Mounted, p: Program) -> None:
    found = await p.stat("INBOX/1.eml")
    assert (found.size, found.modified_ns, found.nlink) == (len(ONE), JULY * NS, 1)
    assert abs(found.changed_ns / NS - found.modified_ns / NS) > 1000, "saved today, received in July"


@pytest.mark.parametrize("received", [-5_000_000, 0, 1, JULY, (1 << 31) - 1])
async def test_a_received_date_may_be_of_any_year(m: Mounted, p: Program, received: int) -> None:
    await p.write("INBOX/note", TWO, received=received)
    assert (await p.stat("INBOX/note")).modified_ns == received * NS


async def test_a_directory_has_a_link_for_each_child(m: Mounted, p: Program) -> None:
    assert (await p.stat("Work")).nlink == 2
    await p.mkdir("Work/Sub")
    assert (await p.stat("Work")).nlink == 3


async def test_what_a_listing_does_not_show_does_not_exist(m: Mounted, p: Program) -> None:
    await p.write("INBOX/note", TWO)
    for name in ("2.eml", "uid-1.eml", "uid-2.eml", "01.eml", "1.EML", "0.eml", "4294967296.eml", "x"):
        assert not await p.exists(f"INBOX/{name}"), name
    assert await p.names() == ["1.eml", "note"]


@pytest.mark.parametrize("how", ["rename", "move", "unlink"])
async def test_the_kernel_knows_before_the_answer_that_a_message_has_its_own_name_back(
    m: Mounted, p: Program, how: str
) -> None:
    await p.write("INBOX/3.eml", TWO)  # uid 2
    await m.others.save("INBOX", [NewMessage(ONE)])  # uid 3
    await m.store.refresh_tree()
    await m.store.refresh_mailbox(m.folder("INBOX"))
    assert await p.names() == ["1.eml", "3.eml", "uid-3.eml"]
    inbox = await p.inode("INBOX")
    m.told.looked_up_again.clear()
    if how == "unlink":
        await p.unlink("INBOX/3.eml")
    else:
        await p.rename("INBOX/3.eml", "INBOX/else" if how == "rename" else "Work/else")
    assert (inbox, b"uid-3.eml") in m.told.looked_up_again
    assert await p.read("INBOX/3.eml") == ONE
    assert not await p.exists("INBOX/uid-3.eml")
    m.told.looked_up_again.clear()
    await p.rename("INBOX/1.eml", "INBOX/first")  # its own name: nobody gets it
    assert not m.told.looked_up_again


async def test_a_written_name_stands_for_its_message_whatever_gets_its_number(m: Mounted, p: Program) -> None:
    await p.write("INBOX/3.eml", TWO)  # uid 2
    file = await p.create("INBOX/x", 0)  # uid 3, and no name in the end
    await file.write(b"Subject: three\n\n3\n")
    await file.close()
    assert (await p.texts())["3.eml"] == TWO
    await p.rename("INBOX/x", "INBOX/y")
    assert await p.names() == ["1.eml", "3.eml", "y"]


async def test_a_message_whose_number_is_written_on_another_is_shown_as_uid(m: Mounted, p: Program) -> None:
    await p.write("INBOX/3.eml", TWO)
    await m.others.save("INBOX", [NewMessage(b"Subject: three\n\n3\n")])
    await m.follow()
    assert await p.texts() == {"1.eml": ONE, "3.eml": TWO, "uid-3.eml": b"Subject: three\n\n3\n"}


async def test_a_listing_and_lookups_agree_on_inodes(m: Mounted, p: Program) -> None:
    await p.write("INBOX/note", TWO)
    for name, inode in (await p.listed()).items():
        assert (await p.stat(f"INBOX/{name}")).inode == inode
        assert (await m.vfs.getattr(inode)).inode == inode


async def test_an_inode_is_the_same_at_every_mount(m: Mounted, p: Program) -> None:
    await p.write("INBOX/note", TWO)
    before = await p.listed(), await p.listed("")
    async with m.again() as again:
        other = again.program()
        assert (await other.listed(), await other.listed("")) == before


async def test_written_names_outlast_a_mount(m: Mounted, p: Program) -> None:
    await p.write("INBOX/17.eml", TWO)
    await p.rename("INBOX/1.eml", "INBOX/first letter")
    async with m.again() as again:
        assert await again.program().texts() == {"17.eml": TWO, "first letter": ONE}


async def test_a_listing_shows_dots_then_children_then_messages(m: Mounted, p: Program) -> None:
    await p.mkdir("Work/b")
    await p.mkdir("Work/a")
    await p.write("Work/z", ONE)
    directory = await m.vfs.opendir(await p.inode("Work"))
    await directory.prepare(0)
    above = [(name, attrs.inode) for _, name, attrs in directory.above(0)]
    assert [name for name, _ in above] == [b".", b"..", b"a", b"b"]
    assert dict(above)[b".."] == ROOT
    assert [row.name for row in directory.messages(0)] == [b"z"]


async def test_a_listing_can_be_read_on_from_every_offset(m: Mounted, p: Program) -> None:
    await p.mkdir("INBOX/sub")
    for n in range(5):
        await p.write(f"INBOX/n{n}", TWO)
    directory = await m.vfs.opendir(await p.inode("INBOX"))
    await directory.prepare(0)
    whole = [(behind, name) for behind, name, _ in directory.above(0)]
    whole += [(row.next, row.name) for row in directory.messages(0)]
    assert [behind for behind, _ in whole] == list(range(1, len(whole) + 1))
    for start in range(len(whole) + 1):
        rest = [name for _, name, _ in directory.above(start)]
        rest += [row.name for row in directory.messages(start)]
        assert rest == [name for _, name in whole[start:]]


async def test_a_listing_is_a_snapshot_without_what_went_away(m: Mounted, p: Program) -> None:
    for n in range(4):
        await p.write(f"INBOX/n{n}", TWO)
    directory = await m.vfs.opendir(await p.inode("INBOX"))
    await directory.prepare(0)
    await p.unlink("INBOX/n1")
    await p.write("INBOX/new", TWO)
    await directory.prepare(1)
    assert [row.name for row in directory.messages(0)] == [b"1.eml", b"n0", b"n2", b"n3"]
    await directory.prepare(0)
    assert [row.name for row in directory.messages(0)] == [b"1.eml", b"n0", b"n2", b"n3", b"new"]


async def test_the_kernel_may_keep_attributes_for_a_day(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m.store, "is_watched", lambda folder: True)
    for path in ("INBOX", "INBOX/1.eml"):
        found = await p.stat(path)
        assert (found.entry_timeout, found.attr_timeout) == (LONG, LONG)


async def test_where_nobody_tells_of_changes_the_kernel_asks_again_soon(m: Mounted, p: Program) -> None:
    found = await p.stat("INBOX/1.eml")
    assert (found.entry_timeout, found.attr_timeout) == (SHORT, LONG), "a message never changes"
    found = await p.stat("INBOX")
    assert (found.entry_timeout, found.attr_timeout) == (SHORT, SHORT)


async def test_where_nobody_can_tell_the_kernel_of_names_it_asks_again_soon(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m.store, "is_watched", lambda folder: True)
    m.told.names_expire = True
    for path in ("INBOX", "INBOX/1.eml"):
        found = await p.stat(path)
        assert (found.entry_timeout, found.attr_timeout) == (SHORT, LONG)


async def test_a_message_that_is_written_over_is_asked_for_each_time(m: Mounted, p: Program) -> None:
    file = await p.create("INBOX/1.eml")
    assert (await p.stat("INBOX/1.eml")).attr_timeout == 0
    directory = await m.vfs.opendir(await p.inode("INBOX"))
    await directory.prepare(0)
    await directory.sizes(0)
    assert [row.attr_timeout for row in directory.messages(0)] == [0.0]
    await file.close()
    assert (await p.stat("INBOX/1.eml")).attr_timeout == LONG


async def test_the_control_directory_is_answered_by_name_and_never_listed(
    m: Mounted, p: Program, kind: Kind
) -> None:
    assert ".dboxfs" not in await p.names("")
    assert (await p.stat(".dboxfs")).inode == CONTROL
    deleted = ["deleted"] if kind is Kind.MDBOX else []
    files = ["events", "locks", "metrics", "stats.json", "store.json"]
    trees = [*deleted, "flagged", "keyword", "parts", "raw", "since", "unseen"]
    assert await p.names(".dboxfs") == sorted([*files, *trees])
    assert not await p.exists("INBOX/.dboxfs")
    assert not await p.exists(".dboxfs/other")


async def test_control_files_have_no_size_and_say_what_is_now(m: Mounted, p: Program) -> None:
    assert (await p.stat(".dboxfs/stats.json")).size == 0
    m.requests["lookup"] = 7
    assert b'"lookup": 7' in await p.read(".dboxfs/stats.json")
    assert b'"uidvalidity"' in await p.read(".dboxfs/store.json")


async def test_control_files_cannot_be_written(m: Mounted, p: Program) -> None:
    with raises(errno.EACCES):
        await p.open(".dboxfs/stats.json", 1)
    with raises(errno.ENOENT):
        await p.create(".dboxfs/new")


@pytest.mark.parametrize("path", ["nothing", "INBOX/nothing", "INBOX/1.eml/x", "Work/1.eml"])
async def test_what_is_not_there_is_not_there(m: Mounted, p: Program, path: str) -> None:
    with raises(errno.ENOENT, errno.ENOTDIR):
        await p.stat(path)


async def test_a_message_that_is_gone_is_stale_by_its_inode(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    await m.others.expunge("INBOX", [1])
    await m.follow()
    with raises(errno.ESTALE):
        await m.vfs.getattr(inode)
    with raises(errno.ESTALE):
        await m.vfs.open(inode, 0, p.pid)
    with raises(errno.ESTALE):
        await m.vfs.getxattr(inode, b"user.dbox.flags")
    with raises(errno.ESTALE):
        await m.vfs.setattr(inode, None, JULY, None, p.pid)


async def test_a_directory_that_is_gone_is_not_there_by_its_inode(m: Mounted, p: Program) -> None:
    inode = await p.inode("Work")
    await p.rmdir("Work")
    with raises(errno.ENOENT):
        await m.vfs.getattr(inode)
    with raises(errno.ENOENT):
        await m.vfs.opendir(inode)


async def test_statfs_is_that_of_the_store(m: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        f_bsize = 512

    async def statvfs() -> Answer:
        return Answer()

    monkeypatch.setattr(m.store, "statvfs", statvfs)
    assert (await m.vfs.statfs()).f_bsize == 512
