"""Checks of whole operations (:mod:`dboxfs.fsapi.testing.conformance`): attributes, directories, names."""

from __future__ import annotations

import errno
import stat

import trio

from dboxfs.fsapi import ops
from dboxfs.fsapi.filesystem import FileSystem
from dboxfs.fsapi.testing.reading import fails, failure, make
from dboxfs.fsapi.testing.writing import content, names
from dboxfs.fsapi.types import DirEntry, Permissions


async def attributes(fs: FileSystem, root: str) -> None:
    """stat and lstat tell type, size and inode; ENOENT and ENOTDIR where there is nothing."""
    path = await make(fs, f"{root}/a", b"12345")
    status = await fs.stat(path)
    assert stat.S_ISREG(status.st_mode), "a file is a regular file"
    assert status.st_size == 5, "its size"
    assert status.st_nlink == 1, "its links"
    assert (await fs.lstat(path)).st_ino == status.st_ino, "the same inode"
    assert stat.S_ISDIR((await fs.stat(root)).st_mode), "a directory is a directory"
    async with fs.open(path) as handle:
        assert (await handle.wait_open()).st_ino == status.st_ino, "the inode of an open file"
    await fails(errno.ENOENT, lambda: fs.stat(f"{root}/none"))
    await fails(errno.ENOENT, lambda: fs.lstat(f"{root}/none"))
    await fails(errno.ENOTDIR, lambda: fs.stat(f"{path}/below"))
    await fails(errno.EINVAL, lambda: fs.stat(f"{root}/nul\0"))
    await fails(errno.EINVAL, lambda: fs.readlink(path))
    room = await fs.statvfs(path)
    assert room.f_bsize > 0, "a file system has blocks"
    assert room.f_bavail <= room.f_bfree <= room.f_blocks, "no more room than blocks"


async def dates_and_extended_attributes(fs: FileSystem, root: str) -> None:
    """A file gets any mtime, before 1970 too; setting an attribute of a missing file is ENOENT."""
    path = f"{root}/a"
    if not fs.capabilities.attributes:
        await make(fs, path, b"")
        await fails(errno.EOPNOTSUPP, lambda: fs.run(ops.SetXattr(path, "user.dbox.uid", b"17")))
        return
    opened = await fs.run(ops.Create(path, Permissions(0o600)))
    for seconds in (-315_583_200, 0, 4_417_930_800):
        await fs.run(ops.SetTimes(opened.fd, seconds * 10**9))
        assert (await fs.stat(path)).st_mtime_ns == seconds * 10**9, "the mtime that was set"
    await fs.run(ops.Close(opened.fd))
    await fs.run(ops.SetXattr(path, "user.dbox.uid", b"17"))
    await fails(errno.ENOENT, lambda: fs.run(ops.SetXattr(f"{root}/none", "user.dbox.uid", b"17")))


async def listings(fs: FileSystem, root: str) -> None:
    """A listing has every entry once, with its type."""
    if fs.capabilities.directories:
        await fs.mkdir(f"{root}/dir")
    else:
        await make(fs, f"{root}/dir/below", b"")
    for number in range(50):
        await make(fs, f"{root}/f{number}", b"")
    entries = await fs.listdir(root)
    expected = [DirEntry("dir", True, False)] + [DirEntry(f"f{number}", False, False) for number in range(50)]
    assert sorted(entries, key=lambda entry: entry.name) == sorted(expected, key=lambda entry: entry.name)
    if fs.capabilities.directories:
        assert await fs.listdir(f"{root}/dir") == [], "an empty directory"
    else:
        assert await names(fs, f"{root}/dir") == ["below"], "a directory of one file"
    await fails(errno.ENOENT, lambda: fs.listdir(f"{root}/none"))
    await fails(errno.ENOTDIR, lambda: fs.listdir(f"{root}/f1"))


async def renames(fs: FileSystem, root: str) -> None:
    """rename moves between directories and replaces files, but no directory with entries."""
    one = await make(fs, f"{root}/one", b"1")
    two = await make(fs, f"{root}/two", b"2")
    if not fs.capabilities.rename:
        await fails(errno.EOPNOTSUPP, lambda: fs.rename(one, two))
        return
    await fs.mkdir(f"{root}/dir")
    await fs.rename(one, two)
    assert await content(fs, two) == b"1", "the target is replaced"
    await fs.rename(two, f"{root}/dir/three")
    assert await names(fs, root) == ["dir"], "it has left the directory"
    assert await content(fs, f"{root}/dir/three") == b"1", "it has arrived in the other"
    await fs.rename(f"{root}/dir", f"{root}/moved")
    assert await content(fs, f"{root}/moved/three") == b"1", "a directory moves with what it holds"
    await fails(errno.ENOENT, lambda: fs.rename(one, two))
    await fs.mkdir(f"{root}/empty")
    await fails(errno.ENOTEMPTY, lambda: fs.rename(f"{root}/empty", f"{root}/moved"))
    await fails(errno.EISDIR, lambda: fs.rename(f"{root}/moved/three", f"{root}/empty"))
    await fails(errno.EINVAL, lambda: fs.rename(f"{root}/moved", f"{root}/moved/below"))


async def links(fs: FileSystem, root: str) -> None:
    """A hard link is a second name of the same file."""
    if not fs.capabilities.link:
        return
    path = await make(fs, f"{root}/a", b"1")
    await fs.link(path, f"{root}/b")
    assert (await fs.stat(path)).st_nlink == 2, "two links"
    assert (await fs.stat(f"{root}/b")).st_ino == (await fs.stat(path)).st_ino, "one inode"
    await fails(errno.EEXIST, lambda: fs.link(path, f"{root}/b"))
    await fails(errno.ENOENT, lambda: fs.link(f"{root}/none", f"{root}/c"))
    await fs.unlink(path)
    assert await content(fs, f"{root}/b") == b"1", "the other name stays"
    await fails(errno.ENOENT, lambda: fs.unlink(path))


async def copies(fs: FileSystem, root: str) -> None:
    """A copy has the bytes of the file, and replaces a file only if the caller asks for it."""
    path, taken = await make(fs, f"{root}/a", b"1"), await make(fs, f"{root}/b", b"2")
    if not fs.capabilities.copy:
        await fails(errno.EOPNOTSUPP, lambda: fs.copy(path, f"{root}/c", replace=True))
        return
    await fs.copy(path, f"{root}/c", replace=True)
    await fs.copy(path, taken, replace=True)
    assert await content(fs, f"{root}/c") == await content(fs, taken) == b"1", "the bytes"
    refused = await failure(lambda: fs.copy(f"{root}/c", taken))
    allowed = (errno.EEXIST, errno.EOPNOTSUPP)
    assert refused in [errno.errorcode[code] for code in allowed], f"a taken name: {refused or 'success'}"
    await fails(errno.ENOENT, lambda: fs.copy(f"{root}/none", f"{root}/d", replace=True))


async def directories(fs: FileSystem, root: str) -> None:
    """mkdir and rmdir work, with exact permissions; a directory with entries is never removed."""
    if not fs.capabilities.directories:
        await fails(errno.EOPNOTSUPP, lambda: fs.mkdir(f"{root}/a"))
        await fails(errno.EOPNOTSUPP, lambda: fs.rmdir(f"{root}/a"))
        path = await make(fs, f"{root}/a/file", b"")
        await fails(errno.EISDIR, lambda: fs.unlink(f"{root}/a"))
        await fs.unlink(path)
        return
    await fs.mkdir(f"{root}/a", Permissions(0o750))
    assert stat.S_IMODE((await fs.stat(f"{root}/a")).st_mode) == 0o750, "mode bits"
    await fails(errno.EEXIST, lambda: fs.mkdir(f"{root}/a"))
    await fails(errno.ENOENT, lambda: fs.mkdir(f"{root}/none/a"))
    path = await make(fs, f"{root}/a/file", b"")
    await fails(errno.ENOTEMPTY, lambda: fs.rmdir(f"{root}/a"))
    await fails(errno.ENOTDIR, lambda: fs.rmdir(path))
    await fails(errno.EISDIR, lambda: fs.unlink(f"{root}/a"))
    await fs.unlink(path)
    await fs.fsync_dir(f"{root}/a")
    await fs.rmdir(f"{root}/a")
    await fails(errno.ENOENT, lambda: fs.rmdir(f"{root}/a"))
    await fails(errno.ENOENT, lambda: fs.fsync_dir(f"{root}/a"))


async def cancelled_operations(fs: FileSystem, root: str) -> None:
    """A cancelled operation has happened as a whole or not at all, and leaves nothing waiting."""
    for step in range(6):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if fs.capabilities.directories:
                    nursery.start_soon(fs.mkdir, f"{root}/d{step}")
                nursery.start_soon(fs.listdir, root)
                nursery.start_soon(fs.stat, root)
                for _ in range(step):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    for name in await names(fs, root):
        await fs.rmdir(f"{root}/{name}")


async def many_at_once(fs: FileSystem, root: str) -> None:
    """More operations than there are workers: all are answered, each with its own answer."""
    await make(fs, f"{root}/a", b"1")
    sizes: list[int] = []

    async def one(number: int) -> None:
        if number % 2:
            await fails(errno.ENOENT, lambda: fs.stat(f"{root}/none"))
        else:
            sizes.append((await fs.stat(f"{root}/a")).st_size)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(one, number)
    assert sizes == [1] * 100


CHECKS = (
    attributes,
    dates_and_extended_attributes,
    listings,
    renames,
    links,
    copies,
    directories,
    cancelled_operations,
    many_at_once,
)
