"""Keeps flags and keywords when an editor saves by renaming: ``rename f f~``, write ``f``, ``unlink f~``.

Vim, emacs and sed -i.bak do that.  Each step by itself is simple: another name, a new message, an expunge.
Together they are a replacement, and the user expects flags and keywords to stay.  So a message that was
renamed to a backup of its own name is remembered for a while.  A new file that is written under the old name,
or a new message that is renamed to it, gets the flags and keywords that the remembered message has by then,
unless it has some already.

The old name is free while the message is remembered, even if it is ``<uid>.eml``, a name that otherwise
always stands for the message.

A *backup name* contains the whole old name and more: ``f~ f.bak f.orig f.~1~ #f#``.  The remembered message
must exist still, and only messages that came through this mount in that time inherit.  Each mount remembers
:data:`MOST_REMEMBERED` names at most, for :data:`REMEMBERED_SECONDS`.
"""

from __future__ import annotations

from collections import OrderedDict

import trio
from msgspec import Struct

REMEMBERED_SECONDS = 300.0
"""Seconds for which a renamed message is remembered, and for which a message counts as new."""

MOST_REMEMBERED = 1000
"""Renamed messages that are remembered at most, and new ones."""


class PutAside(Struct, frozen=True):
    """A message whose name was given up; ``when``: ``trio.current_time``."""

    uid: int
    when: float


class EditorSaves:
    """Remembers messages that an editor has renamed, and new ones.  A mailbox is its storage name."""

    def __init__(self) -> None:
        self._aside: OrderedDict[tuple[str, bytes], PutAside] = OrderedDict()
        self._new: OrderedDict[tuple[str, int], float] = OrderedDict()

    def put_aside(self, mailbox: str, old: bytes, new: bytes, uid: int) -> None:
        """A message was called *old* and will be called *new*."""
        if old != new and old in new:
            self._aside.pop((mailbox, old), None)
            self._aside[mailbox, old] = PutAside(uid, trio.current_time())
            if len(self._aside) > MOST_REMEMBERED:
                self._aside.popitem(last=False)

    def saved(self, mailbox: str, uid: int) -> None:
        """A message came through this mount."""
        self._new[mailbox, uid] = trio.current_time()
        if len(self._new) > MOST_REMEMBERED:
            self._new.popitem(last=False)

    def is_new(self, mailbox: str, uid: int) -> bool:
        """Whether the message came through this mount a short while ago."""
        return trio.current_time() - self._new.get((mailbox, uid), -REMEMBERED_SECONDS) < REMEMBERED_SECONDS

    def find(self, mailbox: str, name: bytes) -> PutAside | None:
        """The message that was renamed away from this name a short while ago."""
        found = self._aside.get((mailbox, name))
        return found if found is not None and trio.current_time() - found.when < REMEMBERED_SECONDS else None
