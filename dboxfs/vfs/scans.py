"""Reads sizes and dates of messages that are not known yet: one by one, or all of a mailbox at once.

Reading them all at once (a *scan*) begins when a directory is opened that has at most :data:`AT_ONCE` of
them, or when requests have asked for :data:`MANY_ASKED` one by one.  Each mailbox has one scan at a time, in
the background.
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
"""An open directory with more unknown sizes than this begins no scan: ``find`` needs none."""

MANY_ASKED = 256
"""After this many requests for single unknown sizes a scan reads the rest."""


class Scans:
    """Reads sizes and dates that are not known yet."""

    def __init__(self, folders: Folders, open_files: OpenFiles, spawn: Spawn) -> None:
        self._folders = folders
        self._open_files = open_files
        self._spawn = spawn
        self._running: set[Mailbox] = set()
        self._asked: WeakKeyDictionary[Mailbox, int] = WeakKeyDictionary()

    async def facts(self, node: Node) -> Facts:
        """Size and dates of a message; of an open message those that it was opened with.

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
        """The result of :meth:`facts`, if it is known without waiting.

        None: it isn't, the message is damaged, or it is not in *node*'s folder.
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
        """Wait until a running scan has made progress."""
        await trio.lowlevel.checkpoint()  # it may not even have begun
        await box.wait_scan()
