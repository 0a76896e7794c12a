"""The content of ``.mh_sequences``: the flags of a mailbox as Dovecot has them, then the sequences that
programs keep for themselves, which stand in a file of this name in the store's control directory.

Concurrency: after the read of that file the content is made without a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import numpy as np

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Peek
from dboxfs.store import Folder, Store
from dboxfs.vfs.views.foreign import MH_DIRECTORY
from dboxfs.vfs.views.letters import FLAGS, SEEN
from dboxfs.vfs.views.mh_names import MhNames
from dboxfs.vfs.views.mh_sequences import (
    FLAGGED,
    NAME,
    REPLIED,
    SEQUENCES_LARGEST,
    UNSEEN,
    format_sequence,
)

SHOWN_MAILBOXES = 16
"""Mailboxes whose content is kept until they change."""


class SequencesShown(NamedTuple):
    """A content.  ``changed_ns``: when it changed last.  ``uid_next``: of the mailbox."""

    content: bytes
    changed_ns: int
    uid_next: int


Own = Callable[[Folder], Awaitable[tuple[bytes, int]]]
"""Gives the sequences that are the programs' own, and when they were written (ns since the epoch)."""


class ShownSequences:
    """The content of every mailbox's file.

    :ivar own: gives the programs' own sequences.
    """

    def __init__(self, store: Store, names: MhNames) -> None:
        self._store = store
        self._names = names
        self._kept: dict[str, tuple[object, bytes]] = {}
        self.own: Own = self._from_disk

    async def show(self, folder: Folder, not_unseen: Collection[int] = ()) -> SequencesShown:
        """The content now.

        :param not_unseen: numbers that are left out of ``unseen``.
        """
        await self._names.know(folder)
        own, own_ns = await self.own(folder)
        box = folder.mailbox
        changed_ns = max(box.changed_ns if box is not None else 0, own_ns)
        uid_next = box.uid_next if box is not None else 1
        return SequencesShown(self._content(folder, own, not_unseen), changed_ns, uid_next)

    async def _from_disk(self, folder: Folder) -> tuple[bytes, int]:
        box = folder.mailbox
        if box is None or box.guid is None:
            return b"", 0
        path = os.path.join(self._store.location.control_dir, MH_DIRECTORY, box.guid.hex(), os.fsdecode(NAME))
        try:
            (found,) = await self._store.fs.peek(
                [Peek(path, ((0, None),), limit=SEQUENCES_LARGEST, nofollow=True)]
            )
        except (DboxfsError, OSError):
            return b"", 0
        return (b"", 0) if isinstance(found, OSError) else (found.chunks[0], found.stat.st_mtime_ns)

    def _content(self, folder: Folder, own: bytes, not_unseen: Collection[int]) -> bytes:
        box = folder.mailbox
        state = box, box.changes if box is not None else 0, self._names.unusual(folder), own
        known = self._kept.get(folder.name)
        if known is not None and known[0] == state and not not_unseen:
            return known[1]
        content = self._flags(folder, not_unseen) + own
        if not not_unseen:
            self._kept[folder.name] = state, content
            if len(self._kept) > SHOWN_MAILBOXES:
                del self._kept[next(iter(self._kept))]
        return content

    def _flags(self, folder: Folder, not_unseen: Collection[int]) -> bytes:
        box = folder.mailbox
        if box is None or box.state is None:
            return b""
        uids, numbers = self._names.numbers(folder)
        rows = box.state.rows_of(uids)
        there = rows >= 0
        flags, numbers = box.state.flags[rows[there]], numbers[there]
        unseen = (flags & SEEN) == 0
        if not_unseen:
            unseen &= ~np.isin(numbers, np.fromiter(not_unseen, np.int64, len(not_unseen)))
        return (
            format_sequence(UNSEEN, numbers[unseen])
            + format_sequence(FLAGGED, numbers[(flags & FLAGS["F"]) != 0])
            + format_sequence(REPLIED, numbers[(flags & FLAGS["R"]) != 0])
        )
