"""Records: the stored form of messages.

Format 2 has the size before the body and the metadata behind it (dbox-files section 1)::

    header (30 bytes, the size) | body | LF 01 03 LF | R.. V.. G.. [B..] lines | LF

so nothing can be written before the size is known.  :func:`compose` reads the source once (line ends, for
``V``, and the first bytes), and :meth:`Composed.write_to` writes the body between the two ends in a second
pass.  In format 2 a body whose first bytes are the magic of a compression format is refused: Dovecot would
decompress it.  In both formats a body that begins like an encrypted message is refused: no reader could show
it.  Bytes that are known to be compressed or encrypted (``coded``) are stored as they are.  If new messages
are compressed (``WriteOptions.compress``), no magic is refused; if they are only encrypted, the magic of a
compression format is: Dovecot would decompress the decrypted body.

Format 3 has all of that behind the body (``dbox/FORMAT3.md``): it takes one pass, which also counts size,
line ends and CRC.  An upload whose spool file has that format already (``spool``) needs no pass.

In both formats a small record is composed in memory, so that many of them are one write.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Protocol

from msgspec import Struct

from dboxfs.dbox import (
    MESSAGE_HEADER_SIZE_3,
    PREFIX_SIZE,
    LineEnds,
    RecordWriter,
    detect,
    encode_date,
    encode_file_header,
    encode_file_header3,
    encode_message_header,
    encode_metadata,
    guid128_of,
    is_encrypted,
    trailer_size,
)
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.write.coding import coded, new_coding
from dboxfs.store.write.log_records import check_keywords
from dboxfs.store.write.message import BytesSource, NewMessage, Pieces, Source
from dboxfs.store.write.results import now_seconds
from dboxfs.store.write.spool import Spool
from dboxfs.store.write_errors import RefusedMessage
from dboxfs.store.write_options import Eol, WriteOptions

_OVERHEAD = 1024


class Place(Struct, frozen=True):
    """The place of a record: *offset* (bytes) in a file with this *key* (format 3; else None)."""

    offset: int
    key: bytes | None


class NewFile(Struct, frozen=True):
    """The beginning of a message file: its header line, and in format 3 its key."""

    header: bytes
    key: bytes | None

    @property
    def first(self) -> Place:
        """The place of its first record."""
        return Place(len(self.header), self.key)


def new_file(version: int) -> NewFile:
    """The beginning of a file of dbox version 2 or 3 that is made now."""
    if version == 3:
        key = os.urandom(16)
        return NewFile(encode_file_header3(now_seconds(), key), key)
    return NewFile(encode_file_header(now_seconds()), None)


class Composed(Protocol):
    """A record to be written.

    ``guid``: 16 bytes.  ``room``: its bytes; an estimate, unless it is whole.  ``whole``: it is in memory,
    and ``room`` is exact.
    """

    @property
    def guid(self) -> bytes: ...

    @property
    def room(self) -> int: ...

    @property
    def whole(self) -> bool: ...

    def encode(self, place: Place) -> bytes:
        """The bytes of a record that is in memory."""

    async def write_to(self, file: AppendFile, place: Place, prefix: bytes = b"") -> int:
        """Append *prefix* and the record, and give the record's size (bytes).  Memory: 1 MiB.

        :raises OSError: a part may have been written; EIO: the source has changed its size.
        """


class _Record2(Struct, frozen=True):
    """A record of format 2: *head*, body, *tail*.  ``data``: the whole record, if it is small."""

    message: NewMessage
    guid: bytes
    room: int
    head: bytes
    tail: bytes
    data: bytes | None
    convert: bool

    @property
    def whole(self) -> bool:
        return self.data is not None

    def encode(self, place: Place) -> bytes:
        assert self.data is not None, "a small record is in memory"
        return self.data

    async def write_to(self, file: AppendFile, place: Place, prefix: bytes = b"") -> int:
        if self.data is not None:
            await file.append(prefix + self.data)
            return self.room
        end = file.size + len(prefix) + self.room
        source = _source(self.message)
        await file.append(prefix + self.head)
        descriptor = None if self.convert else await source.descriptor()
        if descriptor is not None:
            await file.append_from(descriptor, source.size)
        else:
            pieces = Pieces(source, convert=self.convert)
            while (piece := await pieces.next()) is not None:
                if piece:
                    await file.append(piece)
        await file.append(self.tail)
        if file.size != end:
            raise OSError(errno.EIO, "the message changed while it was saved", file.path)
        return self.room


class _Record3(Struct, frozen=True):
    """A record of format 3.

    ``body`` and ``items``: the message and its metadata, if it is small; then ``room`` is exact.
    """

    message: NewMessage
    guid: bytes
    room: int
    mailbox: str | None
    convert: bool
    body: bytes | None = None
    items: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def whole(self) -> bool:
        return self.body is not None

    def encode(self, place: Place) -> bytes:
        assert self.body is not None, "a small record is in memory"
        writer = _begin(place)
        writer.feed(self.body)
        return b"".join((writer.header, self.body, writer.trailer(self.items)))

    async def write_to(self, file: AppendFile, place: Place, prefix: bytes = b"") -> int:
        if self.body is not None:
            await file.append(prefix + self.encode(place))
            return self.room
        writer, lines = _begin(place), LineEnds()
        await file.append(prefix + writer.header)
        pieces = Pieces(_source(self.message), convert=self.convert)
        while (piece := await pieces.next()) is not None:
            if piece:
                writer.feed(piece)
                lines.feed(piece)
                await file.append(piece)
        await file.append(writer.trailer(_items(self.message, self.guid, lines, self.mailbox)))
        return file.size - place.offset


class Spooled(Struct, frozen=True):
    """A record of format 3 whose spool file has all of it but the trailer."""

    message: NewMessage
    guid: bytes
    mailbox: str | None
    spool: Spool
    whole: bool = False

    @property
    def room(self) -> int:
        return self.spool.size + _OVERHEAD

    @property
    def place(self) -> Place:
        """The place of the record."""
        return Place(*self.spool.place)

    def encode(self, place: Place) -> bytes:
        raise AssertionError("a spooled record is in no memory")

    async def take(self, disk: Disk) -> AppendFile:
        """Take the spool's file; the caller owns it from then on."""
        return await self.spool.take(disk)

    async def write_to(self, file: AppendFile, place: Place, prefix: bytes = b"") -> int:
        assert place == self.place
        assert not prefix
        items = _items(self.message, self.guid, self.spool.lines, self.mailbox)
        await file.append(self.spool.trailer(items))
        return file.size - place.offset


async def compose(
    message: NewMessage, options: WriteOptions, *, mailbox: str | None, directory: str
) -> Composed:
    """Make a record of *message*.

    :param options: dbox version, line ends, coding, and the largest message that is composed in memory.
    :param mailbox: storage name for the B line (mdbox).
    :param directory: the directory in which a spool file can become the message file.
    :raises RefusedMessage: it begins like an encrypted message, and this call does not code it; format 2: it
        begins like a compressed one, and this call does not compress it.
    :raises OSError: its source can't be read, or has changed.
    :raises ValueError: an invalid guid, text, date or keyword.
    """
    check_keywords(message.keywords)
    for text in (message.pop3_uidl, message.orig_mailbox):
        if text is not None:
            check_text(text)
    guid = checked_guid(message)
    as_it_is = message.coded is not None or message.apart is not None
    convert, memory_limit = options.eol is Eol.LF and not as_it_is, options.memory_limit
    codes = message.coded is None and options.dbox_version != 3
    if codes and (coding := await new_coding(options)) is not None:
        if options.compress is None:  # Dovecot also decompresses decrypted texts
            _refuse_compressed(await _source(message).read(PREFIX_SIZE, 0))
        message, convert = await coded(message, coding, convert=convert), False
    if message.coded is None and is_encrypted(await _source(message).read(PREFIX_SIZE, 0)):
        raise RefusedMessage("the message begins like one that Dovecot's mail_crypt has encrypted")
    if options.dbox_version != 3:
        return await _compose2(message, guid, convert, memory_limit, mailbox)
    if message.coded is not None:
        raise RefusedMessage("dbox version 3 does not hold it as it is stored")
    source = message.source
    if isinstance(source, Spool) and source.ready and source.directory == directory and not convert:
        return Spooled(message, guid, mailbox, source)
    size = _source(message).size
    if size > memory_limit:
        return _Record3(message, guid, size + _OVERHEAD, mailbox, convert)
    body, lines = b"".join(await _kept(_source(message), convert)), LineEnds()
    lines.feed(body)
    items = tuple(_items(message, guid, lines, mailbox))
    room = MESSAGE_HEADER_SIZE_3 + len(body) + trailer_size(items)
    return _Record3(message, guid, room, mailbox, convert, body, items)


def check_text(text: bytes) -> None:
    """
    :raises ValueError: the text can't be the value of a metadata line.
    """
    if not text or b"\n" in text or text.endswith(b"\r"):
        raise ValueError(f"no text of a guid, a UIDL or a mailbox: {text[:64]!r}")


def checked_guid(message: NewMessage) -> bytes:
    """The guid of a message in indexes, 16 bytes.

    :raises ValueError: an invalid guid, or an invalid text of one.
    """
    guid, text = message.guid, message.guid_text
    if guid is not None and len(guid) != 16:
        raise ValueError(f"a guid has 16 bytes, this one {len(guid)}")
    if text is None:
        return guid if guid is not None else os.urandom(16)
    check_text(text)
    if guid not in (None, guid128_of(text)):
        raise ValueError(f"the guid is not that of its text {text[:64]!r}")
    return guid128_of(text)


async def _compose2(
    message: NewMessage, guid: bytes, convert: bool, memory_limit: int, mailbox: str | None
) -> _Record2:
    source = _source(message)
    keep = source.size <= memory_limit
    lines, first, kept = LineEnds(), b"", []
    pieces = Pieces(source, convert=convert)
    while (piece := await pieces.next()) is not None:
        if len(first) < PREFIX_SIZE:
            first += piece[:PREFIX_SIZE]
        lines.feed(piece)
        if keep:
            kept.append(piece)
    if message.coded is None:
        _refuse_compressed(first)
    head, tail = encode_message_header(lines.size), encode_metadata(_items(message, guid, lines, mailbox))
    data = b"".join([head, *kept, tail]) if keep else None
    return _Record2(message, guid, len(head) + lines.size + len(tail), head, tail, data, convert)


def _refuse_compressed(first: bytes) -> None:
    """Refuse a text that would be taken for a compressed one.

    :param first: the first bytes of a text that is not compressed.
    :raises RefusedMessage: it begins with the magic of a compression format.
    """
    compression = detect(first)
    if compression is not None:
        raise RefusedMessage(
            f"the message begins with the magic of {compression.value}; Dovecot would take it for compressed"
        )


async def _kept(source: Source, convert: bool) -> list[bytes]:
    pieces, kept = Pieces(source, convert=convert), []
    while (piece := await pieces.next()) is not None:
        kept.append(piece)
    return kept


def _begin(place: Place) -> RecordWriter:
    assert place.key is not None, "a file of format 3 has a key"
    return RecordWriter(place.key, place.offset, os.urandom(16))


def _items(
    message: NewMessage, guid: bytes, lines: LineEnds, mailbox: str | None
) -> list[tuple[bytes, bytes]]:
    """The metadata lines."""
    received = message.received if message.received is not None else int(time.time())
    items = [(b"R", encode_date(received))]
    coded = message.apart.whole if message.apart is not None else message.coded
    if coded is not None and coded.size != lines.size:
        items.append((b"Z", b"%x" % coded.size))
    items.append((b"V", b"%x" % (coded.virtual_size if coded is not None else lines.virtual_size)))
    if message.pop3_uidl is not None:
        items.append((b"P", message.pop3_uidl))
    items.append((b"G", message.guid_text or guid.hex().encode("ascii")))
    if message.orig_mailbox is not None or mailbox is not None:
        items.append((b"B", message.orig_mailbox or os.fsencode(mailbox or "")))
    if message.apart is not None:
        items.append((b"X", message.apart.refs))
    return items


def _source(message: NewMessage) -> Source:
    return BytesSource(message.source) if isinstance(message.source, bytes) else message.source
