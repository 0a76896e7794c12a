"""The names of files that a source has, given to the messages that came of them.

A message whose file was called ``17.eml`` needs none: it is called so after its uid, whatever that is now.
What an interrupted import has not named the next run names: a message that is there already is looked at too.
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
    """Whether a program has given a file this name."""
    return not _NUMBERED.fullmatch(name) and len(name) <= LONGEST_NAME


class GivenNames:
    """Gives names to messages of *store*."""

    def __init__(self, store: Store, options: WriteOptions) -> None:
        self._reader = NameReader(store)
        self._files = NameFiles(self._reader, options)
        self._loaded = False

    async def give(self, folder: Folder, wanted: Mapping[int, bytes]) -> list[str]:
        """Give names (by uid) to messages of a mailbox; a line for each that has another one now.

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
