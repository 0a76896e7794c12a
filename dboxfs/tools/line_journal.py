"""A journal of lines, one JSON object each: it names the data on disk, so that an interrupted run can go on.

A line counts when it is whole.  It is appended when the data that it names are on disk: one sync of the whole
file system for many of them, then the lines, then a sync of the journal.  A line without a line end was being
written when the writer died, and is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from dboxfs.errors import CorruptFile
from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import SyncAll
from dboxfs.store.disk import AppendFile

_LOAD_PIECE = 4 << 20


class LineJournal:
    """The open and locked journal *file*.

    :param durable: :meth:`commit` waits for the disk.
    """

    def __init__(self, file: AppendFile, *, durable: bool) -> None:
        self._file = file
        self._durable = durable
        self._waiting: list[Mapping[str, object]] = []

    async def load(self, take: Callable[[Mapping[str, Any]], None], whose: str) -> None:
        """Read the whole lines, and cut off one without an end.

        :param take: called with each line; it raises ValueError, KeyError, TypeError, AttributeError or
            RecursionError for a line that is not valid.
        :param whose: the kind of journal, for the error text.
        :raises CorruptFile: a line is not valid.
        """
        rest, offset, end = b"", 0, 0
        while offset < self._file.size:
            data = await self._file.read(min(_LOAD_PIECE, self._file.size - offset), offset)
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    take(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
                    raise CorruptFile(self._file.path, end, f"no line of the {whose}'s journal") from exc
                end += len(line) + 1
        if rest:
            await self._file.cut(end)

    def add(self, line: Mapping[str, object]) -> None:
        """Take a line; the next :meth:`commit` writes it."""
        self._waiting.append(line)

    async def commit(self) -> None:
        """Sync all written data, then the lines about them.

        If *durable*, both are on disk when this returns.
        """
        if not self._waiting:
            return
        lines = [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in self._waiting]
        if self._durable:
            await self._file.disk.run(SyncAll(self._file.fd))
        await self._file.append(b"".join(lines))
        self._waiting.clear()
        if self._durable:
            await self._file.disk.run(ops.Sync(self._file.fd, self._file.size))

    async def close(self) -> None:
        """Close the file, which releases its lock."""
        await self._file.close()
