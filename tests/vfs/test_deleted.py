"""``.dboxfs/deleted``: what is expunged and not purged is listed, read, and moved back."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator

import pytest

from dboxfs.store import Kind
from dboxfs.store.write import Neighbour, NewMessage, WriteOptions
from dboxfs.vfs.attrs import NS
from dboxfs.vfs.listing import Directory
from dboxfs.vfs.rename import NOREPLACE
from dboxfs.vfs.unopened import Unopened
from dboxfs.vfs.writable import WritableVfs
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted, raises

DELETED = ".dboxfs/deleted"


@pytest.fixture
async def m() -> AsyncIterator[Mounted]:
    async with mounted(Kind.MDBOX) as made:
        yield made


@pytest.fixture
def p(m: Mounted) -> Program:
    return m.program()


def half_a_second_later(m: Mounted) -> None:
    """The tree is made anew."""
    assert m.reading.deleted is not None
    m.reading.deleted.forget()


async def remove(p: Program, path: str) -> str:
    """``rm``, carried out; gives where the message is found then."""
    guid = await p.xattr(path, "guid")
    await p.unlink(path)
    mailbox = path.rpartition("/")[0]
    directory = await p.vfs.opendir(await p.inode(mailbox))
    assert isinstance(directory, Directory)
    await p.rw.fsyncdir(directory)
    assert isinstance(p.rw, WritableVfs)
    assert p.rw._reading.deleted is not None
    p.rw._reading.deleted.forget()
    return f"{DELETED}/{mailbox}/{guid}.eml"


async def test_what_was_removed_is_listed_under_its_mailbox_and_read(p: Program) -> None:
    assert await p.names(DELETED) == []
    path = await remove(p, "INBOX/1.eml")
    assert await p.names(DELETED) == ["INBOX"]
    assert await p.names(f"{DELETED}/INBOX") == [path.rpartition("/")[2]]
    found = await p.stat(path)
    assert (found.size, found.modified_ns, found.mode) == (len(ONE), JULY * NS, stat.S_IFREG | 0o400)
    assert await p.read(path) == ONE
    assert await p.xattr(path, "orig_mailbox") == "INBOX"
    assert await p.xattr(path, "received") == "2023-07-10T14:40:00Z"
    assert b"user.dbox.location" in await p.vfs.listxattr(await p.inode(path))
    assert "deleted" in await p.names(".dboxfs")


async def test_mv_brings_a_message_back_with_its_guid_and_under_its_new_name(m: Mounted, p: Program) -> None:
    guid = await p.xattr("INBOX/1.eml", "guid")
    path = await remove(p, "INBOX/1.eml")
    await p.rename(path, "Work/back")
    assert await p.read("Work/back") == ONE
    assert await p.xattr("Work/back", "guid") == guid
    assert (await p.stat("Work/back")).modified_ns == JULY * NS
    assert await p.names(DELETED) == []
    assert (await p.inode("Work"), b"back", 0) in m.told.entries
    assert await m.stored("Work") == [(1, ONE)]
    async with m.again() as other:
        assert await other.program().names("Work") == ["back"]


async def test_it_never_takes_the_place_of_a_message_or_directory(m: Mounted, p: Program) -> None:
    path = await remove(p, "INBOX/1.eml")
    await p.write("Work/there", TWO)
    await p.mkdir("Work/Sub")
    for name, flags in (("Work/there", 0), ("Work/there", NOREPLACE), ("Work/Sub", 0)):
        with raises(errno.EEXIST):
            await p.rename(path, name, flags)
    open_file = await p.create("Work/new")
    with raises(errno.EEXIST):
        await p.rename(path, "Work/new")
    await open_file.close()
    assert await p.read("Work/there") == TWO
    assert await p.read(path) == ONE


async def test_only_moving_a_message_into_a_mailbox_is_possible(p: Program) -> None:
    path = await remove(p, "INBOX/1.eml")
    for target in (".back", f"{DELETED}/INBOX/other", "Work/.hidden", "not-in-a-mailbox"):
        with raises(errno.EPERM):
            await p.rename(path, target)
    with raises(errno.EPERM):
        await p.rename(f"{DELETED}/INBOX", "Work/Old")
    with raises(errno.EPERM):
        await p.unlink(path)
    with raises(errno.EPERM):
        await p.link(path, "Work/link")
    with raises(errno.EPERM):
        await p.create(path)
    with raises(errno.ENOENT):
        await p.create(f"{DELETED}/INBOX/new")
    await p.write("Work/other", TWO)
    with raises(errno.EPERM):
        await p.rename("Work/other", f"{DELETED}/INBOX/x")
    with raises(errno.ENODATA):
        await p.xattr(path, "flags")
    assert await p.read(path) == ONE


async def test_what_a_purge_takes_away_is_listed_no_more_and_an_open_file_reads_on(
    m: Mounted, p: Program
) -> None:
    path = await remove(p, "INBOX/1.eml")
    inode, file = await p.inode(path), await p.open(path)
    assert (await m.others.purge()).messages == 1
    with raises(errno.ENOENT):
        await p.rename(path, "INBOX/late")
    half_a_second_later(m)
    assert not await p.exists(path)
    with raises(errno.ESTALE):
        await p.vfs.getattr(inode)
    assert await file.read() == ONE
    await file.close()
    assert await p.names("INBOX") == []


async def test_the_tree_is_that_of_the_mailboxes_that_messages_name_however_they_are_called(
    m: Mounted, p: Program
) -> None:
    names = [b"Work/Sub", b"../../etc", b"&AOQ-rger", b"a//b", b"x" * 300, b"5.eml", b"Gone"]
    await m.others.save("Work", [NewMessage(ONE, JULY, orig_mailbox=name) for name in names])
    await m.others.expunge("Work", range(1, 1 + len(names)))
    half_a_second_later(m)
    assert await p.names(DELETED) == ["%2E.", "5%2Eeml", "Gone", "INBOX", "Work", "ärger"]
    assert len(await p.names(f"{DELETED}/INBOX")) == 2
    assert len(await p.names(f"{DELETED}/Work/Sub")) == 1
    (name,) = await p.names(f"{DELETED}/%2E./%2E./etc")
    assert await p.xattr(f"{DELETED}/%2E./%2E./etc/{name}", "orig_mailbox") == "../../etc"


async def test_two_messages_with_one_guid_have_two_names(m: Mounted, p: Program) -> None:
    await m.others.save("Work", [NewMessage(text, JULY, guid=b"g" * 16) for text in (ONE, TWO)])
    await m.others.expunge("Work", [1, 2])
    half_a_second_later(m)
    found = {await p.read(f"{DELETED}/Work/{name}") for name in await p.names(f"{DELETED}/Work")}
    assert found == {ONE, TWO}


async def test_beside_a_dovecot_a_removal_can_be_taken_back_before_it_was_carried_out() -> None:
    async with mounted(Kind.MDBOX, WriteOptions(Neighbour.DOVECOT)) as m:
        p = m.program()
        await p.set_xattr("INBOX/1.eml", "flags", r"\Flagged")
        guid = await p.xattr("INBOX/1.eml", "guid")
        await m.others.expunge("INBOX", [1], execute=False)
        await m.store.refresh_mailbox(m.store.folders["INBOX"])
        await p.rename(f"{DELETED}/INBOX/{guid}.eml", "INBOX/again")
        assert await p.read("INBOX/again") == ONE
        assert await p.xattr("INBOX/again", "flags") == r"\Flagged"
        assert await p.names("INBOX") == ["again"]


async def test_nobody_but_the_owner_may_look_whatever_the_modes_of_the_mount_are(
    m: Mounted, p: Program
) -> None:
    path = await remove(p, "INBOX/1.eml")
    for name in (DELETED, f"{DELETED}/INBOX", path):
        assert not (await p.stat(name)).mode & (stat.S_IRWXG | stat.S_IRWXO)


async def test_a_mount_without_open_reads_it_too(m: Mounted, p: Program) -> None:
    path = await remove(p, "INBOX/1.eml")

    class NoPages:
        def begin(self, inode: int) -> None:
            return None

        def end(self, inode: int) -> None:
            """Nothing waits."""

    unopened = Unopened(m.reading, NoPages())  # type: ignore[arg-type]
    inode = await p.inode(path)
    assert await unopened.read(inode, 4096, 0) == ONE
    directory, _, place = await unopened.directory(await p.inode(f"{DELETED}/INBOX"), 0)
    assert [name for _, name, _ in directory.above(place)] == [path.rpartition("/")[2].encode()]
    unopened.close()


async def test_an_sdbox_has_no_such_directory() -> None:
    async with mounted(Kind.SDBOX) as m:
        assert not await m.program().exists(DELETED)
