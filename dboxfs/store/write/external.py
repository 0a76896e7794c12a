"""The large parts of new messages, in files of their own: attachments, as Dovecot stores them.

:mod:`dboxfs.dbox.cutting` says which parts these are.  The files are made before the message is composed.  In
an mdbox they have their final names.  An sdbox message gets links to them, whose names end with its mailbox
and uid, under the mailbox's lock, before its own file has its name; the first names go afterwards, as in
Dovecot.  A crash leaves files that no message refers to.

A message of more than :data:`MOST_APART` bytes is stored whole, as is one of which more than
:data:`MOST_LEFT` bytes would be left.  One message of a store is taken apart at a time: that bounds the
memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import trio
from msgspec.structs import replace

from dboxfs.dbox import LineEnds
from dboxfs.dbox.cutting import CutMessage, Cutting, cut
from dboxfs.store.write.message import BytesSource, Coded, NewMessage, Pieces, TakenApart
from dboxfs.store.write.session import Work
from dboxfs.store.write_options import Eol, WriteOptions
from dboxfs.util.lock import Lock

MOST_APART: Final = 64 << 20
"""Bytes of a message that is taken apart, at most."""

MOST_LEFT: Final = 4 << 20
"""Bytes that are left of it, at most."""


def parts_in(work: Work, options: WriteOptions) -> Cutting | None:
    """How new messages are taken apart; None: they are not."""
    if work.location.attachments is None or options.encrypt is not None or options.dbox_version == 3:
        return None
    return options.apart


class Taking:
    """Takes the new messages of one store apart, one at a time."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = Lock()

    async def take(
        self, message: NewMessage, options: WriteOptions, made: list[str]
    ) -> tuple[NewMessage, Sequence[str]]:
        """What is left of a message without its large parts, and the files of these; durable, if commits are.

        :param made: gets the path of each file before it is made; on an error the caller removes them.
        :raises OSError: the source can't be read, or has changed; a file can't be written.
        """
        how, directory = parts_in(self._work, options), self._work.location.attachments
        source = BytesSource(message.source) if isinstance(message.source, bytes) else message.source
        if how is None or directory is None or message.coded is not None:
            return message, ()
        if not how.min_size <= source.size <= MOST_APART:
            return message, ()
        async with self._lock:
            text = bytearray()
            pieces = Pieces(source, convert=options.eol is Eol.LF)
            while (piece := await pieces.next()) is not None:
                text += piece
            found, sizes = await trio.to_thread.run_sync(_cut, bytes(text), how)
            del text
            if found is None or len(found.rest) > MOST_LEFT:
                return message, ()
            paths = [os.path.join(directory, part.path) for part in found.parts]
            await self._write(paths, [part.data for part in found.parts], made)
        return replace(message, source=found.rest, apart=TakenApart(sizes, found.refs)), paths

    async def _write(self, paths: Sequence[str], data: Sequence[bytes], made: list[str]) -> None:
        disk, directories = self._work.disk, sorted({os.path.dirname(path) for path in paths})
        for directory in directories:
            await disk.make_dirs(directory)
        for path, content in zip(paths, data, strict=True):
            made.append(path)
            await disk.write_new(path, content)
        for directory in directories:
            await disk.sync_dir(directory)


def _cut(text: bytes, how: Cutting) -> tuple[CutMessage | None, Coded]:
    found, lines = cut(text, how), LineEnds()
    lines.feed(text)
    return found, Coded(lines.size, lines.virtual_size)
