"""The values of the file API: modes, permissions, directory entries, small reads, capabilities.

Paths are ``str``; bytes that are no valid UTF-8 are carried as surrogate escapes, as ``os.fsdecode`` does.
Sizes and offsets are bytes, counted from 0.  All values are immutable and hold nothing open.
"""

from __future__ import annotations

import enum
import os

from msgspec import Struct


class OpenMode(enum.Enum):
    """The use for which an existing file is opened."""

    READ = "read"
    APPEND = "append"


class CreateMode(enum.Enum):
    """The effect of :meth:`Handle.commit` if a file of the final name exists already."""

    FAIL_IF_EXISTS = "fail-if-exists"
    REPLACE_IF_EXISTS = "replace-if-exists"


class Permissions(Struct, frozen=True):
    """Owner and mode of a new file or directory.  They are set exactly, in spite of the umask.

    :param mode: permission bits.
    :param gid: group; None: the one that the file system gives.
    :param uid: owner (only root can set it); None: the one that the file system gives.
    """

    mode: int = 0o600
    gid: int | None = None
    uid: int | None = None


class DirEntry(Struct, frozen=True):
    """One name in a directory.  ``is_dir`` is about the entry itself: False for a link to a directory."""

    name: str
    is_dir: bool
    is_symlink: bool


class Peek(Struct, frozen=True):
    """A request to read small ranges of one file.

    :param path: the file.
    :param ranges: ``(offset, size)`` pairs.  A negative offset counts from the end of the file; if the file
        is shorter than that, the range begins at 0.  Size None reads up to the end of the file.
    :param limit: upper bound of one range in bytes, also for size None.
    :param nofollow: ELOOP if the last component of the path is a symbolic link.
    """

    path: str
    ranges: tuple[tuple[int, int | None], ...]
    limit: int = 16 << 20
    nofollow: bool = False


class PeekResult(Struct, frozen=True):
    """The answer to a :class:`Peek`: the file's attributes and one chunk a range, short at the file's end."""

    stat: os.stat_result
    chunks: tuple[bytes, ...]


class Capabilities(Struct, frozen=True):
    """The features of a driver.

    :param locks: ``try_lock`` works.  Without it a multi-dbox store can't be held for writing.
    :param rename: rename within the file system is atomic.
    :param link: hard links exist.
    :param owners: an operation can be done with another user's rights (``ops.AsOwner``).
    :param chains: several operations can be handed over at once (:mod:`dboxfs.fsapi.chain`).
    :param append: a file that is there can be opened for appending, and a committed one is written on.
    :param directories: directories are made, removed and renamed, and a file needs one.  Without it a
        directory is there while a file lies below it.
    :param attributes: permissions are kept, dates and extended attributes can be set.
    :param outlives_name: an open file that was replaced or unlinked can be read.  Without it: ESTALE, ENOENT.
    :param costly_requests: few large reads are better than many at once: read-ahead asks for larger pieces.
    :param frozen: nothing changes while the driver lives, and no path of it is one of the operating system.
    :param copy: a file can be copied by the driver (``FileSystem.copy``).
    """

    locks: bool = True
    rename: bool = True
    link: bool = True
    chains: bool = False
    owners: bool = False
    append: bool = True
    directories: bool = True
    attributes: bool = True
    outlives_name: bool = True
    costly_requests: bool = False
    frozen: bool = False
    copy: bool = False
