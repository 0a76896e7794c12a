"""The checks of :mod:`dboxfs.fsapi.testing.conformance` for handles that read."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from dboxfs.fsapi.filesystem import FileSystem
from dboxfs.fsapi.handle import Handle
from dboxfs.fsapi.types import CreateMode, OpenMode, Peek, PeekResult, Permissions

BODY = bytes(range(256)) * 40 + b"the end"


async def make(fs: FileSystem, path: str, data: bytes) -> str:
    """Make a committed file; returns its path."""
    async with fs.create(path) as handle:
        await handle.write_all(data)
        await handle.commit_async()
    return path


async def failure(call: Callable[[], Awaitable[object]]) -> str:
    """The name of the errno with which ``call`` fails; "": it does not fail."""
    try:
        await call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return ""


async def fails(code: int, call: Callable[[], Awaitable[object]]) -> None:
    """``call`` must fail with this errno."""
    got = await failure(call)
    assert got == errno.errorcode[code], f"{errno.errorcode[code]} was expected, not {got or 'success'}"


async def read_nonblocking(handle: Handle, size: int, offset: int) -> bytes:
    """pread, asked again whenever ``readable`` says so."""
    while True:
        try:
            return handle.pread(size, offset)
        except BlockingIOError:
            await handle.readable(offset, size)


async def read_is_exact(fs: FileSystem, root: str) -> None:
    """``read`` gives exactly the bytes of the file, and fewer only at its end."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle:
        assert await handle.read(len(BODY), 0) == BODY, "the whole file"
        assert await handle.read(100, 300) == BODY[300:400], "a range in the middle"
        assert await handle.read(100, len(BODY) - 7) == b"the end", "a range over the end"
        assert await handle.read(100, len(BODY)) == b"", "at the end"
        assert await handle.read(100, len(BODY) + 10**6) == b"", "behind the end"
        assert await handle.read(0, 5) == b"", "no bytes"
        assert (await handle.wait_open()).st_size == len(BODY) == handle.size, "st_size"
        assert handle.opened, "opened"


async def read_of_an_empty_file(fs: FileSystem, root: str) -> None:
    """An empty file has its end at 0."""
    path = await make(fs, f"{root}/a", b"")
    async with fs.open(path) as handle:
        assert await handle.read(10, 0) == b""
        assert await read_nonblocking(handle, 10, 0) == b""


async def pread_answers_or_eagain(fs: FileSystem, root: str) -> None:
    """A reader that asks again after EAGAIN gets every byte, and at the end b""."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle:
        got = b""
        while piece := await read_nonblocking(handle, 777, len(got)):
            assert len(piece) <= 777, "no more than was asked for"
            got += piece
        assert got == BODY


async def negative_ranges_are_refused(fs: FileSystem, root: str) -> None:
    """EINVAL for a negative offset or size."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle:
        await handle.wait_open()
        await fails(errno.EINVAL, lambda: handle.read(1, -1))
        await fails(errno.EINVAL, lambda: handle.read(-1, 0))


async def input_callback_tells(fs: FileSystem, root: str) -> None:
    """After EAGAIN the callback comes, with its context, and not from inside a call."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle:
        inside = False
        event = trio.Event()

        def callback(context: object) -> None:
            assert context == "context", "the context"
            assert not inside, "called from inside pread"
            event.set()

        handle.set_input_callback(callback, "context")
        while True:
            try:
                inside = True
                data = handle.pread(10, 20)
                break
            except BlockingIOError:
                inside = False
                await event.wait()
                event = trio.Event()
        assert data == BODY[20:30]


async def open_error_comes_out_of_every_use(fs: FileSystem, root: str) -> None:
    """Opening never fails; the first use of the handle raises ENOENT, and so does every later one."""
    async with fs.open(f"{root}/none") as handle:
        await fails(errno.ENOENT, lambda: handle.read(1, 0))
        await fails(errno.ENOENT, handle.wait_open)
        await fails(errno.ENOENT, lambda: read_nonblocking(handle, 1, 0))
        await handle.readable(0)
        assert handle.error is not None, "the error is to be seen"
        assert not handle.opened, "it is not open"
    async with fs.open(f"{root}/none", OpenMode.APPEND) as handle:
        await fails(errno.ENOENT, lambda: handle.commit_async())
        await fails(errno.ENOENT, lambda: handle.write_all(b"x"))
    async with fs.open(f"{root}/nul\0nul") as handle:
        await fails(errno.EINVAL, handle.wait_open)


async def directories_are_not_read(fs: FileSystem, root: str) -> None:
    """EISDIR from the open or from the read."""
    async with fs.open(root) as handle:
        await fails(errno.EISDIR, lambda: handle.read(1, 0))


async def several_readers_of_one_handle(fs: FileSystem, root: str) -> None:
    """Readers of the same and of different ranges all get their bytes."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle, trio.open_nursery() as nursery:

        async def reader(offset: int) -> None:
            assert await handle.read(3000, offset) == BODY[offset : offset + 3000]
            assert await read_nonblocking(handle, 1, offset) == BODY[offset : offset + 1]

        for offset in (0, 0, 100, 5000, 5000, 9999, 0, 3000):
            nursery.start_soon(reader, offset)


async def close_wakes_waiters(fs: FileSystem, root: str) -> None:
    """Tasks that wait on a handle are woken with EBADF when it is closed; later calls get EBADF, too."""
    path = await make(fs, f"{root}/a", BODY)
    handle = fs.open(path, OpenMode.APPEND if fs.capabilities.append else OpenMode.READ)

    async def waiter(call: Callable[[], Awaitable[object]]) -> None:
        assert await failure(call) in ("", "EBADF"), "the error of a waiter"

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(waiter, handle.wait_open)
            nursery.start_soon(waiter, lambda: handle.readable(0))
            nursery.start_soon(waiter, lambda: handle.read(1, 0))
        await trio.lowlevel.checkpoint()
        handle.close()
        handle.close()
    await fails(errno.EBADF, lambda: handle.read(1, 0))
    await fails(errno.EBADF, handle.writable)
    await handle.aclose()


async def cancelled_reads_lose_nothing(fs: FileSystem, root: str) -> None:
    """A cancelled wait leaves the handle as it was."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle:
        for step in range(6):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(handle.read, 100, 50)
                    nursery.start_soon(handle.readable, 50)
                    nursery.start_soon(handle.wait_open)
                    for _ in range(step):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
        assert await handle.read(100, 50) == BODY[50:150]


async def closed_at_once(fs: FileSystem, root: str) -> None:
    """A handle may be closed before it is open; nothing stays open."""
    path = await make(fs, f"{root}/a", BODY)
    for _ in range(20):
        fs.open(path).close()
        fs.open(path, OpenMode.APPEND).close()
        await fs.open(path).aclose()


async def growth_is_seen(fs: FileSystem, root: str) -> None:
    """Bytes that are appended after a read met the end of the file are found by the next read."""
    path = await make(fs, f"{root}/a", b"12345")
    if not fs.capabilities.append:
        return
    async with fs.open(path) as reader, fs.open(path, OpenMode.APPEND) as writer:
        assert await reader.read(100, 0) == b"12345"
        assert await reader.read(100, 5) == b""
        await writer.write_all(b"67890")
        await writer.commit_async()
        assert await reader.read(100, 0) == b"1234567890"
        assert await reader.read(100, 5) == b"67890"
        await reader.readable(10)
        assert await read_nonblocking(reader, 5, 9) == b"0"


async def an_open_file_outlives_its_name(fs: FileSystem, root: str) -> None:
    """A file that is unlinked or replaced can be read to its end through the open handle."""
    path = await make(fs, f"{root}/a", BODY)
    await make(fs, f"{root}/b", b"another")
    if not fs.capabilities.outlives_name:
        async with fs.open(path) as handle:
            await handle.wait_open()
            await fs.unlink(path)
            await fails(errno.ENOENT, lambda: handle.read(100, 0))
        return
    async with fs.open(path) as handle:
        await handle.wait_open()
        await fs.rename(f"{root}/b", path)
        assert await handle.read(len(BODY), 0) == BODY
    async with fs.open(path) as handle:
        await handle.wait_open()
        await fs.unlink(path)
        assert await handle.read(100, 0) == b"another"


async def willneed_is_a_hint(fs: FileSystem, root: str) -> None:
    """A hint has no visible effect, for any range and at any time."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path, willneed=1 << 20) as handle:
        handle.willneed(0, 100)
        assert await handle.read(10, 0) == BODY[:10]
        handle.willneed(5000, 1 << 20)
        handle.willneed(1 << 20, 1 << 20)
        assert await handle.read(100, 5000) == BODY[5000:5100]
    handle.willneed(0, 100)


async def peek_reads_ranges(fs: FileSystem, root: str) -> None:
    """Ranges of many files, counted from either end, errors kept apart, in the order of the requests."""
    paths = [await make(fs, f"{root}/f{number}", BODY + b"%d" % number) for number in range(70)]
    ranges = ((0, 4), (-3, None), (len(BODY), 100), (-(10**9), 2), (10**9, None), (2, 0))
    requests = [Peek(path, ranges) for path in paths]
    requests[30:30] = [
        Peek(f"{root}/none", ranges),
        Peek(root, ranges),
        Peek(paths[0], ((0, None),), limit=9),
        Peek(f"{root}/no\0name", ranges),
    ]
    answers = await fs.peek(requests)
    assert await fs.peek([]) == [], "no requests"
    missing, directory, limited, impossible = answers[30:34]
    assert isinstance(missing, FileNotFoundError), f"ENOENT, not {missing!r}"
    assert isinstance(directory, IsADirectoryError), f"EISDIR, not {directory!r}"
    assert isinstance(limited, PeekResult), f"chunks, not {limited!r}"
    assert limited.chunks == (BODY[:9],), "the limit"
    assert isinstance(impossible, OSError), f"EINVAL, not {impossible!r}"
    assert impossible.errno == errno.EINVAL, f"EINVAL, not {impossible!r}"
    for number, answer in enumerate(answers[:30] + answers[34:]):
        whole = BODY + b"%d" % number
        assert isinstance(answer, PeekResult), f"{paths[number]}: {answer!r}"
        assert answer.chunks == (whole[:4], whole[-3:], whole[len(BODY) :], whole[:2], b"", b"")
        assert answer.stat.st_size == len(whole), "st_size"


async def peek_is_never_cached(fs: FileSystem, root: str) -> None:
    """A peek gives the present bytes of the file, although a handle has read it before."""
    path = await make(fs, f"{root}/a", b"12345")
    async with fs.open(path, OpenMode.APPEND if fs.capabilities.append else OpenMode.READ) as handle:
        assert await handle.read(5, 0) == b"12345"
        if fs.capabilities.append:
            await handle.write_all(b"6")
            await handle.commit_async()
        else:
            async with fs.create(path, CreateMode.REPLACE_IF_EXISTS) as other:
                await other.write_all(b"123456")
                await other.commit_async()
        (answer,) = await fs.peek([Peek(path, ((0, None),))])
        assert isinstance(answer, PeekResult), repr(answer)
        assert answer.chunks == (b"123456",)


async def odd_names_are_kept(fs: FileSystem, root: str) -> None:
    """Bytes of a name that are no UTF-8 are kept as surrogate escapes."""
    name = b"caf\xe9 \xff.m".decode("utf-8", "surrogateescape")
    async with fs.create(f"{root}/{name}", permissions=Permissions(0o640)) as handle:
        await handle.write_all(b"x")
        await handle.commit_async()
    assert [entry.name for entry in await fs.listdir(root)] == [name]
    async with fs.open(f"{root}/{name}") as handle:
        assert await handle.read(5, 0) == b"x"


async def a_handle_waits_only_when_it_must(fs: FileSystem, root: str) -> None:
    """A task that waits for a handle is asleep, and is woken without another task's help."""
    path = await make(fs, f"{root}/a", BODY)
    async with fs.open(path) as handle, trio.open_nursery() as nursery:
        nursery.start_soon(handle.readable, 0)
        await wait_all_tasks_blocked()


CHECKS = (
    read_is_exact,
    read_of_an_empty_file,
    pread_answers_or_eagain,
    negative_ranges_are_refused,
    input_callback_tells,
    open_error_comes_out_of_every_use,
    directories_are_not_read,
    several_readers_of_one_handle,
    close_wakes_waiters,
    cancelled_reads_lose_nothing,
    closed_at_once,
    growth_is_seen,
    an_open_file_outlives_its_name,
    willneed_is_a_hint,
    peek_reads_ranges,
    peek_is_never_cached,
    odd_names_are_kept,
    a_handle_waits_only_when_it_must,
)
