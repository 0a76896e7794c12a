"""A message on its way into a store: where its bytes come from, and the record that is made of them.

A dbox record has the size in front and the metadata behind (dbox-files section 1)::

    header (30 bytes, the size) | body | LF 01 03 LF | R.. V.. G.. [B..] lines | LF

so nothing can be written before the size is known.  :func:`compose` looks at the source once (line ends, for
``V``, and the first bytes) and gives a :class:`Composed`: all of the record in memory when the message is
small, else its two ends, between which :meth:`Composed.write_to` puts the body without holding it.

``eol``: KEEP stores the bytes as they are.  LF drops the CR of every CRLF, once, and a CR at the very end,
as Dovecot's own save does; lone CR and NUL stay.

A body whose first bytes are the magic of a compression format is refused: Dovecot would decompress it.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import Protocol

from dboxfs.dbox import PREFIX_SIZE, detect, encode_message_header, encode_metadata
from dboxfs.fsapi import Handle
from dboxfs.fsapi.locked import settle
from dboxfs.store.writing.disk import AppendFile
from dboxfs.store.writing.errors import RefusedMessage
from dboxfs.store.writing.options import Eol
from dboxfs.store.writing.records import check_keywords

_PIECE = 1 << 20


class Source(Protocol):
    """Where a message's bytes come from.  They must not change until the save is done."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes, fewer at the end.  Called again and again, from the beginning twice."""

    async def descriptor(self) -> int | None:
        """The driver's number of an open file that holds exactly the bytes, to copy from; None: read them."""


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, size: int, offset: int) -> bytes:
        return self.data[offset : offset + size]

    async def descriptor(self) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class HandleSource:
    """Everything that was written through *handle*, committed or not; the handle stays the caller's."""

    handle: Handle

    @property
    def size(self) -> int:
        return self.handle.size

    async def read(self, size: int, offset: int) -> bytes:
        return await self.handle.read(size, offset)

    async def descriptor(self) -> int | None:
        return await settle(self.handle)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be saved.

    :param source: its bytes (or ``bytes``).
    :param received: seconds since the epoch; None: now.
    :param flags: bits 0x01 answered, 0x02 flagged, 0x04 deleted, 0x08 seen, 0x10 draft.
    :param keywords: their names.
    :param guid: 16 bytes; None: a new one.
    :param replaces: uid of a message in the same mailbox that this one takes the place of: it gives its
        flags and keywords to this one and is expunged in the same transaction.  One that is gone is ignored.
    :param uid: the uid that it shall have; if uids are beyond that already, it gets the next one.
    :param saved: when it was saved, seconds since the epoch; None: now.  sdbox: always now.
    """

    source: Source | bytes
    received: int | None = None
    flags: int = 0
    keywords: tuple[str, ...] = ()
    guid: bytes | None = None
    replaces: int | None = None
    uid: int | None = None
    saved: int | None = None


@dataclass(frozen=True, slots=True)
class CopyAs:
    """What a copy has that its original has not: see :class:`NewMessage`."""

    uid: int
    flags: int
    keywords: tuple[str, ...]
    saved: int | None = None


class LineEnds:
    """Counts, over pieces of a text, its bytes and the LF that have no CR before them."""

    def __init__(self) -> None:
        self.size = 0
        self.bare = 0
        self._last_cr = False

    def feed(self, piece: bytes) -> None:
        """The next piece."""
        if not piece:
            return
        self.size += len(piece)
        self.bare += piece.count(b"\n") - piece.count(b"\r\n")
        if self._last_cr and piece[0] == 0x0A:
            self.bare -= 1
        self._last_cr = piece[-1] == 0x0D

    @property
    def virtual_size(self) -> int:
        """Size of the text with CRLF for every line end (bytes)."""
        return self.size + self.bare


class DropCr:
    """Turns CRLF into LF over pieces of a text; the CR at the very end goes too."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """The next piece; a CR at its end is held back until one knows what follows."""
        text = self._held + piece
        self._held = b"\r" if text.endswith(b"\r") else b""
        return text[: len(text) - len(self._held)].replace(b"\r\n", b"\n")


@dataclass(frozen=True, slots=True)
class Composed:
    """A record: *head*, body, *tail*.  ``data``: the whole record, where it is small.

    ``guid``: 16 bytes.  ``size``: of the whole record (bytes).
    """

    message: NewMessage
    guid: bytes
    size: int
    head: bytes
    tail: bytes
    data: bytes | None
    convert: bool

    async def write_to(self, file: AppendFile, prefix: bytes = b"") -> None:
        """Append *prefix* and the record.  Memory: 1 MiB.

        :raises OSError: some of it may have been written; EIO: the source has changed its size.
        """
        if self.data is not None:
            await file.append(prefix + self.data)
            return
        end = file.size + len(prefix) + self.size
        source = _source(self.message)
        await file.append(prefix + self.head)
        descriptor = None if self.convert else await source.descriptor()
        if descriptor is not None:
            await file.append_from(descriptor, source.size)
        else:
            pieces = _Pieces(source, convert=self.convert)
            while (piece := await pieces.next()) is not None:
                if piece:
                    await file.append(piece)
        await file.append(self.tail)
        if file.size != end:
            raise OSError(errno.EIO, "the message changed while it was saved", file.path)


async def compose(message: NewMessage, *, eol: Eol, memory_limit: int, mailbox: str | None) -> Composed:
    """Make a record of *message*.

    :param memory_limit: bytes up to which the record is put together in memory.
    :param mailbox: storage name for the B line (mdbox).
    :raises RefusedMessage: it begins like a compressed one.
    :raises ValueError: a guid that has not 16 bytes, or something that can't be a keyword.
    """
    check_keywords(message.keywords)
    if message.guid is not None and len(message.guid) != 16:
        raise ValueError(f"a guid has 16 bytes, this one {len(message.guid)}")
    source = _source(message)
    convert = eol is Eol.LF
    keep = source.size <= memory_limit
    lines, first, kept = LineEnds(), b"", []
    pieces = _Pieces(source, convert=convert)
    while (piece := await pieces.next()) is not None:
        if len(first) < PREFIX_SIZE:
            first += piece[:PREFIX_SIZE]
        lines.feed(piece)
        if keep:
            kept.append(piece)
    compression = detect(first)
    if compression is not None:
        raise RefusedMessage(
            f"the message begins with the magic of {compression.value}; Dovecot would take it for compressed"
        )
    guid = message.guid if message.guid is not None else os.urandom(16)
    received = message.received if message.received is not None else int(time.time())
    items = [
        (b"R", b"%x" % max(received, 0)),
        (b"V", b"%x" % lines.virtual_size),
        (b"G", guid.hex().encode("ascii")),
    ]
    if mailbox is not None:
        items.append((b"B", os.fsencode(mailbox)))
    head, tail = encode_message_header(lines.size), encode_metadata(items)
    data = b"".join([head, *kept, tail]) if keep else None
    return Composed(message, guid, len(head) + lines.size + len(tail), head, tail, data, convert)


def _source(message: NewMessage) -> Source:
    return BytesSource(message.source) if isinstance(message.source, bytes) else message.source


class _Pieces:
    """The bytes to be stored, at most 1 MiB at a time; None at the end."""

    def __init__(self, source: Source, *, convert: bool) -> None:
        self._source = source
        self._drop = DropCr() if convert else None
        self._offset = 0

    async def next(self) -> bytes | None:
        size = min(_PIECE, self._source.size - self._offset)
        if size <= 0:
            return None
        piece = await self._source.read(size, self._offset)
        if not piece:
            raise OSError(errno.EIO, "the message changed while it was saved")
        self._offset += len(piece)
        return piece if self._drop is None else self._drop.feed(piece)
