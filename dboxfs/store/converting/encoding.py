"""Records of a destination, made of what a source has stored: the same body, new ends.

The stored bytes of a body stay as they are, compressed or not; what changes is what stands around them.
:class:`FileFormat` makes the first line of a file, and a :class:`RecordFormat` for each record in it, which
sees the body (:meth:`RecordFormat.feed`) as it is written.

Metadata lines are kept, in their order, with these exceptions: ``X`` and ``Z`` go where attachments are put
back into a message; a message without ``G`` gets one; in an mdbox a message without ``B`` gets one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from dboxfs.dbox import (
    OWN_KEYS,
    PREFIX_SIZE,
    Compression,
    Metadata,
    RecordWriter,
    detect,
    encode_file_header,
    encode_file_header3,
    encode_message_header,
    encode_metadata,
)
from dboxfs.dbox.format3 import KEY_SIZE, SEPARATOR_SIZE
from dboxfs.store.converting.errors import Unfit

Items = Sequence[tuple[bytes, bytes]]


class RecordFormat(Protocol):
    """One record that is being made.  ``head``: what stands before the body."""

    head: bytes

    def feed(self, piece: bytes) -> None:
        """The next stored bytes of the body."""

    def tail(self, items: Items) -> bytes:
        """What stands behind the body."""


class FileFormat(Protocol):
    """One file that is being made.  ``header``: its first line."""

    header: bytes

    def record(self, offset: int, size: int, first: bytes, compression: Compression | None) -> RecordFormat:
        """A record at *offset* (bytes from the beginning of the file) with a body of *size* stored bytes.

        :param first: the first bytes of the body, at least :data:`PREFIX_SIZE` if there are so many.
        :raises Unfit: the format can't hold it.
        """


@dataclass(slots=True)
class _Record2:
    """Format 2: header with the size, body, metadata."""

    head: bytes

    def feed(self, piece: bytes) -> None:
        """Not needed."""

    def tail(self, items: Items) -> bytes:
        try:
            return encode_metadata(items)
        except ValueError as exc:
            raise Unfit(f"its metadata can't be written: {exc}") from exc


class Format2:
    """A file of format 2.

    :param created: seconds since the epoch.
    """

    def __init__(self, created: int) -> None:
        self.header = encode_file_header(created)

    def record(self, offset: int, size: int, first: bytes, compression: Compression | None) -> RecordFormat:
        """See :class:`FileFormat`.  Here the first bytes of a body say whether it is compressed."""
        seen = detect(first[:PREFIX_SIZE])
        if seen is not compression:
            raise Unfit(
                f"it begins with the magic of {seen.value}, which format 2 takes for compressed"
                if seen is not None
                else "its compression can't be told from its first bytes"
            )
        return _Record2(encode_message_header(size))


class _Record3:
    """Format 3: separator, body, trailer with the size and a line that says how the body is compressed."""

    def __init__(self, key: bytes, offset: int, compression: Compression | None) -> None:
        self._writer = RecordWriter(key, offset, os.urandom(SEPARATOR_SIZE))
        self._compression = compression
        self.head = self._writer.header

    def feed(self, piece: bytes) -> None:
        self._writer.feed(piece)

    def tail(self, items: Items) -> bytes:
        try:
            return self._writer.trailer(
                [item for item in items if item[0] not in OWN_KEYS], self._compression
            )
        except ValueError as exc:
            raise Unfit(f"its metadata can't be written: {exc}") from exc


class Format3:
    """A file of format 3, with a key of its own.

    :param created: seconds since the epoch.
    """

    def __init__(self, created: int) -> None:
        self._key = os.urandom(KEY_SIZE)
        self.header = encode_file_header3(created, self._key)

    def record(self, offset: int, size: int, first: bytes, compression: Compression | None) -> RecordFormat:
        """See :class:`FileFormat`.  It holds everything."""
        return _Record3(self._key, offset, compression)


FORMATS: Mapping[int, Callable[[int], FileFormat]] = MappingProxyType({2: Format2, 3: Format3})
"""By dbox version: begins a file; seconds since the epoch."""


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
