"""Gives imported messages the names of their files in the source.

A message whose file was called ``17.eml`` needs no name: its file is called after its new uid.  The next run
gives the names that an interrupted import has not given yet, also to messages that the store has already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dboxfs.store import Folder, Store
from dboxfs.store.names.codec import LONGEST_NAME
from dboxfs.store.names.files import NameFiles
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import WriteOptions

_NUMBERED = re.compile(rb"(?:uid-)*[0-9]+\.eml")


def is_given(name: bytes) -> bool:
    """Whether *name* is one that a program chose: not ``<uid>.eml``, and not too long."""
    return not _NUMBERED.fullmatch(name) and len(name) <= LONGEST_NAME


class GivenNames:
    """Gives names to messages of *store*."""

    def __init__(self, store: Store, options: WriteOptions) -> None:
        self._reader = NameReader(store)
        self._files = NameFiles(self._reader, options)
        self._loaded = False

    async def give(self, folder: Folder, wanted: Mapping[int, bytes]) -> list[str]:
        """Give names (by uid) to messages of a mailbox; returns a line for each whose name is taken.

        :raises OSError, DboxfsError: the files of names can't be read or written.
        """
        if not wanted:
            return []
        if not self._loaded:
            await self._reader.load()
            self._loaded = True
        told = []
        for uid, name in wanted.items():
            if self._reader.names.name(folder, uid) == name:
                continue
            if self._reader.names.resolve(folder, name) is not None:
                shown = name.decode("utf-8", "backslashreplace")
                told.append(f"{folder.name}: another message is called {shown}: uid {uid} is {uid}.eml")
                continue
            await self._files.record(folder, uid, name)
        return told
