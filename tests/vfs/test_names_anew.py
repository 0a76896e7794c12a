"""A file of names that was written anew is read as another one, also with the same inode number."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from dboxfs.store import Kind
from dboxfs.store.names.codec import Line, decode_lines, encode_line
from dboxfs.store.names.follow import NameFollower
from dboxfs.store.write import LockMethod, NewMessage
from tests.vfs.inside import ALONE, TWO, Mounted, mounted

SAME_SIZE, LONGER = b"first-z", b"a-longer-name"


def written_anew(m: Mounted, name: bytes) -> None:
    """Another mount calls message 1 *name*; by its inode number it is the same file."""
    box = m.folder().mailbox
    assert box is not None
    data = m.file(m.name_reader.path(box))
    before = bytes(data)
    assert [line.name for _, line in decode_lines(before) if line is not None] == [b"first-a"]
    data[:] = encode_line(Line(box.uid_validity, 1, name))
    assert (len(data) == len(before)) == (name == SAME_SIZE)
    if name == LONGER:
        data += encode_line(Line(box.uid_validity, 2, b"second"))


LOCKS = pytest.mark.parametrize("lock_method", [LockMethod.FCNTL, LockMethod.DOTLOCK])


@LOCKS
@pytest.mark.parametrize(("name", "second"), [(SAME_SIZE, "2.eml"), (LONGER, "second")])
@pytest.mark.parametrize("appends", [False, True])
async def test_it_is_read_from_its_beginning(
    kind: Kind, lock_method: LockMethod, name: bytes, second: str, appends: bool
) -> None:
    async with mounted(kind, replace(ALONE, lock_method=lock_method)) as m:
        p = m.program()
        await m.others.save("INBOX", [NewMessage(b"Subject: %d\n\n" % n) for n in (2, 3)])
        await m.follow()
        await p.rename("INBOX/1.eml", "INBOX/first-a")
        written_anew(m, name)
        if appends:
            await p.rename("INBOX/3.eml", "INBOX/third")
        else:
            await m.name_reader.look(m.folder())
        third = "third" if appends else "3.eml"
        assert sorted(await p.names()) == sorted([name.decode(), second, third])
        assert m.name_reader.skipped == 0
        async with m.again() as again:
            assert sorted(await again.program().names()) == sorted([name.decode(), second, third])


@LOCKS
async def test_a_name_that_is_taken_in_it_is_not_given_by_what_was_read_before(
    kind: Kind, lock_method: LockMethod
) -> None:
    async with mounted(kind, replace(ALONE, lock_method=lock_method)) as m:
        p = m.program()
        await m.others.save("INBOX", [NewMessage(TWO)])
        await m.follow()
        await p.rename("INBOX/1.eml", "INBOX/first-a")
        written_anew(m, SAME_SIZE)
        await p.rename("INBOX/2.eml", "INBOX/first-z")
        assert await p.texts() == {"first-z": TWO}


def watches() -> int:
    """How many inotify descriptors this process has."""
    fds = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(fd) == "anon_inode:inotify" for fd in fds if os.path.lexists(fd))


async def test_names_that_nobody_follows_yet_take_no_descriptor(m: Mounted) -> None:
    before = watches()
    made = NameFollower(m.name_reader)
    assert watches() == before
    assert made is not None
