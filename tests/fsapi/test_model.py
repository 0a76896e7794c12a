"""Any sequence of calls does on every driver what a reference model of a few lines says."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from dboxfs.fsapi import (
    CreateMode,
    Driver,
    Fault,
    FaultsDriver,
    FileSystem,
    Handle,
    MemoryDriver,
    OpenMode,
    Peek,
    PeekResult,
    ThreadsDriver,
    UringDriver,
)

NAMES = ("a", "b", "c", "d/a", "d/b", "none/a")
SIZES = (0, 1, 5, 4096, 70_000, 300_000)


@dataclass(eq=False)
class File:
    """A file of the model: what is committed, and what its writer has added."""

    committed: bytes = b""
    pending: bytes = b""
    has_writer: bool = False


@dataclass(eq=False)
class Open:
    """A handle of the model."""

    handle: Handle
    file: File | None
    name: str = ""
    writes: bool = False
    new: bool = False
    mode: CreateMode = CreateMode.FAIL_IF_EXISTS
    failure: int = 0


@dataclass
class World:
    """Names, files and open handles as they should be."""

    fs: FileSystem
    root: str
    names: dict[str, File] = field(default_factory=dict)
    handles: list[Open] = field(default_factory=list)
    written: int = 0

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def problem(self, name: str) -> int:
        """The errno of using a name that must exist."""
        return 0 if name in self.names else errno.ENOENT

    def pick(self, number: int) -> Open | None:
        return self.handles[number % len(self.handles)] if self.handles else None


async def outcome(call: Callable[[], Any]) -> int:
    """The errno of an async call, 0 if it succeeds."""
    try:
        result = call()
        if hasattr(result, "__await__"):
            await result
    except OSError as error:
        return error.errno or -1
    return 0


async def create(world: World, name: str, replace: bool) -> None:
    mode = CreateMode.REPLACE_IF_EXISTS if replace else CreateMode.FAIL_IF_EXISTS
    failure = errno.ENOENT if name.startswith("none/") else 0
    handle = world.fs.create(world.path(name), mode)
    world.handles.append(Open(handle, None if failure else File(), name, True, True, mode, failure))


async def open_append(world: World, name: str) -> None:
    file = world.names.get(name)
    if file is not None and file.has_writer:
        return  # two writers of one file are kept apart by try_lock
    handle = world.fs.open(world.path(name), OpenMode.APPEND)
    await outcome(handle.wait_open)  # a later step may give the name to a file
    if file is not None:
        file.has_writer = True
    world.handles.append(Open(handle, file, name, True, failure=world.problem(name)))


async def open_read(world: World, name: str) -> None:
    handle = world.fs.open(world.path(name), willneed=10)
    await outcome(handle.wait_open)  # a later step may give the name to a file
    world.handles.append(Open(handle, world.names.get(name), name, failure=world.problem(name)))


async def write(world: World, number: int, size: int) -> None:
    entry = world.pick(number)
    if entry is None:
        return
    data = (b"%06d." % world.written * (size // 7 + 1))[:size]
    world.written += 1
    expected = entry.failure if entry.writes else entry.failure or errno.EBADF
    if entry.failure:
        await outcome(entry.handle.wait_open)
    assert await outcome(lambda: entry.handle.write_all(data)) == expected
    if not expected and entry.file is not None:
        entry.file.pending += data


async def commit(world: World, number: int, name: str | None) -> None:
    entry = world.pick(number)
    if entry is None:
        return
    if entry.failure:
        await outcome(entry.handle.wait_open)
    target = world.path(name) if name is not None else None
    result = await outcome(lambda: entry.handle.commit_async(target))
    if entry.failure or not entry.writes:
        assert result == (entry.failure or errno.EBADF)
        return
    assert entry.file is not None
    final = name or entry.name
    if not entry.new:
        assert result == (errno.EINVAL if final != entry.name else 0)
        if result:
            return
    else:
        entry.name = final
        if final.startswith("none/"):
            assert result == errno.ENOENT
            return
        if final in world.names and entry.mode is CreateMode.FAIL_IF_EXISTS:
            assert result == errno.EEXIST
            return
        assert result == 0
        entry.new = False
        world.names[final] = entry.file
        entry.file.has_writer = True
    entry.file.committed += entry.file.pending
    entry.file.pending = b""


async def rollback(world: World, number: int) -> None:
    entry = world.pick(number)
    if entry is None:
        return
    if entry.failure:
        await outcome(entry.handle.wait_open)
    expected = entry.failure if entry.writes else entry.failure or errno.EBADF
    assert await outcome(entry.handle.rollback) == expected
    if not expected and entry.file is not None:
        entry.file.pending = b""


async def close(world: World, number: int) -> None:
    entry = world.pick(number)
    if entry is None:
        return
    world.handles.remove(entry)
    await entry.handle.aclose()
    assert await outcome(lambda: entry.handle.read(1, 0)) == errno.EBADF
    if entry.writes and entry.file is not None:
        entry.file.pending = b""
        entry.file.has_writer = False


async def read(world: World, number: int, size: int, offset: int, nonblocking: bool) -> None:
    entry = world.pick(number)
    if entry is None:
        return
    if entry.file is None:
        assert await outcome(lambda: pread(entry.handle, size, offset)) == entry.failure
        return
    got = await (pread if nonblocking else read_exactly)(entry.handle, size, offset)
    whole = entry.file.committed + entry.file.pending
    least = whole if entry.writes else entry.file.committed
    assert got == whole[offset : offset + len(got)]
    if not nonblocking:
        assert len(got) >= len(least[offset : offset + size])
    elif size:
        assert got or offset >= len(least)


async def pread(handle: Handle, size: int, offset: int) -> bytes:
    while True:
        try:
            return handle.pread(size, offset)
        except BlockingIOError:
            await handle.readable(offset, size)


async def read_exactly(handle: Handle, size: int, offset: int) -> bytes:
    return await handle.read(size, offset)


async def rename(world: World, source: str, target: str) -> None:
    result = await outcome(lambda: world.fs.rename(world.path(source), world.path(target)))
    if source not in world.names or target.startswith("none/"):
        assert result == errno.ENOENT
        return
    assert result == 0
    if world.names[source] is not world.names.get(target):
        world.names[target] = world.names.pop(source)


async def link(world: World, source: str, target: str) -> None:
    result = await outcome(lambda: world.fs.link(world.path(source), world.path(target)))
    if source not in world.names or target.startswith("none/"):
        assert result == errno.ENOENT
    elif target in world.names:
        assert result == errno.EEXIST
    else:
        assert result == 0
        world.names[target] = world.names[source]


async def unlink(world: World, name: str) -> None:
    assert await outcome(lambda: world.fs.unlink(world.path(name))) == world.problem(name)
    world.names.pop(name, None)


async def check(world: World) -> None:
    """Everything that can be seen is as the model has it."""
    for directory in ("", "d/"):
        seen = {directory + entry.name for entry in await world.fs.listdir(world.path(directory))}
        visible = {name for name in seen if ".temp." not in name and name != "d"}
        assert visible == {name for name in world.names if ("/" in name) == bool(directory)}
    names = sorted(world.names)
    answers = await world.fs.peek([Peek(world.path(name), ((0, None),)) for name in names])
    for name, answer in zip(names, answers, strict=True):
        file = world.names[name]
        assert isinstance(answer, PeekResult)
        assert answer.chunks[0].startswith(file.committed)
        assert (file.committed + file.pending).startswith(answer.chunks[0])
        status = await world.fs.stat(world.path(name))
        assert status.st_size >= len(file.committed)


numbers = st.integers(0, 5)
names = st.sampled_from(NAMES)
sizes = st.sampled_from(SIZES)
actions = st.one_of(
    st.tuples(st.just(create), names, st.booleans()),
    st.tuples(st.just(open_append), names),
    st.tuples(st.just(open_read), names),
    st.tuples(st.just(write), numbers, sizes),
    st.tuples(st.just(write), numbers, sizes),
    st.tuples(st.just(commit), numbers, st.none() | names),
    st.tuples(st.just(commit), numbers, st.none()),
    st.tuples(st.just(rollback), numbers),
    st.tuples(st.just(close), numbers),
    st.tuples(st.just(read), numbers, sizes, sizes, st.booleans()),
    st.tuples(st.just(read), numbers, sizes, sizes, st.booleans()),
    st.tuples(st.just(rename), names, names),
    st.tuples(st.just(link), names, names),
    st.tuples(st.just(unlink), names),
    st.tuples(st.just(check)),
)


async def play(driver: Driver, root: str, script: list[tuple[Any, ...]]) -> None:
    async with FileSystem(driver, write_buffer=100_000, cache_size=1 << 20) as fs:
        world = World(fs, root)
        await fs.mkdir(f"{root}/d")
        for action, *arguments in script:
            await action(world, *arguments)
        for entry in world.handles:
            await entry.handle.aclose()
            if entry.writes and entry.file is not None:
                entry.file.pending = b""
        await check(world)
        left = [entry.name for entry in await fs.listdir(root) if entry.name.startswith(".temp.")]
        assert not left
        for name in list(world.names):
            await fs.unlink(world.path(name))
        await fs.rmdir(f"{root}/d")
    stats = fs.stats()
    assert not stats["in_flight"]
    assert not stats["open_handles"]
    assert not stats["dirty_bytes"]
    assert not stats["driver_in_flight"]
    assert not stats.get("driver_open_files")


def memory() -> Driver:
    driver = MemoryDriver()
    driver.make_dirs("/r")
    return driver


def memory_nowait() -> Driver:
    driver = MemoryDriver(nowait=True)
    driver.make_dirs("/r")
    return driver


def short() -> Driver:
    return FaultsDriver(memory(), [Fault("read", short=1000), Fault("append", short=33_333)], depth=3)


@pytest.mark.parametrize("make", [memory, memory_nowait, short], ids=lambda make: make.__name__)
@settings(max_examples=150, deadline=None)
@given(script=st.lists(actions, max_size=40))
def test_any_calls_do_what_the_model_says(make: Callable[[], Driver], script: list[tuple[Any, ...]]) -> None:
    trio.run(play, make(), "/r", script)


def threads() -> Driver:
    return ThreadsDriver(3)


def uring() -> Driver:
    return UringDriver(3, depth=5)


ON_A_DISK = pytest.mark.parametrize("make", [threads, uring], ids=lambda make: make.__name__)


@ON_A_DISK
@settings(max_examples=50, deadline=None)
@given(script=st.lists(actions, max_size=40))
def test_any_calls_do_what_the_model_says_on_a_disk(
    make: Callable[[], Driver], script: list[tuple[Any, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        trio.run(play, make(), root, script)


@ON_A_DISK
@settings(max_examples=50, deadline=None)
@given(script=st.lists(actions, max_size=40))
def test_any_calls_do_what_the_model_says_without_a_kernel_cache(
    make: Callable[[], Driver], script: list[tuple[Any, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        trio.run(play, FaultsDriver(make()), root, script)
