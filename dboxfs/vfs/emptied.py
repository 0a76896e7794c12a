"""Messages that a process has truncated to 0 bytes by name (truncate(2)).

There is no empty message: it stays, and the bytes that this process writes next replace it.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from dboxfs.vfs.holders import process_of

EMPTIED_SECONDS = 60.0
"""For this long a write by the process that has truncated a message by name to 0 bytes begins it anew."""

_EMPTIED = 64


class Emptied:
    """The last messages that were emptied, and by which process."""

    def __init__(self) -> None:
        self._when: OrderedDict[tuple[int, int], float] = OrderedDict()

    def note(self, inode: int, pid: int) -> None:
        """The process of thread *pid* has emptied the message *inode*."""
        self._when[inode, process_of(pid)] = trio.current_time()
        if len(self._when) > _EMPTIED:
            self._when.popitem(last=False)

    def take(self, inode: int, pid: int) -> bool:
        """Whether the process of thread *pid* has done that a short while ago; asking forgets it."""
        when = self._when.pop((inode, process_of(pid)), None)
        return when is not None and trio.current_time() - when < EMPTIED_SECONDS
