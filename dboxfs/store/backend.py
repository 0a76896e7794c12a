"""What single-dbox and multi-dbox have in common, as readers see it.

Which of the two a store is, is decided once, when the store is opened: it gets its :class:`Backend`, and each
mailbox gets its :class:`MessageFiles` from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import Handle
from dboxfs.index.state import IndexState
from dboxfs.store.attrs import DAMAGED, Facts, FactTable, Marks, Uids
from dboxfs.store.body_plain import PlainBody
from dboxfs.store.saved_dates import CachePlaces, SavedDates
from dboxfs.store.stored_record import Record


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found out about one message: ``facts`` and ``record``, or ``error``.

    A damaged message may have facts too: the guess that a listing shows.  An ``OSError`` says nothing about
    the message: it may be asked for again.  ``mark``: what the facts were read from (``sizetable``); 0: it
    isn't sure enough to be remembered beyond this mount.  ``path``: of the file that has the record.
    """

    uid: int
    facts: Facts | None
    record: Record | None
    error: CorruptFile | NoSuchMessage | OSError | None
    mark: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class Marked:
    """What the bytes of some messages are at present: the mark of each (0: not known), and its saved date.

    Dates in seconds since the epoch, as the message files or the mailbox's index have them.
    """

    marks: Marks
    saved: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """An open dbox file and the record in it.  ``close()`` gives the handle back; call it once."""

    handle: Handle
    path: str
    record: Record
    close: Callable[[], None]


def scanned(uid: int, record: Record, path: str, saved: int, mark: int) -> Scanned:
    """*record*, understood; one whose received date is damaged can still be read, and has its true size."""
    try:
        return Scanned(uid, record.facts(saved), record, None, mark, path)
    except FormatError as exc:
        error = CorruptFile(path, exc.offset, exc.reason)
        return Scanned(uid, Facts(DAMAGED, record.size, 0, saved), record, error)


StateOf = Callable[[], IndexState | None]
"""Gives the state of a mailbox's index as it is now; None: the mailbox has no index."""


class Backend(Protocol):
    """The message files of a whole store."""

    def mailbox(self, name: str, state: StateOf) -> MessageFiles:
        """Those of a mailbox.

        :param name: storage name.
        """
        ...

    def map_changed(self) -> None:
        """Something has changed in the directory of the map."""
        ...

    def read_anew(self) -> None:
        """Believe nothing that was read of files that all mailboxes share."""
        ...

    def keep_departed(self) -> None:
        """From now on messages that are gone stay readable, within limits: any of them may be open."""
        ...

    def close(self) -> None:
        """Close the files that are kept open."""
        ...


Places = tuple[Uids, npt.NDArray[np.uint32]]
"""The uids of a mailbox, ascending, and where each message lies (mdbox: its map uid)."""


class DepartedFiles(Protocol):
    """Where the messages of a mailbox lie that are gone: a program may have them open still."""

    @property
    def wanted(self) -> bool:
        """Whether they are to be kept readable (:meth:`Backend.keep_departed`)."""

    async def hold(self, uid: int) -> None:
        """A program is about to open this message: it stays readable, whatever becomes of it.

        :raises NoSuchMessage: its file is gone.
        """

    def note(self) -> Places | None:
        """Where all messages lie, before the index is followed; None: nobody has to know."""

    async def keep(self, expunged: Uids, places: Places) -> None:
        """Messages were expunged.

        :param places: what :meth:`note` gave before.
        """

    async def open(self, uid: int) -> OpenRecord | None:
        """The record of a message that is gone; None: its place is not kept.

        :raises CorruptFile, OSError: it can't be read.
        """

    def forget(self, uid: int) -> None:
        """No program has this message open."""

    def close(self) -> None:
        """Give all of them up."""


class MessageFiles(Protocol):
    """The message files of one mailbox.

    :ivar departed: where messages lie that are gone.
    :ivar ahead_pays: by what the last :meth:`open_now` met, it is worth the while to bring the next messages
        ahead.
    :ivar marks_at_once: how many messages :meth:`marks` is best asked for in one call.
    :ivar flags_tell_moves: a message may lie elsewhere since its flags were updated in the index.
    """

    ahead_pays: bool
    marks_at_once: int
    flags_tell_moves: bool
    departed: DepartedFiles

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

    async def open(self, uid: int) -> OpenRecord:
        """Open the file that holds *uid* and find its record there.

        :raises NoSuchMessage: there is none (any more).
        :raises CorruptFile: the message is damaged.
        :raises OSError: the file can't be opened or read.
        """

    def open_now(self, uid: int, size: int) -> PlainBody | None:
        """*uid*, which is known to be plain and of *size* bytes, if its file can be opened without waiting.

        None means nothing but "not now, or not like that": :meth:`open` tells.
        """

    async def read_many(self, uids: Uids, sizes: list[int]) -> list[bytes | memoryview | None]:
        """The bytes of messages that are known to be plain and of *sizes* bytes, in as few operations as
        possible; None: :meth:`open` tells what is wrong.
        """

    def place_now(self, uid: int) -> tuple[int, ...] | None:
        """What changes when *uid* is moved within the storage; None: it would have to be read."""

    def prefetch(self, uids: Uids, sizes: list[int]) -> None:
        """*uids* will be opened soon: begin to bring them into memory.  Never waits or fails."""

    async def saved_dates(self, uids: Uids, limit: int) -> SavedDates | None:
        """What Dovecot remembers of when *uids* were saved; None: index or files say it.

        :param limit: a larger memory (bytes) is not read.
        """

    async def look_again_for_dates(self, facts: FactTable) -> Uids:
        """Dovecot may have remembered saved dates since *facts* were read.  The uids whose date changed."""

    def cache_places(self) -> CachePlaces | None:
        """Where Dovecot's memory of saved dates has messages; None: there is none."""

    def attachment_suffix(self, uid: int) -> str:
        """What the names of a message's attachment files end with, behind what the metadata say."""

    def where(self, path: str, record: Record) -> str:
        """``<path below the root> <offset> <bytes>``: where a record lies, for people."""

    def forget(self) -> None:
        """Drop what is cached about positions: the mailbox changed its identity or the storage moved."""
