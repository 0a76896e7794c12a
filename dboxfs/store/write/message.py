"""A message on its way into a store: the source of its bytes, and their conversion.

``eol``: KEEP stores the bytes as they are.  LF drops the CR of every CRLF, once, and a CR at the very end,
as Dovecot's own save does; lone CR and NUL stay.  ``compose`` makes the record.
"""

from __future__ import annotations

import errno
from typing import Protocol

from msgspec import Struct

from dboxfs.fsapi import Handle
from dboxfs.store.body import Body
from dboxfs.store.write.naming import Wanted

_PIECE = 1 << 20


class Source(Protocol):
    """The source of a message's bytes, which must not change until the save is done."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    async def read(self, size: int, offset: int) -> bytes:
        """Exactly *size* bytes, fewer at the end.  A save may read the source twice from the beginning."""

    async def descriptor(self) -> int | None:
        """The driver's number of an open file that holds exactly the bytes, to copy from; None: read them."""


class BytesSource(Struct, frozen=True):
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, size: int, offset: int) -> bytes:
        return self.data[offset : offset + size]

    async def descriptor(self) -> int | None:
        return None


class HandleSource(Struct, frozen=True):
    """Everything that was written through *handle*, committed or not; the handle stays the caller's."""

    handle: Handle

    @property
    def size(self) -> int:
        return self.handle.size

    async def read(self, size: int, offset: int) -> bytes:
        return await self.handle.read(size, offset)

    async def descriptor(self) -> int | None:
        return await self.handle.settle()


class BodySource(Struct, frozen=True):
    """The text of a message that exists, for saving it again; the body stays the caller's."""

    body: Body

    @property
    def size(self) -> int:
        return self.body.size

    async def read(self, size: int, offset: int) -> bytes:
        return await self.body.read(size, offset)

    async def descriptor(self) -> int | None:
        return None


class Coded(Struct, frozen=True):
    """Sizes of a text that comes as it will be stored: compressed, or encrypted by Dovecot.

    :param size: of the plain message with LF line ends (bytes): its ``Z``.
    :param virtual_size: of the plain message with CRLF line ends (bytes): its ``V``.
    """

    size: int
    virtual_size: int


class TakenApart(Struct, frozen=True):
    """A text that comes without its large parts, which have files of their own (:mod:`.external`).

    :param whole: the sizes of the text with its parts.
    :param refs: the value of metadata key X.
    """

    whole: Coded
    refs: bytes


class StoredText(Struct, frozen=True):
    """mdbox: a text that the storage has already, under *map_uid*.

    :param generation: of the map in which it was found (``generation_of``): map uids differ between
        generations.
    """

    map_uid: int
    generation: bytes


class Twin(Struct, frozen=True):
    """mdbox: the same text as message *number* of the same save, which must come before."""

    number: int


class NewMessage(Struct, frozen=True):
    """A message to be saved.

    :param source: its bytes (or ``bytes``).
    :param received: seconds since the epoch, before 1970 negative; None: now.
    :param flags: bits 0x01 answered, 0x02 flagged, 0x04 deleted, 0x08 seen, 0x10 draft.
    :param keywords: their names.
    :param guid: 16 bytes; None: a new one, or that of *guid_text*.
    :param guid_text: the GUID's metadata line, if that is not 32 hex digits (a migrated message keeps its old
        one); ``guid`` is then the form of this text in indexes.
    :param replaces: uid of a message in the same mailbox that this one replaces: it gives its flags and
        keywords to this one and is expunged in the same transaction.  Ignored if it is gone.
    :param inherits: uid of a message in the same mailbox that gives its flags and keywords to this one, and
        stays.  If it is gone, *flags* and *keywords* hold.
    :param uid: the uid that it shall have; if the mailbox's next uid is higher, it gets that.
    :param saved: when it was saved, seconds since the epoch; None: now.  sdbox: now, if the mailbox has a
        cache file of Dovecot's (``sdbox.saved``).
    :param coded: the source gives compressed or encrypted bytes, which are stored as they come (only in dbox
        version 2); None: the source gives the message itself.
    :param apart: the source gives what is left of the message; its other parts are in files of their own.
    :param wanted: the name that it shall have, if there is a :class:`~dboxfs.store.write.naming.Namer`.
    :param orig_mailbox: storage name of the mailbox that it was first saved to; None: in an mdbox this one.
    :param pop3_uidl: its POP3 UIDL; None: Dovecot makes one as its settings say.
    :param same_as: mdbox: a stored text that it refers to; bytes, received date and guid are those of the
        text, and the source is not read.
    """

    source: Source | bytes
    received: int | None = None
    flags: int = 0
    keywords: tuple[str, ...] = ()
    guid: bytes | None = None
    replaces: int | None = None
    uid: int | None = None
    saved: int | None = None
    guid_text: bytes | None = None
    coded: Coded | None = None
    apart: TakenApart | None = None
    wanted: Wanted | None = None
    orig_mailbox: bytes | None = None
    inherits: int | None = None
    pop3_uidl: bytes | None = None
    same_as: StoredText | Twin | None = None


class CopyAs(Struct, frozen=True):
    """The properties of a copy that differ from the original's: see :class:`NewMessage`."""

    uid: int
    flags: int
    keywords: tuple[str, ...]
    saved: int | None = None


class DropCr:
    """Turns CRLF into LF over pieces of a text; the CR at the very end goes too."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """The next piece; a CR at its end is held back until the next byte is known."""
        text = self._held + piece
        self._held = b"\r" if text.endswith(b"\r") else b""
        return text[: len(text) - len(self._held)].replace(b"\r\n", b"\n")


class Pieces:
    """The bytes to be stored, at most 1 MiB at a time; None at the end.

    :param convert: make line ends LF.
    """

    def __init__(self, source: Source, *, convert: bool) -> None:
        self._source = source
        self._drop = DropCr() if convert else None
        self._offset = 0

    async def next(self) -> bytes | None:
        """The next piece, possibly empty.

        :raises OSError: EIO: the source has fewer bytes than its ``size``; also the source's own errors.
        """
        piece = await self._source.read(_PIECE, self._offset)
        if not piece:
            if self._offset != self._source.size:
                raise OSError(errno.EIO, "the message changed while it was saved")
            return None
        self._offset += len(piece)
        return piece if self._drop is None else self._drop.feed(piece)
