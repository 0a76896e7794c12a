"""``.dboxfs/events``: the changes of the store, one JSON line an event, for ``tail -f``.

::

    {"time": "2026-11-30T06:10:00.123456Z", "event": "new", "mailbox": "INBOX", "uid": 7,
     "flags": ["\\\\Seen"], "keywords": []}

================  ========================================================================================
event             further fields of the line
================  ========================================================================================
new, flags        mailbox, uid; flags and keywords after the change
expunge           mailbox, uid
mailbox created   mailbox, guid (null: it has no index yet)
mailbox renamed   from, to, guid
mailbox deleted   mailbox, guid
rebuilt           mailbox: its index was made anew, and its uids may stand for other messages
lost              events came faster than they were read: some were dropped at this place
================  ========================================================================================

No line contains text of a message.  A flag change without effect may be reported, too.

The file is a stream that grows at its end.  Events wait, at most :data:`PENDING_MESSAGES` of them, and become
lines when a program looks at the file; the last :data:`STREAM_BYTES` bytes of lines are kept.  Offset 0 is
the line that was the oldest when the program looked the name up: each inode stands for a beginning
(:attr:`EventStream.inode`), and stays the same until lines are dropped.

If a mailbox disappears and its guid appears under another name within :data:`RENAME_SECONDS`, the event is a
rename.

An event wakes the processes that poll the file; a deletion does so when its :data:`RENAME_SECONDS` are over.

Concurrency: no method awaits but the task that waits for that.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import trio

from dboxfs.store import Delta, Folder, Listener, Store
from dboxfs.store.attrs import Uids
from dboxfs.vfs.brought import flag_names
from dboxfs.vfs.host import Spawn
from dboxfs.vfs.waiting import Waiting, Wake

NAME = b"events"

STREAM_BYTES = 1 << 20
"""Bytes of lines that are kept, at most; beyond that the older half is dropped at once."""

PENDING_MESSAGES = 8192
"""Events of messages that wait to become lines, at most."""

BEGINNINGS = 4096
"""Inode numbers of the file that are remembered, at most."""

RENAME_SECONDS = 0.5
"""Seconds after which a mailbox that has disappeared counts as deleted."""


FIRST_STREAM = 1 << 12
"""The first inode number of the file."""
_LAST_STREAM = (1 << 16) - 1

LOST = b'{"event": "lost"}\n'
"""The line in the place of dropped ones."""


class _Pending(NamedTuple):
    """Events of one moment, about messages of one mailbox or about a mailbox itself."""

    when: float
    event: str
    mailbox: str
    uids: Uids
    flags: npt.NDArray[np.uint8]
    keywords: list[tuple[str, ...]]
    more: Mapping[str, object]


class EventStream:
    """Collects the changes of a store, and gives them as the lines of a file.

    :param name_of: gives the name of a mailbox.
    :param spawn: starts a background task.
    :ivar waiting: processes that wait for an event.
    """

    def __init__(self, store: Store, name_of: Callable[[Folder], str], spawn: Spawn) -> None:
        self._name_of = name_of
        self._pending: deque[_Pending] = deque()
        self._pending_messages = 0
        self._data = bytearray()
        self._start = 0
        self._lost = False
        self._gone: dict[bytes, tuple[float, str]] = {}
        self._names = {
            folder.mailbox.guid: name_of(folder)
            for folder in store.folders.values()
            if folder.mailbox is not None and folder.mailbox.guid is not None
        }
        self._beginnings: OrderedDict[int, int] = OrderedDict()
        self._read_to: dict[int, int] = {}
        self._spawn = spawn
        self._next_inode = FIRST_STREAM
        self.waiting = Waiting()
        store.listen(Listener(self._messages, self._folder_gone, self._folder_new))

    # -- collecting ----------------------------------------------------------------------------

    def _messages(self, folder: Folder, delta: Delta) -> None:
        mailbox = self._name_of(folder)
        if delta.reloaded:
            self._add("rebuilt", mailbox)
        self._add("new", mailbox, delta.appended, folder)
        if len(delta.updated):
            self._add("flags", mailbox, np.setdiff1d(delta.updated, delta.appended), folder)
        self._add("expunge", mailbox, delta.expunged)

    def _add(
        self,
        event: str,
        mailbox: str,
        uids: Uids | None = None,
        folder: Folder | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        if uids is not None:
            if not len(uids):
                return
            self._lost |= len(uids) > PENDING_MESSAGES
            uids = uids[-PENDING_MESSAGES:].copy()
        flags, keywords = np.empty(0, np.uint8), list[tuple[str, ...]]()
        box = folder.mailbox if folder is not None else None
        if uids is not None and box is not None and box.state is not None:
            rows = box.state.rows_of(uids)
            uids, rows = uids[rows >= 0], rows[rows >= 0]
            flags = box.state.flags[rows].copy()
            keywords = [box.state.keywords(int(row)) for row in rows] if box.state.keyword_names() else []
        found = uids if uids is not None else np.zeros(1, np.uint32)
        self._pending.append(_Pending(time.time(), event, mailbox, found, flags, keywords, more or {}))
        self._pending_messages += len(found)
        while self._pending_messages > PENDING_MESSAGES and len(self._pending) > 1:
            self._pending_messages -= len(self._pending.popleft().uids)
            self._lost = True
        self.waiting.wake_all()

    def _folder_gone(self, folder: Folder) -> None:
        guid = folder.mailbox.guid if folder.mailbox is not None else None
        if guid is None:
            guid = next((known for known, name in self._names.items() if name == self._name_of(folder)), None)
        if guid is not None and guid in self._names:
            self._gone[guid] = time.monotonic(), self._names.pop(guid)
            self._spawn(self._tell_deleted)

    async def _tell_deleted(self) -> None:
        """Wake the processes that wait, when the mailbox can't appear under another name any more."""
        await trio.sleep(RENAME_SECONDS)
        self.waiting.wake_all()

    def _folder_new(self, folder: Folder) -> None:
        box = folder.mailbox
        if box is None:
            return
        name, guid = self._name_of(folder), box.guid
        before = self._gone.pop(guid, (0.0, ""))[1] if guid is not None else ""
        if guid is not None:
            before = before or self._names.get(guid, "")
            self._names[guid] = name
        text = guid.hex() if guid is not None else None
        if not before:
            self._add("mailbox created", name, more={"guid": text})
        elif before != name:
            self._add("mailbox renamed", "", more={"from": before, "to": name, "guid": text})

    def _settle(self) -> None:
        """Report mailboxes that have not come back under another name as deleted."""
        now = time.monotonic()
        for guid, (when, name) in list(self._gone.items()):
            if now - when >= RENAME_SECONDS:
                del self._gone[guid]
                self._add("mailbox deleted", name, more={"guid": guid.hex()})

    # -- lines ---------------------------------------------------------------------------------

    def _render(self) -> None:
        """Make lines of the events that wait."""
        self._settle()
        if self._lost:
            self._lost = False
            self._data += LOST
        while self._pending:
            pending = self._pending.popleft()
            for line in _lines(pending):
                self._data += line
        self._pending_messages = 0
        if len(self._data) > STREAM_BYTES:
            end = self._data.index(b"\n", len(self._data) - STREAM_BYTES // 2) + 1
            del self._data[:end]
            self._start += end

    @property
    def end(self) -> int:
        """Bytes of all lines, also of those that were dropped."""
        return self._start + len(self._data)

    # -- reading -------------------------------------------------------------------------------

    def inode(self) -> int:
        """The inode number of the file that begins with the oldest line now."""
        self._render()
        newest = next(reversed(self._beginnings), None)
        if newest is not None and self._beginnings[newest] == self._start:
            return newest
        inode = self._next_inode
        self._next_inode = inode + 1 if inode < _LAST_STREAM else FIRST_STREAM
        self._beginnings.pop(inode, None)
        self._beginnings[inode] = self._start
        self._read_to.pop(inode, None)
        if len(self._beginnings) > BEGINNINGS:
            self._read_to.pop(self._beginnings.popitem(last=False)[0], None)
        return inode

    def knows(self, inode: int) -> bool:
        """Whether an inode number was given to the file, and is remembered still."""
        return inode in self._beginnings

    def size(self, inode: int) -> int:
        """Bytes from the beginning of *inode* on."""
        self._render()
        return self.end - self._beginnings[inode]

    def read(self, inode: int, size: int, offset: int) -> bytes:
        """Bytes of the stream; dropped bytes are replaced with line ends and the line of ``lost``."""
        self._render()
        at = self._beginnings[inode] + offset
        missing = max(self._start - at, 0)
        data = bytes(self._data[max(at - self._start, 0) :][: max(size - missing, 0)])
        found = (LOST.rjust(missing, b"\n")[-missing:] + data)[:size] if missing else data
        self._read_to[inode] = max(self.read_to(inode), offset + len(found))
        return found

    def read_to(self, inode: int) -> int:
        """The highest offset up to which any process has read."""
        return self._read_to.get(inode, 0)

    def has_more(self, inode: int, offset: int) -> bool:
        """Whether there are bytes from an offset on."""
        return self.size(inode) > offset

    def wake_later(self, wake: Wake) -> None:
        """Call *wake* when there is an event."""
        self.waiting.add(wake)


def _lines(pending: _Pending) -> Iterator[bytes]:
    when = datetime.fromtimestamp(pending.when, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    common: dict[str, object] = {"time": when, "event": pending.event}
    if pending.mailbox:
        common["mailbox"] = pending.mailbox
    for place, uid in enumerate(pending.uids.tolist()):
        line = common | ({"uid": uid} if uid else {})
        if len(pending.flags):
            line["flags"] = flag_names(int(pending.flags[place]) & 0x1F)
            line["keywords"] = list(pending.keywords[place]) if pending.keywords else []
        yield json.dumps({**line, **pending.more}).encode("utf-8", "backslashreplace") + b"\n"
