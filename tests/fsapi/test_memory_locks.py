"""Two ``memory`` drivers on one tree are two processes on one disk: what one has locked the other has not."""

from __future__ import annotations

from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.ops import Close, LockKind, OpenShared, TryLock, Unlock


async def test_a_lock_keeps_the_other_process_out_until_it_is_given_up() -> None:
    one = MemoryDriver()
    one.put("/d/f", b"x")
    two = MemoryDriver(tree=one.tree)
    async with FileSystem(one) as first, FileSystem(two) as second:
        ours, theirs = await first.run(OpenShared("/d/f")), await second.run(OpenShared("/d/f"))
        assert await first.run(TryLock(ours.fd, LockKind.RECORD))
        assert await first.run(TryLock(ours.fd, LockKind.RECORD)), "it has it"
        assert not await second.run(TryLock(theirs.fd, LockKind.RECORD))
        assert await second.run(TryLock(theirs.fd, LockKind.FLOCK)), "a lock of another kind"
        await first.run(Unlock(ours.fd, LockKind.RECORD))
        assert await second.run(TryLock(theirs.fd, LockKind.RECORD))
        await second.run(Close(theirs.fd))
        assert await first.run(TryLock(ours.fd, LockKind.RECORD)), "the file that had it was closed"


async def test_a_process_that_ends_has_no_locks() -> None:
    one = MemoryDriver()
    one.put("/d/f", b"x")
    async with FileSystem(one) as first:
        opened = await first.run(OpenShared("/d/f"))
        assert await first.run(TryLock(opened.fd, LockKind.RECORD))
    async with FileSystem(MemoryDriver(tree=one.tree)) as second:
        opened = await second.run(OpenShared("/d/f"))
        assert await second.run(TryLock(opened.fd, LockKind.RECORD))
