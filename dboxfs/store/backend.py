"""What single-dbox and multi-dbox have in common: the interface between a mailbox and its message files."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import Handle
from dboxfs.store.attrs import DAMAGED, Facts, Marks, Uids
from dboxfs.store.plain import PlainBody
from dboxfs.store.record import Record


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found out about one message: ``facts`` and ``record``, or ``error``.

    A damaged message may have facts too: the guess that a listing shows.  An ``OSError`` says nothing about
    the message: it may be asked for again.  ``mark``: what the facts were read from (``sizetable``); 0: it
    isn't sure enough to be remembered beyond this mount.
    """

    uid: int
    facts: Facts | None
    record: Record | None
    error: CorruptFile | NoSuchMessage | OSError | None
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Marked:
    """What the bytes of some messages are at present: the mark of each (0: not known), and its saved date.

    Dates in seconds since the epoch, as the message files or the mailbox's index have them.
    """

    marks: Marks
    saved: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Opened:
    """An open dbox file and the record in it.  ``close()`` gives the handle back; call it once."""

    handle: Handle
    path: str
    record: Record
    close: Callable[[], None]


_ODD = {
    errno.EISDIR: "a directory stands in the place of the file",
    errno.ELOOP: "a symbolic link stands in the place of the file: links to files are not followed",
    errno.ESPIPE: "a FIFO or a device stands in the place of the file",
    errno.ENXIO: "a socket or a device that isn't there stands in the place of the file",
}


def odd_file(error: OSError, path: str) -> CorruptFile | None:
    """The damage that *error* tells of, if *path* is no regular file; None: it says nothing about it."""
    what = _ODD.get(error.errno or 0)
    return CorruptFile(path, 0, what) if what is not None else None


def why_unreadable(error: OSError) -> str:
    """Why a file of messages can't be read, in words."""
    return _ODD.get(error.errno or 0) or error.strerror or str(error)


def scanned(uid: int, record: Record, path: str, saved: int, mark: int) -> Scanned:
    """*record*, understood; one whose received date is damaged can still be read, and has its true size."""
    try:
        return Scanned(uid, record.facts(saved), record, None, mark)
    except FormatError as exc:
        error = CorruptFile(path, exc.offset, exc.reason)
        return Scanned(uid, Facts(DAMAGED, record.size, 0, saved), record, error)


class MessageFiles(Protocol):
    """The message files of one mailbox.

    ``ahead_pays``: by what the last :meth:`open_now` met, it is worth the while to bring the next ones ahead.
    ``marks_at_once``: how many messages :meth:`marks` is best asked for in one call.
    """

    ahead_pays: bool
    marks_at_once: int

    async def generation(self) -> bytes | None:
        """16 bytes that change when Dovecot has repaired what these files are found by; None: not known.

        :raises CorruptFile, OSError: it can't be read.
        """

    async def marks(self, uids: Uids) -> Marked:
        """The marks of *uids* as of now (``sizetable``), without reading a message.

        :raises CorruptFile, OSError: nothing can be found.
        """

    async def scan(self, uids: Uids) -> list[Scanned]:
        """Read what a listing needs of *uids*, in one batch; the answers come in the order of *uids*."""

    async def open(self, uid: int) -> Opened:
        """Open the file that holds *uid* and find its record there.

        :raises NoSuchMessage: there is none (any more).
        :raises CorruptFile: the message is damaged.
        :raises OSError: the file can't be opened or read.
        """

    def open_now(self, uid: int, size: int) -> PlainBody | None:
        """*uid*, which is known to be plain and of *size* bytes, if its file can be opened without waiting.

        None means nothing but "not now, or not like that": :meth:`open` tells.
        """

    def place_now(self, uid: int) -> tuple[int, ...] | None:
        """What changes when *uid* is moved within the storage; None: it would have to be read."""

    def prefetch(self, uids: Uids, sizes: list[int]) -> None:
        """*uids* will be opened soon: begin to bring them into memory.  Never waits or fails."""

    def where(self, opened: Opened) -> str:
        """``<path below the root> <offset> <bytes>``: where the record lies, for people."""

    def forget(self) -> None:
        """Drop what is cached about positions: the mailbox changed its identity or the storage moved."""
