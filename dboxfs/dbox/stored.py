r"""Decide whether a stored body is the plain message, compressed, or encrypted.

In format 2 no flag says so, only the first bytes: the magic of a compression format (:mod:`.compression`), or
the 9 bytes ``CRYPTED`` 03 07 of Dovecot's ``mail_crypt``.  But a message may itself begin with such bytes,
and a Dovecot without the plugin (2.4 for xz: any Dovecot) stores and serves it as it is.  The metadata
distinguish the two:

* ``Z`` exists if the stored size differs from that of the plain message.  A compressed or encrypted body has
  it, unless both sizes happen to be equal; a body that is stored as it is never has it.
* ``V`` is the size of the plain message.  Without ``Z``, a really compressed body decompresses to a text of
  exactly the stored size, with the size ``V``; a body that is stored as it is itself has the size ``V``.

So only a body with magic and without ``Z`` (and without attachments) has to be read for the decision:
:class:`Doubt`.  If the metadata confirm neither, the magic counts.

Source: dbox-files section 2.
"""

from __future__ import annotations

from typing import Final

from dboxfs.dbox.compression import Compression, Decompressor
from dboxfs.dbox.format2 import Buffer
from dboxfs.dbox.lineends import LineEnds
from dboxfs.dbox.metadata import Metadata
from dboxfs.errors import FormatError

ENCRYPTED_MAGIC: Final = b"CRYPTED\x03\x07"
"""The beginning of bodies that Dovecot's ``mail_crypt`` has encrypted."""

_STEP: Final = 64 << 10


def is_encrypted(first_bytes: Buffer) -> bool:
    """Whether a body begins like an encrypted one."""
    return bytes(first_bytes[: len(ENCRYPTED_MAGIC)]) == ENCRYPTED_MAGIC


def is_doubtful(metadata: Metadata) -> bool:
    """Whether a body with magic, in format 2, has to be read for the decision.

    :raises FormatError: the Z line is damaged.
    """
    return metadata.physical_size is None and metadata.ext_refs is None


def is_as_it_is(virtual: int | None, stored: LineEnds, text: LineEnds | None) -> bool:
    """The rule of :class:`Doubt` for counted bytes.

    :param virtual: V; None: unknown.
    :param stored: the stored bytes.
    :param text: the decompressed bytes; None: they can't be decompressed.
    """
    fits = text is not None and text.size == stored.size and virtual in (None, text.virtual_size)
    return not fits and virtual == stored.virtual_size


class Doubt:
    """Decides whether a body with magic is stored as it is: feed all of it, then ask :meth:`plain`.

    It decompresses at most as many bytes as the body has, plus one step of the decoder.

    :param kind: by its first bytes; None: encrypted.
    :param size: bytes of the body.
    :param metadata: its metadata, for which :func:`is_doubtful` holds.
    """

    def __init__(self, kind: Compression | None, size: int, metadata: Metadata) -> None:
        self._decoder = Decompressor(kind) if kind is not None else None
        self._stored = LineEnds()
        self._text = LineEnds()
        self._size = size
        self._bad = kind is None
        try:
            self._virtual = metadata.virtual_size
        except FormatError:
            self._virtual = None

    def feed(self, piece: bytes) -> None:
        """Take the next stored bytes."""
        self._stored.feed(piece)
        if self._decoder is not None and not self._bad:
            try:
                self._decoder.feed(piece)
                self._drain(self._decoder)
            except FormatError:
                self._bad = True

    def plain(self) -> bool:
        """End the body; True: it is the plain message."""
        if self._decoder is not None and not self._bad:
            try:
                self._decoder.finish()
                self._drain(self._decoder)
            except FormatError:
                self._bad = True
        text = None if self._bad else self._text
        return is_as_it_is(self._virtual, self._stored, text)

    def _drain(self, decoder: Decompressor) -> None:
        while not self._bad and (piece := decoder.read(_STEP)):
            self._text.feed(piece)
            self._bad = self._text.size > self._size
