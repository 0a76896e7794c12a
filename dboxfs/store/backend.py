"""The interface of single-dbox and multi-dbox for readers.

When a store is opened, it gets the :class:`Backend` of its format, and each mailbox gets its
:class:`MessageFiles` from that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import Handle
from dboxfs.index.state import IndexState
from dboxfs.store.attrs import DAMAGED, Facts, FactTable, Marks, Uids
from dboxfs.store.body_plain import PlainBody
from dboxfs.store.saved_dates import CachePlaces, SavedDates
from dboxfs.store.stored_record import Record


class Scanned(Struct, frozen=True):
    """The result of the scan of one message: ``facts`` and ``record``, or ``error``.

    A damaged message may have facts, too: the guess that a listing shows.  An ``OSError`` says nothing about
    the message, which may be scanned again.  ``mark``: of the bytes that the facts were read from
    (``size_table``); 0: not sure enough to be kept beyond this mount.  ``path``: of the file that has the
    record.
    """

    uid: int
    facts: Facts | None
    record: Record | None
    error: CorruptFile | NoSuchMessage | OSError | None
    mark: int = 0
    path: str = ""


class Marked(Struct, frozen=True):
    """The current marks of some messages (0: unknown), and their saved dates.

    Dates in seconds since the epoch, as the message files or the mailbox's index have them.
    """

    marks: Marks
    saved: npt.NDArray[np.int64]


class OpenRecord(Struct, frozen=True):
    """An open dbox file and the record in it.  ``close()`` gives the handle back; call it once."""

    handle: Handle
    path: str
    record: Record
    close: Callable[[], None]


def scanned(uid: int, record: Record, path: str, saved: int, mark: int) -> Scanned:
    """The :class:`Scanned` of *record*; a message with a damaged received date can still be read, and has its
    true size.
    """
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
        """The message files of a mailbox.

        :param name: storage name.
        """
        ...

    def map_changed(self) -> None:
        """Note that something has changed in the directory of the map."""
        ...

    def read_anew(self) -> None:
        """Read the files that all mailboxes share again, as if they were unknown."""
        ...

    def keep_departed(self) -> None:
        """From now on keep expunged messages readable, within limits: a program may have any of them open."""
        ...

    def close(self) -> None:
        """Close the files that are kept open."""
        ...


Places = tuple[Uids, npt.NDArray[np.uint32]]
"""The uids of a mailbox, ascending, and the place of each message (mdbox: its map uid)."""


class DepartedFiles(Protocol):
    """The places of a mailbox's expunged messages, which a program may still have open."""

    @property
    def wanted(self) -> bool:
        """Whether expunged messages are to stay readable (:meth:`Backend.keep_departed`)."""

    async def hold(self, uid: int) -> None:
        """Keep a message readable that a program is about to open, even after an expunge.

        :raises NoSuchMessage: its file is gone.
        """

    def note(self) -> Places | None:
        """The places of all messages, called before the index is read again; None: they are not needed."""

    async def keep(self, expunged: Uids, places: Places) -> None:
        """Keep the places of messages that were expunged.

        :param places: the earlier result of :meth:`note`.
        """

    async def open(self, uid: int) -> OpenRecord | None:
        """The record of an expunged message; None: its place is not kept.

        :raises CorruptFile, OSError: it can't be read.
        """

    def forget(self, uid: int) -> None:
        """Give up the place of a message that no program has open."""

    def close(self) -> None:
        """Give up all places."""


class MessageFiles(Protocol):
    """The message files of one mailbox.

    :ivar departed: places of expunged messages.
    :ivar ahead_pays: whether the last :meth:`open_now` showed that it pays to bring the next messages ahead.
    :ivar marks_at_once: the best number of messages for one call of :meth:`marks`.
    :ivar flags_tell_moves: an update of a message's flags in the index may mean that the message was moved.
    """

    ahead_pays: bool
    marks_at_once: int
    flags_tell_moves: bool
    departed: DepartedFiles

    async def generation(self) -> bytes | None:
        """16 bytes that change when Dovecot has repaired the index or map of these files; None: unknown.

        :raises CorruptFile, OSError: it can't be read.
        """

    async def marks(self, uids: Uids) -> Marked:
        """The current marks of *uids* (``size_table``), without reading a message.

        :raises CorruptFile, OSError: no message can be found.
        """

    async def scan(self, uids: Uids, *, records: bool = True) -> list[Scanned]:
        """Read the attributes of *uids* that a listing needs, in one batch; the answers are in the order of
        *uids*.

        :param records: False: the caller only needs facts, marks and errors; the answers for usual messages
            have no record then.
        """

    async def open(self, uid: int) -> OpenRecord:
        """Open the file that holds *uid* and find its record there.

        :raises NoSuchMessage: the message does not exist (any more).
        :raises CorruptFile: the message is damaged.
        :raises OSError: the file can't be opened or read.
        """

    def open_now(self, uid: int, size: int) -> PlainBody | None:
        """*uid*, which is known to be plain and of *size* bytes, if its file can be opened without waiting.

        None: not now, or the message is stored otherwise; :meth:`open` then gives the message or the error.
        """

    async def read_many(self, uids: Uids, sizes: list[int]) -> list[bytes | memoryview | None]:
        """The bytes of messages that are known to be plain and of *sizes* bytes, in as few operations as
        possible; None: :meth:`open` gives the error.
        """

    def place_now(self, uid: int) -> tuple[int, ...] | None:
        """A value that changes when *uid* is moved within the storage; None: it would have to be read."""

    def prefetch(self, uids: Uids, sizes: list[int]) -> None:
        """Begin to bring *uids* into memory, which will be opened soon.  Never waits or fails."""

    async def saved_dates(self, uids: Uids, limit: int) -> SavedDates | None:
        """The saved dates of *uids* in Dovecot's cache file; None: index or files have them.

        :param limit: a larger cache file (bytes) is not read.
        """

    async def look_again_for_dates(self, facts: FactTable) -> Uids:
        """Read saved dates that Dovecot may have cached since *facts* were read; gives the uids whose date
        changed.
        """

    def cache_places(self) -> CachePlaces | None:
        """The offsets of messages in Dovecot's cache file; None: there is none."""

    def attachment_suffix(self, uid: int) -> str:
        """The end of the names of a message's attachment files, behind the part that the metadata have."""

    def where(self, path: str, record: Record) -> str:
        """``<path below the root> <offset> <bytes>``: the place of a record, for messages to users."""

    def forget(self) -> None:
        """Drop cached positions: the mailbox changed its identity, or the storage moved."""
