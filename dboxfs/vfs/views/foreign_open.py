"""Files and directories of :mod:`dboxfs.vfs.views.foreign` that are open.

Each call runs on one of the store's own worker threads: a disk that hangs, or slow files of one user's
programs, hold up nobody else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import trio

from dboxfs.vfs.attrs import Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import ListingRow

T = TypeVar("T")


async def in_thread(work: Callable[[], T], threads: trio.CapacityLimiter) -> T:
    """Run *work* on one of *threads*; what the system refuses is refused."""
    try:
        return await trio.to_thread.run_sync(work, limiter=threads)
    except OSError as exc:
        if exc.errno in (errno.EIO, None):
            raise
        raise Refused(exc.errno or errno.EIO) from exc


class ForeignKeeper(Protocol):
    """What an open file tells of itself, and the threads that it shares."""

    threads: trio.CapacityLimiter

    async def grown(self, number: int, end: int) -> None: ...

    def began(self, inode: int) -> None: ...

    def ended(self, inode: int) -> None: ...


class ForeignFile:
    """An open file.

    :param number: its descriptor.  :param is_written: it was opened to be written.
    """

    def __init__(self, foreign: ForeignKeeper, inode: int, number: int, *, is_written: bool) -> None:
        self._foreign = foreign
        self._inode = inode
        self._number = number
        self._is_written = is_written
        if is_written:
            foreign.began(inode)

    async def read(self, size: int, offset: int) -> bytes:
        return await in_thread(partial(os.pread, self._number, size, offset), self._foreign.threads)

    async def write(self, data: bytes, offset: int) -> int:
        await self._foreign.grown(self._number, offset + len(data))
        return await in_thread(partial(self._write, data, offset), self._foreign.threads)

    def _write(self, data: bytes, offset: int) -> int:
        done = 0
        while done < len(data):
            done += os.pwrite(self._number, data[done:], offset + done)
        return done

    async def flush(self) -> None:
        """Nothing waits here."""

    async def fsync(self) -> None:
        await in_thread(partial(os.fsync, self._number), self._foreign.threads)

    async def release(self) -> None:
        os.close(self._number)
        if self._is_written:
            self._foreign.ended(self._inode)


class OpenForeign:
    """A directory, opened: what it had then."""

    def __init__(self, own: Attrs, entries: Sequence[tuple[bytes, Attrs]]) -> None:
        self._own = own
        self._entries = [(b".", own), (b"..", own), *entries]

    async def prepare(self, start: int) -> None:
        """It stays what it was."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position in range(start, len(self._entries)):
            yield position + 1, *self._entries[position]

    async def sizes(self, start: int) -> None:
        """They are known."""

    def attributes(self) -> Attrs:
        return self._own

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())
