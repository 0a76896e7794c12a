r"""What a stored body is: the message as it is, compressed, or encrypted.

In format 2 no flag says so, the first bytes do: the magic of a compression format (:mod:`.compression`), or
the 9 bytes ``CRYPTED`` 03 07 of Dovecot's ``mail_crypt``.  But a message may begin with such bytes itself,
and a Dovecot without the plugin (2.4 for xz: any Dovecot) stores it as it is, and serves it.  The metadata
tell the two apart:

* ``Z`` is there where the stored size is not that of the plain message.  A body that is compressed or
  encrypted has it, unless both happen to have the same size; one that is stored as it is never has it.
* ``V`` counts the plain message.  Without ``Z``, a body that is what its magic says decompresses to a text of
  exactly the stored size that ``V`` counts; one that is stored as it is has itself the size that ``V`` says.

So only a body with magic and without ``Z`` (and without attachments) has to be read to know what it is:
:class:`Doubt`.  Where the metadata confirm neither, the magic counts.

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
"""How the bodies begin that Dovecot's ``mail_crypt`` has encrypted."""

_STEP: Final = 64 << 10


def is_encrypted(first_bytes: Buffer) -> bool:
    """Whether a body begins like an encrypted one."""
    return bytes(first_bytes[: len(ENCRYPTED_MAGIC)]) == ENCRYPTED_MAGIC


def is_doubtful(metadata: Metadata) -> bool:
    """Whether a body with magic, in format 2, has to be read to know what it is.

    :raises FormatError: the Z line is damaged.
    """
    return metadata.physical_size is None and metadata.ext_refs is None


def is_as_it_is(virtual: int | None, stored: LineEnds, text: LineEnds | None) -> bool:
    """The rule of :class:`Doubt` for counted bytes.

    :param virtual: V; None: not known.
    :param stored: the stored bytes.
    :param text: what they decompress to; None: they don't.
    """
    fits = text is not None and text.size == stored.size and virtual in (None, text.virtual_size)
    return not fits and virtual == stored.virtual_size


class Doubt:
    """Decides whether a body with magic is stored as it is: feed all of it, then ask :meth:`plain`.

    No more is decompressed than the body is long, and a step of the decoder.

    :param kind: what its first bytes say; None: encrypted.
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
        """The next stored bytes."""
        self._stored.feed(piece)
        if self._decoder is not None and not self._bad:
            try:
                self._decoder.feed(piece)
                self._drain(self._decoder)
            except FormatError:
                self._bad = True

    def plain(self) -> bool:
        """The body ends here: whether it is the message as it is."""
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
