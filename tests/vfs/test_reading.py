"""Open messages: read to their end whatever happens, and what of them the kernel's cache may keep."""

from __future__ import annotations

import errno
import os

import pytest

from dboxfs.store import Kind
from dboxfs.store.write import NewMessage, WriteOptions
from dboxfs.vfs.reader import PUSH_MOST
from tests.vfs.inside import JULY, ONE, TWO, Mounted, Program, mounted, raises

LONG = b"Subject: long\n\n" + b"".join(b"line %d of a long message\n" % n for n in range(40_000))


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 1 << 20])
async def test_a_message_is_read_in_pieces_of_any_size(m: Mounted, p: Program, size: int) -> None:
    await p.write("INBOX/long", LONG)
    file = await p.open("INBOX/long")
    step = max(size, len(LONG) // 50)
    for at in range(0, len(LONG) + size, step):
        assert await file.read(size, at) == LONG[at : at + size]
    await file.close()


async def test_an_open_message_goes_on_after_its_expunge(m: Mounted, p: Program) -> None:
    file = await p.open("INBOX/1.eml")
    await m.others.expunge("INBOX", [1])
    await m.follow()
    assert await p.names() == []
    assert await file.read() == ONE
    assert (await file.stat()).size == len(ONE)
    await file.close()
    with raises(errno.ESTALE):
        await file.stat()


async def test_an_open_message_goes_on_after_its_removal_and_its_replacement(m: Mounted, p: Program) -> None:
    first = await p.open("INBOX/1.eml")
    await p.write("INBOX/1.eml", TWO)
    second = await p.open("INBOX/1.eml")
    await p.unlink("INBOX/1.eml")
    assert (await first.read(), await second.read()) == (ONE, TWO)
    await first.close()
    await second.close()


async def test_an_open_message_goes_on_when_its_mailbox_is_deleted(m: Mounted, p: Program) -> None:
    await p.write("Work/note", TWO)
    file = await p.open("Work/note")
    await m.others.delete_mailbox("Work")
    await m.store.refresh_tree()
    assert await file.read() == TWO
    assert (await file.stat()).size == len(TWO)
    await file.close()


async def test_a_small_message_is_put_into_the_kernels_cache_once(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    for _ in range(2):
        await (await p.open("INBOX/1.eml")).close()
    assert m.told.pushed == {inode: ONE}
    m.told.pushed.clear()
    await (await p.open("INBOX/1.eml")).close()
    assert m.told.pushed == {}, "it is there"


async def test_what_the_kernel_asks_for_it_has_lost_and_gets_again(m: Mounted, p: Program) -> None:
    await p.read("INBOX/1.eml")
    m.told.pushed.clear()
    await p.read("INBOX/1.eml")
    assert list(m.told.pushed.values()) == [ONE]


async def test_nothing_is_pushed_while_the_inode_is_open(m: Mounted, p: Program) -> None:
    first = await p.open("INBOX/1.eml")
    await first.read()
    m.told.pushed.clear()
    second = await p.open("INBOX/1.eml")
    assert m.told.pushed == {}, "the kernel would wait for a READ in flight, which only we can answer"
    await first.close()
    await second.close()


async def test_a_large_message_is_not_pushed(m: Mounted, p: Program) -> None:
    await p.write("INBOX/large", b"Subject: large\n\n" + b"x" * PUSH_MOST)
    await (await p.open("INBOX/large")).close()
    assert m.told.pushed == {}


async def test_what_the_kernel_does_not_know_is_not_counted_as_pushed(m: Mounted, p: Program) -> None:
    m.told.unknown.add(await p.inode("INBOX/1.eml"))
    await (await p.open("INBOX/1.eml")).close()
    assert b'"messages": 0' in (await p.read(".dboxfs/stats.json")).partition(b"pushed_to_kernel")[2][:40]


async def test_the_kernel_keeps_its_pages_of_a_message_it_has_read(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    for _ in range(2):
        opened = await m.vfs.open(inode, os.O_RDONLY, p.pid)
        assert (opened.keep_cache, opened.direct_io) == (True, False)
        await opened.file.release()


async def test_old_pages_of_a_rebuilt_mailbox_are_dropped_by_the_next_open(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    await (await m.vfs.open(inode, os.O_RDONLY, p.pid)).file.release()
    m.told.unknown.add(inode)  # it has old pages that the push does not replace
    m.reading.reader.doubt(m.reading.inodes.node(await p.inode("INBOX")))
    kept = []
    for _ in range(2):
        opened = await m.vfs.open(inode, os.O_RDONLY, p.pid)
        kept.append(opened.keep_cache)
        await opened.file.release()
    assert kept == [False, True]


async def test_what_is_open_for_writing_is_read_past_the_kernels_cache(m: Mounted, p: Program) -> None:
    writer = await p.create("INBOX/1.eml")
    opened = await m.vfs.open(await p.inode("INBOX/1.eml"), os.O_RDONLY, p.pid)
    assert (opened.direct_io, opened.keep_cache) == (True, False)
    await opened.file.release()
    await writer.close()


async def test_an_old_inode_reads_what_has_replaced_its_message(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    await p.write("INBOX/1.eml", TWO)
    assert (await m.vfs.getattr(inode)).size == len(TWO)
    opened = await m.vfs.open(inode, os.O_RDONLY, p.pid)
    assert await opened.file.read(1000, 0) == TWO
    assert (opened.direct_io, opened.keep_cache) == (True, False), "the kernel may have bytes of the old one"
    await opened.file.release()


async def test_an_old_inode_reads_what_was_moved_elsewhere(m: Mounted, p: Program) -> None:
    inode = await p.inode("INBOX/1.eml")
    await p.rename("INBOX/1.eml", "Work/moved")
    opened = await m.vfs.open(inode, os.O_RDONLY, p.pid)
    assert await opened.file.read(1000, 0) == ONE
    await opened.file.release()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDONLY | os.O_APPEND])
async def test_a_message_opened_for_reading_cannot_be_written(m: Mounted, p: Program, flags: int) -> None:
    file = await p.open("INBOX/1.eml", flags)
    with raises(errno.EBADF):
        await file.write(b"x")
    await file.close()
    assert await m.stored() == [(1, ONE)]


async def test_opening_and_closing_counts_nothing_as_open(m: Mounted, p: Program) -> None:
    for _ in range(3):
        await (await p.open("INBOX/1.eml")).close()
        await (await p.open("INBOX/1.eml", os.O_RDWR)).close()
    assert (dict(m.reading.open_files.written), list(m.reading.open_files.being_read)) == ({}, [])


@pytest.mark.expected_log("damaged")
async def test_a_damaged_message_is_eio_on_itself_alone(kind: Kind) -> None:
    async with mounted(kind) as m:
        p = m.program()
        await p.write("INBOX/good", TWO)
        await p.write("INBOX/bad", b"Subject: bad\n\n" + b"x" * 100)
        (path,) = [path for path in m.files() if b"Subject: bad" in m.file(path)]
        data = m.file(path)
        at = data.index(b"Subject: bad") - 20
        data[at : at + 10] = b"\0" * 10
    async with m.again() as again:
        q = again.program()
        with raises(errno.EIO):
            await q.open("INBOX/bad")
        assert (await q.read("INBOX/good"), await q.read("INBOX/1.eml")) == (TWO, ONE)
        assert await q.names() == ["1.eml", "bad", "good"]


async def test_a_mount_that_reads_sees_what_a_writer_has_saved(m: Mounted, p: Program) -> None:
    await m.others.save("INBOX", [NewMessage(TWO, JULY)])
    await m.follow()
    assert await p.texts() == {"1.eml": ONE, "2.eml": TWO}


async def test_saved_bytes_are_kept_as_they_are(m: Mounted, p: Program) -> None:
    for n, data in enumerate((b"", b"\r\n", b"a", b"no header\n", b"\0\xff" * 100, b"x: y\r\n\r\nz\r\n")):
        if data:
            await p.write(f"INBOX/n{n}", data)
            assert await p.read(f"INBOX/n{n}") == data


async def test_line_ends_are_changed_where_it_was_asked_for(kind: Kind) -> None:
    from dboxfs.store.write import Eol, Neighbour

    async with mounted(kind, WriteOptions(Neighbour.ALONE, eol=Eol.LF)) as m:
        p = m.program()
        await p.write("INBOX/crlf", b"x: y\r\n\r\nz\r\n")
        assert await p.read("INBOX/crlf") == b"x: y\n\nz\n"
