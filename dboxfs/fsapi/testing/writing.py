"""The checks of :mod:`dboxfs.fsapi.testing.conformance` for handles that write, and for locks."""

from __future__ import annotations

import errno
import os
import stat

import trio

from dboxfs.fsapi.filesystem import FileSystem
from dboxfs.fsapi.handle import Handle
from dboxfs.fsapi.testing.reading import BODY, fails, failure, make, read_nonblocking
from dboxfs.fsapi.types import CreateMode, OpenMode, Permissions


async def names(fs: FileSystem, root: str) -> list[str]:
    """The names in a directory without temporary ones, sorted."""
    return sorted(entry.name for entry in await fs.listdir(root) if not entry.name.startswith(".temp."))


async def content(fs: FileSystem, path: str) -> bytes:
    """The bytes of a file, read by a new handle."""
    async with fs.open(path) as handle:
        return await handle.read(1 << 24, 0)


async def lock(handle: Handle) -> bool:
    """try_lock, for :func:`fails`."""
    return handle.try_lock()


async def nothing_is_visible_before_the_commit(fs: FileSystem, root: str) -> None:
    """Before the commit there is a temporary file in the same directory at most; then there is the file."""
    path = f"{root}/new"
    async with fs.create(path) as handle:
        await handle.write_all(BODY * 30)
        assert await names(fs, root) == [], "a name before the commit"
        assert len(await fs.listdir(root)) == 1, "one temporary file"
        await handle.commit_async()
        assert await names(fs, root) == ["new"], "the name after the commit"
        assert len(await fs.listdir(root)) == 1, "and no temporary file"
        assert await content(fs, path) == BODY * 30
    assert await content(fs, path) == BODY * 30


async def what_is_not_committed_vanishes(fs: FileSystem, root: str) -> None:
    """close() of a new file deletes it, written to or not, open already or not."""
    fs.create(f"{root}/a").close()
    async with fs.create(f"{root}/b") as handle:
        await handle.write_all(BODY * 20)
    async with fs.create(f"{root}/c") as handle:
        await handle.wait_open()
        handle.write(b"x")
        handle.rollback()
    await fs.create(f"{root}/d").aclose()
    handle = fs.create(f"{root}/e")
    handle.write(BODY)
    await handle.aclose()
    with trio.move_on_after(5):
        while await fs.listdir(root):
            await trio.lowlevel.checkpoint()
    assert await fs.listdir(root) == []


async def fail_if_exists(fs: FileSystem, root: str) -> None:
    """The commit fails with EEXIST and changes nothing; another name may be tried."""
    path = await make(fs, f"{root}/a", b"old")
    async with fs.create(path) as handle:
        await handle.write_all(b"new")
        await fails(errno.EEXIST, handle.commit_async)
        await fails(errno.EEXIST, handle.commit_async)
        assert await content(fs, path) == b"old", "the old file is untouched"
        await handle.write_all(b"er")
        await handle.commit_async(f"{root}/b")
        assert handle.path == f"{root}/b", "the path is the one it got"
    assert await content(fs, f"{root}/b") == b"newer"
    assert await content(fs, path) == b"old"
    assert await names(fs, root) == ["a", "b"]


async def replace_if_exists(fs: FileSystem, root: str) -> None:
    """The commit replaces the old file by the new one; a handle that has the old one open keeps it."""
    path = await make(fs, f"{root}/a", b"old")
    async with fs.open(path) as old:
        await old.wait_open()
        async with fs.create(path, CreateMode.REPLACE_IF_EXISTS) as handle:
            await handle.write_all(b"new")
            assert await content(fs, path) == b"old", "before the commit"
            await handle.commit_async()
        assert await content(fs, path) == b"new"
        if fs.capabilities.outlives_name:
            assert await old.read(9, 0) == b"old"
        else:
            await fails(errno.ESTALE, lambda: old.read(9, 0))


async def a_name_given_at_commit(fs: FileSystem, root: str) -> None:
    """A new file gets its name at commit; a committed file keeps it."""
    async with fs.create(f"{root}/m.new") as handle:
        await handle.write_all(b"body")
        await handle.commit_async(f"{root}/m.1")
        await handle.commit_async(f"{root}/m.1")
        await fails(errno.EINVAL, lambda: handle.commit_async(f"{root}/m.2"))
    assert await names(fs, root) == ["m.1"]


async def commits_are_repeated(fs: FileSystem, root: str) -> None:
    """A handle can be written after a commit; rollback drops the bytes after the last one."""
    path = f"{root}/a"
    if not fs.capabilities.append:
        async with fs.create(path) as handle:
            await handle.write_all(b"one ")
            await handle.commit_async()
            await handle.commit_async()
            await handle.write_all(b"two ")
            await fails(errno.EOPNOTSUPP, handle.commit_async)
        assert await content(fs, path) == b"one "
        return
    async with fs.create(path) as handle:
        await handle.write_all(b"one ")
        await handle.commit_async()
        await handle.write_all(b"two ")
        await handle.commit_async()
        await handle.commit_async()
        await handle.write_all(BODY * 20)
        handle.rollback()
        await handle.write_all(b"three")
        assert handle.size == len(b"one two three")
        await handle.commit_async()
        await handle.write_all(b" four")
    assert await content(fs, path) == b"one two three"


async def append_to_an_existing_file(fs: FileSystem, root: str) -> None:
    """Appended bytes stay if they are committed, and are cut off if they are not."""
    path = await make(fs, f"{root}/a", b"old")
    if not fs.capabilities.append:
        async with fs.open(path, OpenMode.APPEND) as handle:
            await fails(errno.EOPNOTSUPP, handle.wait_open)
        return
    async with fs.open(path, OpenMode.APPEND) as handle:
        handle.write(b" new")
        await handle.commit_async()
        await handle.write_all(BODY * 20)
        await handle.write_all(b"lost")
    assert await content(fs, path) == b"old new"
    async with fs.open(path, OpenMode.APPEND) as handle:
        await handle.write_all(BODY * 20)
        handle.rollback()
        await handle.commit_async()
    assert await content(fs, path) == b"old new"


async def an_empty_file_is_committed(fs: FileSystem, root: str) -> None:
    """A commit without a write makes an empty file."""
    async with fs.create(f"{root}/a") as handle:
        await handle.commit_async()
    assert await content(fs, f"{root}/a") == b""


async def the_write_buffer_is_bounded(fs: FileSystem, root: str) -> None:
    """write() takes bytes until the buffer is full, then says EAGAIN; after the callback it takes more."""
    path = f"{root}/a"
    async with fs.create(path) as handle:
        event = trio.Event()
        handle.set_output_callback(lambda context: event.set())
        data = os.urandom(5 * fs.limits.write_buffer + 1)
        sent = blocked = 0
        while sent < len(data):
            try:
                took = handle.write(memoryview(data)[sent:])
                assert 0 < took <= fs.limits.write_buffer, "bytes taken at once"
                sent += took
            except BlockingIOError:
                blocked += 1
                if blocked % 2:
                    await handle.writable()
                else:
                    await event.wait()
                event = trio.Event()
            assert fs.stats()["dirty_bytes"] <= fs.limits.write_buffer, "bytes in the buffer"
        assert blocked, "EAGAIN never came"
        assert handle.write(b"") == 0, "no bytes"
        await handle.commit_async()
    assert await content(fs, path) == data


async def a_writer_reads_its_own_bytes(fs: FileSystem, root: str) -> None:
    """A handle reads back the bytes that it wrote, from the buffer or from the file."""
    async with fs.create(f"{root}/a") as handle:
        whole = b""
        for number in range(30):
            piece = b"%d " % number * 1000
            await handle.write_all(piece)
            whole += piece
            assert handle.size == len(whole), "size"
            assert await read_nonblocking(handle, 10, len(whole) - 10) == whole[-10:], "the last bytes"
            assert await handle.read(len(whole) + 5, 0) == whole, "all bytes"
        await handle.commit_async()
        assert await handle.read(len(whole) + 5, 0) == whole
        await handle.write_all(b"more")
        handle.rollback()
        assert await handle.read(len(whole) + 5, 0) == whole, "after a rollback"


async def a_nonblocking_commit(fs: FileSystem, root: str) -> None:
    """commit() says EAGAIN until it has happened; the output callback tells when to ask again."""
    async with fs.create(f"{root}/a") as handle:
        event = trio.Event()
        handle.set_output_callback(lambda context: event.set())
        handle.write(b"body")
        asked = 0
        while True:
            try:
                handle.commit()
                break
            except BlockingIOError:
                asked += 1
                await event.wait()
                event = trio.Event()
        assert asked, "a commit can't be done without waiting"
        assert await content(fs, f"{root}/a") == b"body"
        handle.commit()


async def a_missing_directory(fs: FileSystem, root: str) -> None:
    """A file can't be created where there is no directory: ENOENT from the first use that can know it."""
    if not fs.capabilities.directories:
        path = await make(fs, f"{root}/none/a", b"x")
        await fs.unlink(path)
        await fails(errno.ENOENT, lambda: fs.stat(f"{root}/none"))
        return
    async with fs.create(f"{root}/none/a") as handle:
        await fails(errno.ENOENT, handle.wait_open)
        await fails(errno.ENOENT, lambda: handle.write_all(b"x"))
        await fails(errno.ENOENT, handle.commit_async)
    async with fs.create(f"{root}/a") as handle:
        await handle.write_all(b"x")
        await fails(errno.ENOENT, lambda: handle.commit_async(f"{root}/none/a"))
        await handle.commit_async(f"{root}/b")


async def permissions_are_exact(fs: FileSystem, root: str) -> None:
    """The mode bits are those that were asked for."""
    if not fs.capabilities.attributes:
        return
    for mode in (0o600, 0o640, 0o666, 0o400):
        async with fs.create(f"{root}/{mode:o}", permissions=Permissions(mode)) as handle:
            await handle.commit_async()
        assert stat.S_IMODE((await fs.stat(f"{root}/{mode:o}")).st_mode) == mode, f"{mode:o}"


async def writing_needs_a_handle_for_writing(fs: FileSystem, root: str) -> None:
    """EBADF from a handle that is open for reading, and from a closed one."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle:
        await fails(errno.EBADF, lambda: handle.write_all(b"x"))
        await fails(errno.EBADF, handle.commit_async)
    await fails(errno.EBADF, handle.commit_async)
    assert await content(fs, path) == BODY


async def cancelled_writers_leave_nothing_half(fs: FileSystem, root: str) -> None:
    """A writer is cancelled at any checkpoint: the file is there as a whole, or not at all."""
    body = BODY * 8
    for step in range(12):
        path = f"{root}/f{step}"
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def write(path: str) -> None:
                    async with fs.create(path) as handle:
                        await handle.write_all(body)
                        await handle.commit_async()

                nursery.start_soon(write, path)
                for _ in range(step):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    with trio.move_on_after(5):
        while fs.stats()["in_flight"]:
            await trio.lowlevel.checkpoint()
    for name in await names(fs, root):
        assert await content(fs, f"{root}/{name}") == body, name


async def close_during_a_commit(fs: FileSystem, root: str) -> None:
    """A handle that is closed while it commits leaves the whole file or nothing; waiting tasks get EBADF."""
    path = f"{root}/a"
    for step in range(6):
        handle = fs.create(path, CreateMode.REPLACE_IF_EXISTS)
        await handle.write_all(BODY * 8)
        async with trio.open_nursery() as nursery:

            async def commit(handle: Handle) -> None:
                assert await failure(handle.commit_async) in ("", "EBADF"), "the error of the waiter"

            nursery.start_soon(commit, handle)
            for _ in range(step):
                await trio.lowlevel.checkpoint()
            handle.close()
        await handle.aclose()
        if await names(fs, root):
            assert await content(fs, path) == BODY * 8


async def locks_exclude_each_other(fs: FileSystem, root: str) -> None:
    """try_lock is immediate and exclusive, also before the open, and ends with close."""
    path = await make(fs, f"{root}/a", BODY)
    other = await make(fs, f"{root}/b", BODY)
    one, two, three = (fs.open(name, OpenMode.APPEND) for name in (path, path, other))
    if not fs.capabilities.locks:
        await fails(errno.EOPNOTSUPP, lambda: lock(one))
    else:
        assert one.try_lock(), "a free file"
        assert one.try_lock(), "again by the same handle"
        assert not two.try_lock(), "a locked file"
        assert three.try_lock(), "another file"
        await two.wait_open()
        assert not two.try_lock(), "a locked file, when open"
        one.unlock()
        assert two.try_lock(), "after unlock"
        two.close()
        assert one.try_lock(), "after close"
    for handle in (one, two, three):
        await handle.aclose()
    await fails(errno.EBADF, lambda: lock(one))


async def locks_follow_the_file_to_its_name(fs: FileSystem, root: str) -> None:
    """The lock of a new file is the lock of its final name once it is committed."""
    if not fs.capabilities.locks:
        return
    async with fs.create(f"{root}/m.new") as first, fs.create(f"{root}/m.new") as second:
        assert first.try_lock(), "the first new file"
        assert second.try_lock(), "the second new file"
        await first.commit_async(f"{root}/m.1")
        await second.commit_async(f"{root}/m.2")
        async with fs.open(f"{root}/m.1", OpenMode.APPEND) as again:
            assert not again.try_lock(), "it is locked under its name"
            first.close()
            assert again.try_lock(), "and free when it is closed"


CHECKS = (
    nothing_is_visible_before_the_commit,
    what_is_not_committed_vanishes,
    fail_if_exists,
    replace_if_exists,
    a_name_given_at_commit,
    commits_are_repeated,
    append_to_an_existing_file,
    an_empty_file_is_committed,
    the_write_buffer_is_bounded,
    a_writer_reads_its_own_bytes,
    a_nonblocking_commit,
    a_missing_directory,
    permissions_are_exact,
    writing_needs_a_handle_for_writing,
    cancelled_writers_leave_nothing_half,
    close_during_a_commit,
    locks_exclude_each_other,
    locks_follow_the_file_to_its_name,
)
