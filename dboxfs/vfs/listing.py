"""One open directory: a snapshot of its names, so that a listing shows each name once while things change.

The snapshot is taken at opendir and again when the reader rewinds.  ``.`` and ``..`` come first, then the
children in the order of their names, then messages in the order of their uids; the position of a name in
the snapshot, plus 1, is its offset.  Messages that went away since are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dboxfs.store import UNKNOWN, Folder, Mailbox

_WINDOW = 2048


class Listing:
    """The names of one folder as they were when :meth:`take` was called last."""

    __slots__ = (
        "_rows",
        "_seen",
        "_window_start",
        "children",
        "deadline",
        "folder",
        "inode",
        "mailbox",
        "uids",
    )

    def __init__(self, folder: Folder, inode: int) -> None:
        self.folder = folder
        self.inode = inode
        self.deadline = 0.0
        self.take()

    def take(self) -> None:
        """Take the snapshot."""
        self.children = sorted(self.folder.children.items())
        self.mailbox: Mailbox | None = self.folder.mailbox
        self.uids = self.mailbox.uids if self.mailbox is not None else np.empty(0, np.uint32)
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._window_start = -1
        self._seen: tuple[object, int] | None = None

    def follow(self, folder: Folder) -> None:
        """The mailbox was renamed, and is *folder* now; the snapshot stays."""
        self.folder, self.mailbox = folder, folder.mailbox
        here = folder.children
        self.children = [(shown, here.get(shown, child)) for shown, child in self.children]
        if self.mailbox is None:
            self.uids = self.uids[:0]
        self._window_start = -1

    def rows(self, start: int) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Messages from number *start* of the snapshot on: (position, uid, state, size, received, saved)."""
        position = start
        while position < len(self.uids):
            window = position - position % _WINDOW
            if window != self._window_start or not self._is_current():
                self._load(window)
            for uid, state, size, received, saved in self._rows[position - window :]:
                if uid:
                    yield position, uid, state, size, received, saved
                position += 1

    def _is_current(self) -> bool:
        """Nothing of the mailbox came, went, became known or changed since the window was loaded."""
        assert self.mailbox is not None
        table = self.mailbox.facts
        return self._seen == (table, table.version)

    def _load(self, start: int) -> None:
        uids = self.uids[start : start + _WINDOW]
        assert self.mailbox is not None
        table = self.mailbox.facts
        self._seen = table, table.version
        at = np.minimum(table.uids.searchsorted(uids), max(len(table) - 1, 0))
        there = table.uids[at] == uids if len(table) else np.zeros(len(uids), bool)
        at = at[there] if len(table) else at[:0]
        facts = table.columns(at)
        columns = [np.zeros(len(uids), np.int64) for _ in range(5)]
        sources = (table.uids[at], facts.state, facts.size, facts.received, facts.saved)
        for column, source in zip(columns, sources, strict=True):
            column[there] = source
        self._rows = list(zip(*(column.tolist() for column in columns), strict=True))
        self._window_start = start

    def unknown(self, start: int, count: int) -> bool:
        """Whether one of *count* messages from number *start* on has not been looked at yet."""
        if self.mailbox is None or not self.mailbox.facts.unknown:
            return False
        table = self.mailbox.facts
        uids = self.uids[start : start + count]
        at = np.minimum(table.uids.searchsorted(uids), len(table) - 1)
        return bool(np.any((table.columns(at).state == UNKNOWN) & (table.uids[at] == uids)))
