"""The records of a format 3 file without map or index, or with damage.

Every trailer proves with its tag where its record begins.  So the file is read once, in pieces of any size,
and all valid trailers are remembered (:class:`TrailerScan`); then :func:`resolve` puts them in order::

    scan = TrailerScan()
    for piece in file: scan.feed(piece)
    heads = {offset: 19 bytes of the file there for offset in {size of the header line, *scan.offsets()}}
    regions = resolve(scan.trailers, heads, header=…, size=size of the file)

:func:`scan_file` does all of that for a file in memory (or mapped).

A trailer belongs to a record of the file, and not of a file inside one of its bodies, if:

1. its tag is valid at this place (a copy of a dbox file has other places, even a copy of this file); 2. its
key is the file's: that of the file header line if a trailer agrees, else the one whose
   records cover most bytes (records inside a body cover less than the one around them);
3. its record does not lie inside another one; of two records at the same place, the one whose message header
has the trailer's separator counts.

Bytes between records are a :class:`NoRecord` with a reason: if they begin with a message header and go to the
end of the file, they are a record that was never finished; anything else is damage.

Limits.  A body's bytes are not checked: the caller compares their CRC-32 with ``trailer.crc``.  A record with
a damaged trailer is not found (the gap shows its place).  Memory: about 1 KB a record, 1 MiB for the scan.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from dboxfs.dbox.format2 import MESSAGE_HEADER_SIZE_3, Buffer, FileHeader, parse_file_header
from dboxfs.dbox.format3 import (
    LAST_LINE_SIZE,
    MAX_TRAILER,
    TRAILER_HEAD_SIZE,
    Trailer,
    check_message_header,
    parse_trailer,
    separator_of,
)
from dboxfs.errors import FormatError

_CANDIDATE: Final = re.compile(rb"\x01\x03[\0-\xff]{16}[0-7][0-9a-f]{15}\n")
_SCAN_PIECE: Final = 4 << 20


class FoundRecord(Struct, frozen=True):
    """A record of the file.  ``damage``: the fault of its message header; None: none."""

    trailer: Trailer
    damage: str | None

    @property
    def offset(self) -> int:
        """The beginning of the record in the file."""
        return self.trailer.record_offset

    @property
    def end(self) -> int:
        """The end of the record in the file."""
        return self.trailer.end


class NoRecord(Struct, frozen=True):
    """Bytes of the file, from ``offset`` to ``end``, that are no whole record.

    ``incomplete``: they are a record at the end of the file that was begun and not finished.
    """

    offset: int
    end: int
    incomplete: bool
    reason: str


class TrailerScan:
    """Finds the trailers of a file whose bytes are fed in order and without holes.

    :param offset: of the first byte in the file.
    :ivar trailers: those with a valid tag, in the order of the file.
    """

    def __init__(self, offset: int = 0) -> None:
        self.trailers: list[Trailer] = []
        self._base = offset
        self._buffer = b""
        self._searched = offset
        """No empty line begins between the first candidate without a known end and this offset."""

    def feed(self, data: Buffer) -> None:
        """Take the next bytes of the file."""
        self._buffer += bytes(data)
        self._scan()

    def offsets(self) -> set[int]:
        """The offsets at which :func:`resolve` needs bytes of the file: possible beginnings of records and
        gaps.
        """
        return {at for trailer in self.trailers for at in (trailer.record_offset, trailer.end)}

    def _scan(self) -> None:
        """Search the buffer for trailers.  Each byte is read only a few times, for any content."""
        buffer, at, empty_line = self._buffer, 0, -1
        while (match := _CANDIDATE.search(buffer, at)) is not None:
            at = match.start()
            if 0 <= empty_line < match.end() - 1:
                empty_line = -1
            if empty_line < 0:
                searched = max(match.end() - 1, self._searched - self._base)
                empty_line = buffer.find(b"\n\n", searched)
            if empty_line < 0:
                self._searched = self._base + max(searched, len(buffer) - 1)
                if len(buffer) - at < MAX_TRAILER:
                    self._keep(at)
                    return
                at = len(buffer) - MAX_TRAILER + 1  # no candidate before has an end
                continue
            self._look_at(at, empty_line + 2)
            at += 1
        self._keep(max(at, len(buffer) - TRAILER_HEAD_SIZE + 1))

    def _look_at(self, at: int, end: int) -> None:
        """Remember the trailer between two places of the buffer, if it is valid.

        Most candidates have a wrong L line, which is checked first: it costs little.
        """
        buffer = self._buffer
        if buffer[end - LAST_LINE_SIZE : end] != b"L%08x\n\n" % max(end - at, 0):
            return
        try:
            found = parse_trailer(buffer[at:end], base=self._base + at)
        except FormatError:
            return  # it only looked like a trailer
        if isinstance(found, Trailer):
            self.trailers.append(found)

    def _keep(self, at: int) -> None:
        self._buffer = self._buffer[at:]
        self._base += at


def scan_file(data: Buffer) -> list[FoundRecord | NoRecord]:
    """All regions of a file in memory: its records and the bytes between them, in order, without holes.

    The header line is not part of it, unless it is damaged.  A file of another version gives one gap.
    """
    view = memoryview(data)
    scan = TrailerScan()
    for at in range(0, len(view), _SCAN_PIECE):
        scan.feed(view[at : at + _SCAN_PIECE])
    try:
        header = parse_file_header(view[:1024])
    except FormatError:
        header = None
    known = header if isinstance(header, FileHeader) else None
    offsets = {_after_header(known), *scan.offsets()}
    heads = {offset: bytes(view[offset : offset + MESSAGE_HEADER_SIZE_3]) for offset in offsets}
    return resolve(scan.trailers, heads, header=known, size=len(view))


def resolve(
    trailers: Iterable[Trailer], heads: Mapping[int, bytes], *, header: FileHeader | None, size: int
) -> list[FoundRecord | NoRecord]:
    """Put the results of a scan in order: records, and the bytes between them.

    :param heads: the 19 bytes of the file (fewer at its end) at each of :meth:`TrailerScan.offsets`, and
        behind the header line.
    :param header: the file header line; None: it is damaged.
    :param size: of the file (bytes).
    """
    start = _after_header(header)
    known = [t for t in trailers if t.record_offset >= start and t.end <= size]
    candidates = [_found(trailer, heads) for trailer in _of_one_key(known, header)]
    candidates.sort(key=lambda found: (found.offset, found.damage is not None, -found.end))
    regions: list[FoundRecord | NoRecord] = []
    at = start
    for found in candidates:
        if found.offset < at:
            continue  # inside the one before, or at the same place with a weaker proof
        if found.offset > at:
            regions.append(_gap(at, found.offset, heads, at_end=False))
        regions.append(found)
        at = found.end
    if at < size:
        regions.append(_gap(at, size, heads, at_end=True))
    return regions


def _after_header(header: FileHeader | None) -> int:
    return header.size if header is not None and header.version == 3 else 0


def _of_one_key(trailers: list[Trailer], header: FileHeader | None) -> list[Trailer]:
    by_key: dict[bytes, list[Trailer]] = defaultdict(list)
    for trailer in trailers:
        by_key[trailer.key].append(trailer)
    if header is not None and header.key in by_key:
        return by_key[header.key]
    return max(by_key.values(), key=_covered, default=[])


def _covered(trailers: list[Trailer]) -> int:
    """Bytes that records cover, each counted once."""
    covered = at = 0
    for trailer in sorted(trailers, key=lambda t: t.record_offset):
        covered += max(0, trailer.end - max(at, trailer.record_offset))
        at = max(at, trailer.end)
    return covered


def _found(trailer: Trailer, heads: Mapping[int, bytes]) -> FoundRecord:
    try:
        check_message_header(heads.get(trailer.record_offset, b""), trailer)
    except FormatError as error:
        return FoundRecord(trailer, error.reason)
    return FoundRecord(trailer, None)


def _gap(start: int, end: int, heads: Mapping[int, bytes], *, at_end: bool) -> NoRecord:
    begun = False
    if at_end:
        try:
            separator_of(heads.get(start, b"")[: end - start] or b"\0")
            begun = True
        except FormatError:
            pass  # no beginning of a record: damage
    reason = "a record that was not finished" if begun else "no record can be made out here"
    return NoRecord(start, end, begun, reason)
