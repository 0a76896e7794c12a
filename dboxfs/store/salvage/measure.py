"""Measure the text of one message: its size, its size with CRLF line ends, and whether it can be
decompressed.

Format 2 has no checksum.  A text is shown to be complete by ``V``, its size with CRLF line ends, and if it is
compressed by the compression itself and ``Z``.  A changed byte of a plain text can't be noticed, unless it is
a line end.
"""

from __future__ import annotations

import zlib

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.dbox import (
    PREFIX_SIZE,
    Compression,
    Decompressor,
    LineEnds,
    Metadata,
    bare_line_feeds,
    detect,
    is_as_it_is,
    is_doubtful,
    is_encrypted,
    parse_ext_refs,
)
from dboxfs.errors import FormatError
from dboxfs.store.salvage.effort import Effort
from dboxfs.store.salvage.window import Window

_MEASURE_STEP = 256 << 10
_SLOW = frozenset({Compression.BZIP2, Compression.XZ})
_SLOWER = 4
_SMALL = 64 << 10


class Measured(Struct, frozen=True):
    """The measures of a stored text.  Sizes in bytes: ``stored`` (file), ``plain``, ``virtual`` (CRLF line
    ends).

    ``crc``: CRC-32 of the stored text.  ``error``: the reason why it can't be decompressed beyond ``plain``
    bytes.  ``raw``: counts of the stored bytes.  ``encrypted``: the stored bytes are ciphertext
    (``mail_crypt``).
    """

    stored: int
    plain: int
    virtual: int
    compression: Compression | None
    crc: int = 0
    error: str | None = None
    raw: LineEnds | None = None
    encrypted: bool = False


class TextMeter:
    """Measures a text that comes in pieces."""

    def __init__(self, kind: Compression | None, claim: int = 0, effort: Effort | None = None) -> None:
        self._kind = kind
        self._claim = claim
        self._effort = effort
        self._decoder = Decompressor(kind) if kind is not None else None
        self._lines = LineEnds()
        self._raw = LineEnds() if kind is not None else self._lines
        self._first = b""
        self._error: str | None = None
        self._crc = 0

    def feed(self, piece: bytes) -> None:
        """Take the next stored bytes."""
        if len(self._first) < PREFIX_SIZE:
            self._first += piece[:PREFIX_SIZE]
        self._crc = zlib.crc32(piece, self._crc)
        self._raw.feed(piece)
        if self._decoder is not None and self._error is None:
            try:
                self._decoder.feed(piece)
                self._drain(self._decoder)
            except FormatError as exc:
                self._error = f"{exc.reason} (at byte {exc.offset} of the stored text)"

    def _drain(self, decoder: Decompressor) -> None:
        """Count the decompressed bytes; those beyond the size in the metadata only as long as there is effort
        left.

        :raises FormatError: damage, or too many bytes.
        """
        effort, step = self._effort, _MEASURE_STEP
        if effort is not None and effort.packed_up:
            step = max(1, min(_MEASURE_STEP, self._claim - self._lines.size + 1))
        while plain := decoder.read(step):
            self._lines.feed(plain)
            beyond = min(self._lines.size - self._claim, len(plain))
            work = beyond * _SLOWER if self._kind in _SLOW else beyond
            if work > 0 and effort is not None and not effort.unpack(work):
                raise FormatError(self._raw.size, "far more comes out of it than its metadata say")

    @property
    def failed(self) -> bool:
        """Whether the text can't be decompressed any further."""
        return self._error is not None

    @property
    def sizes(self) -> tuple[int, int]:
        """The sizes so far: bytes, and bytes with CRLF line ends."""
        return self._lines.size, self._lines.virtual_size

    def result(self) -> Measured:
        """End the text, and give its measures."""
        if self._decoder is not None and self._error is None:
            try:
                self._decoder.finish()
                self._drain(self._decoder)
            except FormatError as exc:
                self._error = f"{exc.reason} (at byte {exc.offset} of the stored text)"
        lines, raw = self._lines, self._raw
        encrypted = self._kind is None and is_encrypted(self._first)
        return Measured(
            raw.size, lines.size, lines.virtual_size, self._kind, self._crc, self._error, raw, encrypted
        )


def claimed(metadata: Metadata | None) -> int:
    """The size of the plain text in *metadata* (bytes); 0: they have none."""
    if metadata is None:
        return 0
    try:
        size = metadata.physical_size
        return size if size is not None else metadata.virtual_size or 0
    except FormatError:
        return 0


async def measure(
    window: Window, start: int, end: int, claim: int = 0, effort: Effort | None = None
) -> Measured:
    """Measure the stored text from *start* to *end*; format 2: its first bytes show the compression.

    :param claim: expected plain bytes; bytes beyond that are taken from *effort*.
    :raises OSError: the file can't be read.
    """
    kind = detect(await window.read(start, min(PREFIX_SIZE, end - start)))
    return await measure_as(window, start, end, kind, claim, effort)


async def measure_as(
    window: Window,
    start: int,
    end: int,
    kind: Compression | None,
    claim: int = 0,
    effort: Effort | None = None,
) -> Measured:
    """The same for a text that is compressed as *kind* (format 3).

    :raises OSError: the file can't be read.
    """
    if kind is None and end - start <= _SMALL:
        text = await window.read(start, end - start)
        if not is_encrypted(text):
            virtual = len(text) + bare_line_feeds(text)
            return Measured(len(text), len(text), virtual, None, zlib.crc32(text))
    meter = TextMeter(kind, claim, effort)
    async for piece in window.pieces(start, end):
        meter.feed(piece)
    return meter.result()


def settled(found: Measured, metadata: Metadata) -> Measured:
    """*found* as a plain text, if *metadata* show that it is stored as it is (:mod:`dboxfs.dbox.stored`)."""
    if found.raw is None or (found.compression is None and not found.encrypted):
        return found
    text: LineEnds | None = None
    if found.compression is not None and found.error is None:
        text = LineEnds()
        text.size, text.bare = found.plain, found.virtual - found.plain
    try:
        if not is_doubtful(metadata) or not is_as_it_is(metadata.virtual_size, found.raw, text):
            return found
    except FormatError:
        return found
    return replace(
        found,
        plain=found.raw.size,
        virtual=found.raw.virtual_size,
        compression=None,
        error=None,
        encrypted=False,
    )


def contradictions(found: Measured, metadata: Metadata) -> list[str]:
    """Differences between *metadata* and the text, as text; empty: they agree, as far as they can be
    compared.

    The measures of an encrypted text can't be compared.
    """
    if found.encrypted:
        return []
    if found.error is not None:
        return [f"the text can't be decompressed: {found.error}"]
    wrong = []
    try:
        refs = parse_ext_refs(metadata.ext_refs) if metadata.ext_refs is not None else ()
        inner = found.plain + sum(ref.size for ref in refs)
        size, virtual = metadata.physical_size, metadata.virtual_size
        if size is not None and size != inner:
            wrong.append(f"Z says {size} bytes, the text has {inner}")
        if virtual is not None and not refs and virtual != found.virtual:
            wrong.append(f"V says {virtual} bytes with CRLF line ends, the text has {found.virtual}")
    except FormatError as exc:
        wrong.append(exc.reason)
    return wrong
