"""The file system: handles by path, whole operations by ``await``, counters.

One :class:`FileSystem` belongs to one trio event loop and one driver.  Opening and creating never fail and
never block; whole operations (``stat``, ``listdir``, ``rename`` ...) are one driver operation each.

Cancellation: every awaitable here is a checkpoint and can be cancelled.  An operation that only reads is
dropped.  An operation that changes something never happens if it has not begun; if it has begun, it ends in
the background as if the task had not been cancelled.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar

import trio

from dboxfs.fsapi import ops, steps
from dboxfs.fsapi.cache.cache import PageCache
from dboxfs.fsapi.cache.ksm import Ksm
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.engine import Engine, Limits
from dboxfs.fsapi.handle import Handle
from dboxfs.fsapi.locks import LockTable
from dboxfs.fsapi.open_file import HandleFile
from dboxfs.fsapi.ops import Job, Op, OpenedFile, os_error
from dboxfs.fsapi.peek_jobs import PeekJobs
from dboxfs.fsapi.temporary import Process
from dboxfs.fsapi.types import Capabilities, CreateMode, DirEntry, OpenMode, Peek, PeekResult, Permissions

R = TypeVar("R")

_WILLNEED_BATCH = 16


class FileSystem:
    """Files through a driver.

    Use it as ``async with FileSystem(ThreadsDriver()) as fs``, or call :meth:`start` with a nursery and
    :meth:`aclose` at the end.

    :param driver: runs the operations; it belongs to this file system from now on.
    :param readahead: bytes read ahead of a sequential reader, at most.
    :param write_buffer: bytes that one handle takes before ``write`` says EAGAIN.
    :param cache_size: bytes of the daemon's own page cache (``cache``), write buffers included.
    :param dirty_limit: bytes of all handles together that are written but not yet at the driver.
    :param sync: a commit waits until data and name are durable.  False, for bulk loads: it doesn't.
    :param cache: the page cache of another file system; None: one of its own.
    :param process: this process; None: it is looked up.
    :param ksm: has the kernel keep equal pages of the cache once (see :mod:`dboxfs.fsapi.cache.ksm`).
    """

    def __init__(
        self,
        driver: Driver,
        *,
        readahead: int = 1 << 20,
        write_buffer: int = 256 << 10,
        cache_size: int = 64 << 20,
        dirty_limit: int = 16 << 20,
        sync: bool = True,
        ksm: Ksm | None = None,
        cache: PageCache | None = None,
        process: Process | None = None,
    ) -> None:
        limits = Limits(readahead, write_buffer, dirty_limit, sync)
        self.engine = Engine(driver, cache or PageCache(cache_size), limits, ksm, owns_cache=cache is None)
        if cache is None:
            self.engine.cache.merge(ksm)
        self._process = process or Process.this()
        self._peek_jobs = PeekJobs(adapts=driver.kernel_cached)
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    def sharing(self, driver: Driver) -> FileSystem:
        """Another file system with the same page cache and limits, say for one of many users of a driver.

        Its counters, locks and unwritten bytes are its own.

        :param driver: a driver on top of this file system's driver.
        """
        limits, found = self.engine.limits, type(self)(driver, cache=self.engine.cache, process=self._process)
        found.engine.limits = limits
        return found

    # -- life --------------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the driver; tasks (and exceptions of a callback) go into ``nursery``.  A checkpoint."""
        await self.engine.start(nursery)

    async def aclose(self) -> None:
        """Close every handle, wait 2 seconds at most for operations in flight, stop the driver.

        Not cancellable.  It doesn't wait for an operation that hangs longer.
        """
        await self.engine.aclose()

    async def __aenter__(self) -> FileSystem:
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        try:
            await self.start(nursery)
        except BaseException as error:  # a driver that can't begin
            with contextlib.suppress(BaseExceptionGroup):
                await manager.__aexit__(type(error), error, error.__traceback__)
            raise
        self._nursery_manager = manager
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        manager = self._nursery_manager
        assert manager is not None
        self._nursery_manager = None
        await self.aclose()
        try:
            return await manager.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            if group.exceptions == (error,):  # the body's own exception, which the nursery has wrapped
                return False
            raise

    # -- handles -----------------------------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: OpenMode = OpenMode.READ,
        *,
        willneed: int = 0,
        nofollow: bool = False,
        background: bool = False,
    ) -> Handle:
        """Open an existing file.  Never fails and never waits: the handle's first use raises the error.

        :param willneed: bytes from the beginning of the file that will be read soon.
        :param nofollow: ELOOP if the last component of the path is a symbolic link.
        :param background: no task waits for it yet: other work goes first.
        """
        self.engine.counters.opens += 1
        file = HandleFile(self.engine, path)
        if mode is OpenMode.APPEND:
            file.write_with(None, CreateMode.FAIL_IF_EXISTS)
        elif self.engine.running and self._open_inline(file, nofollow):
            self.engine.handles.add(file)
            if willneed:
                file.willneed(0, willneed)
            return Handle(self.engine, file)
        if willneed and not self.driver.kernel_cached:
            file.willneed(0, willneed)
        op = ops.Open(path, mode is OpenMode.APPEND, willneed, nofollow)
        return self._open_by_worker(file, op, background=background)

    def create(
        self,
        path: str,
        mode: CreateMode = CreateMode.FAIL_IF_EXISTS,
        permissions: Permissions | None = None,
    ) -> Handle:
        """Begin a new file.  Never fails and never waits: the handle's first use raises the error.

        The file has a temporary name (``.temp.``...) in the directory of ``path`` until
        :meth:`Handle.commit` gives it its final name; without a commit, closing the handle removes it.

        :param mode: the effect of a commit if the name is taken.
        :param permissions: set exactly (mode 0600 if left out).
        """
        self.engine.counters.creates += 1
        temporary = os.path.join(os.path.dirname(path), self._temporary_name())
        file = HandleFile(self.engine, path)
        file.write_with(temporary, mode)
        return self._open_by_worker(file, ops.Create(temporary, permissions or Permissions()))

    # -- whole operations --------------------------------------------------------------------------------

    async def stat(self, path: str) -> os.stat_result:
        """Attributes of a file, symbolic links followed.  A checkpoint; cancelled: nothing happened."""
        return await self._run(ops.Stat(path))

    async def lstat(self, path: str) -> os.stat_result:
        """Attributes of a file or of a symbolic link itself.  A checkpoint; cancelled: nothing happened."""
        return await self._run(ops.Stat(path, follow=False))

    async def listdir(self, path: str) -> list[DirEntry]:
        """The entries of a directory, unordered.  A checkpoint; cancelled: nothing happened."""
        return await self._run(ops.Listdir(path))

    async def statvfs(self, path: str) -> os.statvfs_result:
        """The file system on which *path* lies; one without numbers, where it is none of this machine's.

        A checkpoint; cancelled: nothing happened.
        """
        return await self._run(ops.Statvfs(path))

    async def readlink(self, path: str) -> str:
        """The target of a symbolic link.  A checkpoint; cancelled: nothing happened."""
        return await self._run(ops.Readlink(path))

    async def peek(self, requests: Sequence[Peek], *, in_order: bool = False) -> list[PeekResult | OSError]:
        """Read small ranges of many files, spread over the workers: one answer or error for each request.

        The answers are the present contents of the files, never those of a cache of this process.  A short
        chunk at the end of a file is no error.  A checkpoint; cancelled: reads that have not begun are
        dropped.

        :param in_order: one worker reads all files, one after the other.
        """
        if in_order:
            return await self._run(ops.PeekMany(tuple(requests)))
        step = self._peek_jobs.of(len(requests), self.driver.depth)
        batches = [
            ops.PeekMany(tuple(requests[start : start + step])) for start in range(0, len(requests), step)
        ]
        began = trio.current_time()
        answers = await self._run_all(batches)
        self._peek_jobs.took(step, trio.current_time() - began)
        return [answer for batch in answers for answer in batch]

    async def peek_soon(self, request: Peek) -> PeekResult | OSError:
        """:meth:`peek` of one file that is most likely in memory: the event loop may wait for the answer, for
        a millisecond at most.  A checkpoint only if it takes longer; cancelled: the answer is dropped.
        """
        ended: list[Job[list[PeekResult | OSError]]] = []
        over: trio.Event | None = None

        def done(job: Job[list[PeekResult | OSError]]) -> None:
            ended.append(job)
            if over is not None:
                over.set()

        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.engine.has_lane or not self.engine.run_soon(ops.PeekMany((request,)), done):
            return (await self.peek([request]))[0]
        if not ended:
            over = trio.Event()
            await over.wait()
        return ended[0].value()[0]

    def willneed(self, files: Sequence[tuple[str, int]]) -> None:
        """Hint: the first *size* bytes of these files, (path, size), will be read soon.

        Never fails or waits.  Only useful if the kernel keeps the bytes that it read
        (``driver.kernel_cached``); symbolic links are left out.
        """
        if not self.engine.running:
            return
        for start in range(0, len(files), _WILLNEED_BATCH):
            op = ops.WillneedMany(tuple(files[start : start + _WILLNEED_BATCH]))
            self.engine.submit(op, _ignore, background=True)

    async def rename(self, source: str, target: str) -> None:
        """Rename; replaces an existing file.  A checkpoint; cancelled: it happens whole, or not."""
        await self._run(ops.Rename(source, target))

    async def link(self, source: str, target: str) -> None:
        """Give a file another name.  A checkpoint; cancelled: it happens whole, or not.

        :raises FileExistsError: the name is taken.
        """
        await self._run(ops.Link(source, target))

    async def copy(self, source: str, target: str, *, replace: bool = False) -> None:
        """Have the driver copy a file as a whole.  A checkpoint; cancelled: it happens whole, or not.

        :param replace: a file of that name is replaced; without it: FileExistsError.
        :raises OSError: EOPNOTSUPP: the driver can't (``capabilities.copy``).
        """
        if not self.capabilities.copy:
            raise os_error(errno.EOPNOTSUPP, source)
        await self._run(ops.Copy(source, target, replace))

    async def unlink(self, path: str) -> None:
        """Remove a file's name.  A checkpoint; cancelled: it happens whole, or not."""
        await self._run(ops.Unlink(path))

    async def mkdir(self, path: str, permissions: Permissions | None = None) -> None:
        """Make a directory (mode 0700 if left out).  A checkpoint; cancelled: it happens whole, or not."""
        await self._run(ops.Mkdir(path, permissions or Permissions(0o700)))

    async def rmdir(self, path: str) -> None:
        """Remove an empty directory.  A checkpoint; cancelled: it happens whole, or not."""
        await self._run(ops.Rmdir(path))

    async def fsync_dir(self, path: str) -> None:
        """Make the names in a directory durable.  A checkpoint; cancelled: it happens whole, or not."""
        await self._run(ops.SyncDir(path))

    @property
    def capabilities(self) -> Capabilities:
        """The features of this driver's files."""
        return self.driver.capabilities

    @property
    def in_flight(self) -> int:
        """Operations at the driver whose answers are still to come."""
        return self.engine.in_flight

    def stats(self) -> dict[str, int | float]:
        """Counters since the start and gauges of now; with a prefix those of cache, driver and KSM."""
        engine, counters = self.engine, self.engine.counters
        result: dict[str, int | float] = {
            "opens": counters.opens,
            "inline_opens": counters.inline_opens,
            "open_handles": len(engine.handles),
            "inline_reads": counters.inline_reads,
            "driver_reads": counters.driver_reads,
            "driver_bytes": counters.driver_bytes,
            "creates": counters.creates,
            "written_bytes": counters.written_bytes,
            "dirty_bytes": engine.dirty,
            "locks": len(engine.locks),
            "lost_errors": counters.lost_errors,
            "in_flight": engine.in_flight,
        }
        result.update((f"cache_{name}", value) for name, value in self.cache.stats().items())
        result.update((f"driver_{name}", value) for name, value in self.driver.stats().items())
        if engine.ksm is not None:
            result.update((f"ksm_{name}", value) for name, value in engine.ksm.stats().items())
        return result

    # -- protocols of many steps --------------------------------------------------------------------------

    async def run(self, op: Op[R]) -> R:
        """Run one operation to its end: cancellation never drops it.  Not a checkpoint for cancellation.

        :raises OSError: the operation's; EBADF: the file system is closed.
        """
        return await steps.run(self.engine, op)

    async def run_all(self, batch: Sequence[Op[R]]) -> list[R | OSError]:
        """:meth:`run` of several operations, side by side: an answer or an error for each, in their order.

        :raises OSError: EBADF: the file system is closed.
        """
        return await steps.run_all(self.engine, batch)

    async def run_chain(self, program: Callable[[], Steps[R]]) -> R:
        """Run a program of operations (:mod:`dboxfs.fsapi.chain`) to its end, with one hop to a worker where
        the driver can.

        :raises OSError: an operation's, if the program lets it out; EBADF: the file system is closed.
        """
        return await steps.run_chain(self.engine, program)

    async def run_chain_soon(self, program: Callable[[], Steps[R]], at_once: Op[R] | None = None) -> R:
        """:meth:`run_chain` of a program that takes microseconds; the event loop may wait for it, for a
        millisecond at most.

        :param at_once: an operation that does what the program does, for a driver with a lane.
        """
        return await steps.run_chain_soon(self.engine, program, at_once)

    @property
    def driver(self) -> Driver:
        """The driver that carries out the operations."""
        return self.engine.driver

    @property
    def cache(self) -> PageCache:
        """The daemon's own page cache."""
        return self.engine.cache

    @property
    def locks(self) -> LockTable:
        """The exclusive locks in memory (:meth:`Handle.try_lock`)."""
        return self.engine.locks

    @property
    def limits(self) -> Limits:
        """The limits that the caller chose for this file system."""
        return self.engine.limits

    # -- inside ------------------------------------------------------------------------------------------

    def _temporary_name(self) -> str:
        if self._process.pid != os.getpid():
            self._process = Process.this()
        return self._process.temporary_name(self.engine.counters.creates)

    def _open_by_worker(self, file: HandleFile, op: Op[OpenedFile], *, background: bool = False) -> Handle:
        if not self.engine.running:
            file.open_failed(os_error(errno.EBADF, file.path))
            return Handle(self.engine, file)
        self.engine.handles.add(file)
        file.begin_open()
        self.engine.submit(op, file.open_done, background=background)
        return Handle(self.engine, file)

    def _open_inline(self, file: HandleFile, nofollow: bool) -> bool:
        try:
            fd = self.driver.open_nowait(file.path, nofollow)
        except OSError as error:
            file.open_failed(error)
            return True
        if fd is None:
            return False
        file.open_inline(fd)
        self.engine.counters.inline_opens += 1
        return True

    async def _run(self, op: Op[R]) -> R:
        (answer,) = await self._run_all([op])
        return answer

    async def _run_all(self, batch: Sequence[Op[R]]) -> list[R]:
        """Run operations side by side and return their answers in order; the first error is raised."""
        self.engine.check_running()
        if not batch:
            await trio.lowlevel.checkpoint()
            return []
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        missing = len(batch)

        def done(job: Job[R]) -> None:
            nonlocal missing, task
            missing -= 1
            if not missing and task is not None:
                trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            nonlocal task
            task = None
            for job in jobs:
                job.cancel()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.checkpoint_if_cancelled()
        jobs = [self.engine.submit(op, done) for op in batch]
        await trio.lowlevel.wait_task_rescheduled(abort)
        return [job.value() for job in jobs]


def _ignore(job: Job[None]) -> None:
    """The result of a hint is not used."""
