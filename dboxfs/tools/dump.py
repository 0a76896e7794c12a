"""Any file of a store in readable form, as ``doveadm dump`` gives it.

The first bytes of a file tell its kind.  This is a tool for people, and it blocks: it runs without an event
loop.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator

from dboxfs import dbox
from dboxfs.errors import DboxfsError
from dboxfs.index import describe


class NotAStoreFile(DboxfsError):
    """The file is none of dbox, index, log, map or cache."""


def describe_file(path: str) -> Iterator[str]:
    """Lines that describe the file at *path*.

    :raises NotAStoreFile: dboxfs doesn't know this kind of file.
    :raises OSError: the file can't be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAStoreFile(f"{path}: a FIFO or a device")
        size = status.st_size
        if size == 0:
            raise NotAStoreFile(f"{path}: empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            yield from _describe(path, data)


def _describe(path: str, data: memoryview) -> Iterator[str]:
    head = bytes(data[:4])
    if head[:1] in b"123" and head[1:2] == b" ":
        return dbox.describe(bytes(data))
    if head[:1] == b"\x07":
        return describe.describe_index(data)
    if head[:1] == b"\x01" and head[2:4] in (b"\x28\x00", b"\x18\x00", b"\x20\x00"):
        return describe.describe_log(data)
    if head[:2] == b"\x01\x08":
        return describe.describe_cache(data)
    raise NotAStoreFile(f"{path}: no dbox, index, log, map or cache file (it begins with {head.hex(' ')})")
