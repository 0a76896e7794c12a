"""Makes the records of a destination from those of a source: the same body, a new head and tail.

The stored bytes of a body stay as they are, compressed or not; only the head and the tail change.
:func:`begin_record` gives a :class:`RecordFormat`, which gets the body (:meth:`RecordFormat.feed`) while it
is written.

Metadata lines are kept, in their order, with these exceptions: ``X`` and ``Z`` are dropped if attachments are
put back into a message; format 3 drops lines with keys of its own (leftovers of version 1 have such); a
message without ``G`` gets one; in an mdbox a message without ``B`` gets one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from dboxfs.dbox import (
    OWN_KEYS,
    PREFIX_SIZE,
    Compression,
    Metadata,
    RecordWriter,
    detect,
    encode_message_header,
    encode_metadata,
)
from dboxfs.dbox.format3 import SEPARATOR_SIZE
from dboxfs.store.write.record import Place
from dboxfs.tools.convert.errors import Unfit

Items = Sequence[tuple[bytes, bytes]]


class RecordFormat(Protocol):
    """One record that is being made.  ``head``: the bytes before the body."""

    head: bytes

    def feed(self, piece: bytes) -> None:
        """The next stored bytes of the body."""

    def tail(self, items: Items) -> bytes:
        """The bytes behind the body.

        :raises Unfit: the format can't hold one of the lines.
        """


def begin_record(
    place: Place,
    size: int,
    first: bytes,
    compression: Compression | None,
    *,
    encrypted: bool = False,
    as_it_is: bool = False,
    crc: int | None = None,
) -> RecordFormat:
    """A record at *place* with a body of *size* stored bytes.

    :param first: the first bytes of the body, at least :data:`PREFIX_SIZE` if there are so many.
    :param encrypted: the body is ciphertext.
    :param as_it_is: format 2 holds this plain body already although it begins like a compressed one, so it
        may be stored so again.
    :param crc: CRC-32 of the body in the source.  It is kept, so that a damaged text stays recognizable.
    :raises Unfit: the format can't hold the body: in format 2 the first bytes say whether a body is
        compressed, and format 3 has no ciphertext.
    """
    if encrypted and place.key is not None:
        raise Unfit("it is encrypted (mail_crypt), which only dbox version 2 can hold")
    if place.key is not None:
        return _Record3(place.key, place.offset, compression, crc)
    seen = detect(first[:PREFIX_SIZE])
    if seen is not compression and not as_it_is:
        raise Unfit(
            f"it begins with the magic of {seen.value}, which format 2 takes for compressed"
            if seen is not None
            else "its compression can't be told from its first bytes"
        )
    return _Record2(encode_message_header(size))


def must_be_packed(first: bytes, compression: Compression | None, *, as_it_is: bool) -> bool:
    """Whether format 2 can hold a body only compressed: the body is plain and begins like a compressed one.

    Dovecot's own plugin compresses such a message, too.
    """
    return compression is None and not as_it_is and detect(first[:PREFIX_SIZE]) is not None


class _Record2(Struct):
    """Format 2: header with the size, body, metadata."""

    head: bytes

    def feed(self, piece: bytes) -> None:
        """Does nothing: format 2 has no checksum."""

    def tail(self, items: Items) -> bytes:
        try:
            return encode_metadata(items)
        except ValueError as exc:
            raise Unfit(f"its metadata can't be written: {exc}") from exc


class _Record3:
    """Format 3: separator, body, trailer with the size and a line that says how the body is compressed."""

    def __init__(self, key: bytes, offset: int, compression: Compression | None, crc: int | None) -> None:
        self._writer = RecordWriter(key, offset, os.urandom(SEPARATOR_SIZE))
        self._compression = compression
        self._crc = crc
        self.head = self._writer.header

    def feed(self, piece: bytes) -> None:
        self._writer.feed(piece)

    def tail(self, items: Items) -> bytes:
        own = [item for item in items if item[0] not in OWN_KEYS]
        try:
            return self._writer.trailer(own, self._compression, crc=self._crc)
        except ValueError as exc:
            raise Unfit(f"its metadata can't be written: {exc}") from exc


def kept_items(metadata: Metadata, *, inlined: bool) -> list[tuple[bytes, bytes]]:
    """The metadata lines of a message that are kept; *inlined*: its attachments are put back."""
    return [item for item in metadata.items if not (inlined and item[0] in (b"X", b"Z"))]


def completed_items(items: Items, guid: bytes, mailbox: str | None) -> list[tuple[bytes, bytes]]:
    """*items* with the lines that a message must have.

    :param mailbox: storage name for the ``B`` line of an mdbox.
    """
    keys = {key for key, _ in items}
    found = list(items)
    if b"G" not in keys:
        found.append((b"G", guid.hex().encode("ascii")))
    if mailbox is not None and b"B" not in keys:
        found.append((b"B", os.fsencode(mailbox)))
    return found
