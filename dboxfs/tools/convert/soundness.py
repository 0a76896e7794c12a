"""Checks, while a text is copied, whether it fits its metadata.

A conversion reads every stored byte once, and measures on the way: size, size with CRLF line ends, whether
the text decompresses, and the CRC-32 of format 3.  A contradiction to the metadata is reported; the message
is kept:

* only ``Z`` is wrong, and ``V`` proves the text: it gets the right ``Z``, since readers refuse a wrong one;
* anything else: it stays as it is stored, damaged as in the source, so that nothing of it is lost.
"""

from __future__ import annotations

from msgspec import Struct

from dboxfs.dbox import Compression, Metadata
from dboxfs.errors import FormatError
from dboxfs.store.salvage.measure import Measured, TextMeter, contradictions, settled

Items = list[tuple[bytes, bytes]]


class Judged(Struct, frozen=True):
    """``items``: the metadata lines to write.  ``trouble``: the problem, one line; empty: none."""

    items: Items
    trouble: str = ""


class TextCheck:
    """Measures the text of one message.

    :param compression: how it is stored.
    :param items: its metadata lines, as they will be written.
    :param crc: CRC-32 of the stored text, None: not known (format 2, or another text than the stored one).
    """

    def __init__(self, compression: Compression | None, items: Items, crc: int | None) -> None:
        self._meter = TextMeter(compression)
        self._items = items
        self._crc = crc

    def feed(self, piece: bytes) -> None:
        """The next bytes of the text, as they are stored."""
        self._meter.feed(piece)

    def judge(self) -> Judged:
        """The result, at the end of the text."""
        items = self._items
        metadata = Metadata(tuple(items), 0, 0)
        measured = settled(self._meter.result(), metadata)
        wrong = contradictions(measured, metadata)
        if self._crc is not None and measured.crc != self._crc:
            wrong.insert(0, f"its CRC-32 is {measured.crc:08x}, not {self._crc:08x}")
        if not wrong:
            return Judged(items)
        if self._crc in (None, measured.crc) and _proven(measured, metadata):
            size = b"%x" % measured.plain
            right = [(key, size if key == b"Z" else value) for key, value in items]
            return Judged(right, f"{'; '.join(wrong)}: kept, with the right size")
        return Judged(items, f"kept as it is stored, but damaged: {'; '.join(wrong)}")


def _proven(measured: Measured, metadata: Metadata) -> bool:
    """Whether everything but ``Z`` fits."""
    try:
        virtual = metadata.virtual_size
    except FormatError:
        return False
    return measured.error is None and metadata.ext_refs is None and virtual == measured.virtual
