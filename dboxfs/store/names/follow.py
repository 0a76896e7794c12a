"""Read names that other mounts of the same store give, while this mount runs.

The directory of the files of names is watched.  inotify does not report changes on network file systems and
by other hosts: such names are read again when the index has messages without a known name, when this mount
writes a name of the same mailbox, and at the next mount.
"""

from __future__ import annotations

import os
import re

import trio

from dboxfs.store.names.read import DIRECTORY, QUIET_SECONDS, NameReader
from dboxfs.store.watch import Watched, Watcher

_GUID = re.compile("[0-9a-f]{32}")


class NameFollower:
    """Watches the directory of names, and reads files again that other mounts have written."""

    def __init__(self, reader: NameReader) -> None:
        self._reader = reader
        self._watcher: Watcher
        self._waiting: set[str] = set()
        self._wake = trio.Event()

    async def run(self) -> None:
        """Watch and read until cancelled; not at all where nothing changes."""
        if self._reader.store.fs.capabilities.frozen:
            return
        self._watcher = Watcher(self._reader.store.inotify)  # closed below; without a run there is none
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watcher.run)
                self._watch()
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    waiting, self._waiting = self._waiting, set()
                    quiet = {guid for guid in waiting if self._reader.is_quiet(guid)}
                    for guid in waiting - quiet:
                        await self._look(guid)
                    if quiet:
                        await trio.sleep(QUIET_SECONDS)
                        self._later(quiet)
        finally:
            self._watcher.close()

    async def _look(self, guid: str) -> None:
        folder = self._reader.folder(guid)
        if folder is None or folder.mailbox is None:
            return
        try:
            await self._reader.look(folder)
        except OSError as exc:
            self._reader.tell(folder, folder.mailbox, exc)

    def _watch(self) -> None:
        directory = self._reader.directory
        if self._watcher.add(directory, "names", self._names_changed) is Watched.NO:
            self._watcher.add(os.path.dirname(directory), "above", self._above_changed)

    def _above_changed(self, names: set[str | None]) -> None:
        directory = self._reader.directory
        if not names & {None, DIRECTORY}:
            return
        if self._watcher.add(directory, "names", self._names_changed) is Watched.NEW:
            self._watcher.remove(os.path.dirname(directory))
            self._names_changed({None})

    def _names_changed(self, names: set[str | None]) -> None:
        guids = {name for name in names if name is not None and _GUID.fullmatch(name)}
        if None in names:
            boxes = [folder.mailbox for folder in self._reader.store.folders.values()]
            guids |= {(box.guid or b"").hex() for box in boxes if box is not None}
        self._later(guids)

    def _later(self, guids: set[str]) -> None:
        if guids:
            self._waiting |= guids
            self._wake.set()
