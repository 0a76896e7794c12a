"""A file of the mount is written anywhere, cut and lengthened, as a plain file is; that is the message."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from dboxfs.fsapi.drivers.memory_tree import MemoryNode
from dboxfs.vfs import content
from dboxfs.vfs.content import EACH
from tests.vfs.inside import ONE, TWO, File, Mounted, Program, raises

LARGE = bytes(range(33, 127)) * 10_000
"""More than is kept in memory."""


def walk(node: MemoryNode) -> Iterator[MemoryNode]:
    """A node of the store's disk, and all below it."""
    yield node
    for below in node.entries.values():
        yield from walk(below)


async def write(file: File, *parts: tuple[bytes, int]) -> bytes:
    """pwrite(2) each part; gives what a plain file would hold."""
    model = bytearray()
    for data, at in parts:
        await file.write(data, at)
        model += bytes(max(at - len(model), 0))
        model[at : at + len(data)] = data
    return bytes(model)


@pytest.mark.parametrize("large", [False, True])
async def test_parts_in_any_order_are_one_message(m: Mounted, p: Program, large: bool) -> None:
    """A multi-threaded rclone."""
    text = LARGE if large else TWO * 9
    step = len(text) // 7
    parts = [(text[at : at + step], at) for at in range(0, len(text), step)]
    file = await p.create("INBOX/new")
    assert await write(file, *parts[::2], *parts[1::2]) == text
    assert (await file.stat()).size == len(text)
    assert await file.read(100, step - 10) == text[step - 10 : step + 90]
    await file.close()
    assert (await p.read("INBOX/new"), m.uids()) == (text, [1, 2])
    assert (await m.stored())[-1] == (2, text)


async def test_what_nobody_has_written_is_zeros(m: Mounted, p: Program) -> None:
    """``cp --sparse=always``, ``rsync -S``."""
    file = await p.create("INBOX/new", os.O_TRUNC)
    await file.write(b"begin", 0)
    await file.write(b"middle", 1_000_000)
    await file.truncate(1_000_100)
    await file.close()
    text = b"begin" + bytes(999_995) + b"middle" + bytes(94)
    assert await p.read("INBOX/new") == text
    assert (await m.stored())[-1] == (2, text)


@pytest.mark.parametrize(
    ("at", "data"),
    [(3, b"XYZ"), (0, b"SUB"), (len(ONE) - 1, b"!\nmore"), (len(ONE) + 5, b"x")],
)
async def test_a_write_into_a_message_replaces_it_at_the_last_close(
    m: Mounted, p: Program, q: Program, at: int, data: bytes
) -> None:
    await p.set_xattr("INBOX/1.eml", "flags", "\\Seen")
    file = await p.open("INBOX/1.eml", os.O_RDWR)
    await file.write(data, at)
    text = ONE[:at].ljust(at, b"\0") + data + ONE[at + len(data) :]
    assert await file.read() == text
    assert (await q.read("INBOX/1.eml"), m.uids()) == (ONE, [1])
    await file.close()
    assert (await q.read("INBOX/1.eml"), m.uids()) == (text, [2])
    assert await m.flags(2) == (("\\Seen",), ())
    assert await m.stored() == [(2, text)]


@pytest.mark.parametrize("size", [1, len(ONE) - 1, len(ONE) + 3])
async def test_truncate_to_any_size(m: Mounted, p: Program, size: int) -> None:
    text = ONE[:size].ljust(size, b"\0")
    file = await p.open("INBOX/1.eml", os.O_RDWR)
    await file.truncate(size)
    await file.close()
    assert await m.stored() == [(2, text)]
    await p.truncate("INBOX/1.eml", size + 2)
    assert await m.stored() == [(3, text + bytes(2))]
    await p.truncate("INBOX/1.eml", size + 2)
    assert m.uids() == [3], "it has that size"


async def test_the_end_of_what_a_program_writes_is_where_it_has_written_to(
    m: Mounted, p: Program, q: Program
) -> None:
    """``lseek(SEEK_END)`` and write, in two steps."""
    file = await p.open("INBOX/1.eml", os.O_RDWR)
    for part in (b"more\n", b"and more\n"):
        await file.write(part, (await file.stat()).size)
    assert (await q.stat("INBOX/1.eml")).size == len(ONE)
    await file.close()
    assert await m.stored() == [(2, ONE + b"more\nand more\n")]


async def test_restic_opens_a_file_for_each_part(m: Mounted, p: Program) -> None:
    """Each close makes a message of what is there; the last one has everything."""
    parts = [(TWO, 0), (LARGE, len(TWO)), (ONE, len(TWO + LARGE))]
    for number, (data, at) in enumerate(parts):
        file = await (p.create("INBOX/m", os.O_TRUNC) if not number else p.open("INBOX/m", os.O_WRONLY))
        await file.write(data, at)
        await file.close()
    assert await p.read("INBOX/m") == TWO + LARGE + ONE
    assert m.uids() == [1, 4]


async def test_several_appends_at_once_are_all_there(m: Mounted, p: Program, q: Program) -> None:
    files = [await some.open("INBOX/1.eml", os.O_WRONLY | os.O_APPEND) for some in (p, q)]
    for file, data in zip(files, (b"one\n", b"two\n"), strict=True):
        await file.write(data)
    for file in files:
        await file.close()
    assert await m.stored() == [(3, ONE + b"one\ntwo\n")]


async def test_an_append_of_which_a_part_was_written_over_is_one_still(
    m: Mounted, p: Program, q: Program
) -> None:
    file = await p.open("INBOX/1.eml", os.O_WRONLY)
    await file.write(b"first\n", len(ONE))
    await file.write(b"FIR", len(ONE))
    await q.append("INBOX/1.eml", b"between\n")
    await file.close()
    assert await m.stored() == [(3, ONE + b"between\nFIRst\n")]


async def test_a_file_in_too_many_parts_is_told_at_the_write_and_stays_as_it_was(
    m: Mounted, p: Program
) -> None:
    file = await p.create("INBOX/new")
    await file.write(TWO, 0)
    with raises(errno.EFBIG):
        await file.write(b"x", 1 << 40)
    with raises(errno.EFBIG):
        await file.truncate(1 << 50)
    await file.write(b"more", len(TWO))
    await file.close()
    assert (await m.stored())[-1] == (2, TWO + b"more")


@pytest.mark.parametrize("name", ["INBOX/.swap", "INBOX/plain"])
async def test_writing_the_same_place_again_and_again_takes_no_more_room(
    m: Mounted, p: Program, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "WASTE", 4 * EACH)
    file = await p.create(name)
    await file.write(LARGE, 0)
    for number in range(100):
        await file.write(b"%d" % number * (EACH // 4), number)
        await file.fsync()
    found = await file.read(len(LARGE))
    largest = max(len(node.data) for node in walk(m.tree.root))
    assert largest <= 4 * EACH + 3 * len(LARGE)
    await file.close()
    if name.endswith("plain"):
        assert await p.read(name) == found
