"""Sizes and dates of messages that nobody has looked at yet: asked for one by one, or read all at once.

Reading them all at once (a *scan*) begins when a directory is opened that has at most :data:`AT_ONCE` of
them, or when :data:`MANY_ASKED` were asked for one by one.  One scan a mailbox runs at a time, in the
background.
"""

from __future__ import annotations

from functools import partial
from weakref import WeakKeyDictionary

import trio

from dboxfs.store import Facts, Mailbox
from dboxfs.vfs.folders import Folders
from dboxfs.vfs.host import Spawn
from dboxfs.vfs.node import Node
from dboxfs.vfs.open_files import OpenFiles

AT_ONCE = 100_000
"""A listing doesn't begin to read the sizes of more messages than this: ``find`` needs none."""

MANY_ASKED = 256
"""When the sizes of so many messages were asked for one by one, the rest is read too."""


class Scans:
    """Has sizes and dates read that are not known yet."""

    def __init__(self, folders: Folders, open_files: OpenFiles, spawn: Spawn) -> None:
        self._folders = folders
        self._open_files = open_files
        self._spawn = spawn
        self._running: set[Mailbox] = set()
        self._asked: WeakKeyDictionary[Mailbox, int] = WeakKeyDictionary()

    async def facts(self, node: Node) -> Facts:
        """Size and dates of a message; of an open one those that it was opened with.

        :raises Refused: ENOENT: its mailbox is gone.
        :raises DboxfsError, OSError: as :meth:`dboxfs.store.Mailbox.facts_of`.
        """
        held, shown = self._open_files.facts(node.inode), node.folder.mailbox if node.folder else None
        if held is not None:
            return shown.changed(held, node.uid) if shown is not None else held
        if node.folder is None:
            node = await self._folders.seek(node.inode)
        box = node.mailbox()
        facts = box.facts.get(node.uid)
        if facts is None or not facts.known:
            self._asked[box] = asked = self._asked.get(box, 0) + 1
            if asked == MANY_ASKED:
                self._begin(box)
        return await box.facts_of(node.uid)

    def known(self, node: Node) -> Facts | None:
        """What :meth:`facts` gives, if that takes no waiting: the message is there and was looked at.

        None: it has to be asked for, or is not where *node* says.
        """
        box = node.folder.mailbox if node.folder is not None else None
        if box is None or not node.uid:
            return None
        facts = self._open_files.facts(node.inode) or box.facts.get(node.uid)
        if facts is None or not facts.known or facts.damaged:
            return None
        return box.changed(facts, node.uid)

    def opened(self, box: Mailbox) -> None:
        """The directory of a mailbox was opened."""
        if 0 < box.facts.unknown <= AT_ONCE:
            self._begin(box)

    def _begin(self, box: Mailbox) -> None:
        if box not in self._running:
            self._running.add(box)
            self._spawn(partial(self._run, box))

    async def _run(self, box: Mailbox) -> None:
        try:
            await box.scan()
        finally:
            self._running.discard(box)

    def runs(self, box: Mailbox) -> bool:
        """Whether a scan of the mailbox has begun, and not ended."""
        return box in self._running

    async def progress(self, box: Mailbox) -> None:
        """Wait until a scan that runs has got some further."""
        await trio.lowlevel.checkpoint()  # it may not even have begun
        await box.wait_scan()
