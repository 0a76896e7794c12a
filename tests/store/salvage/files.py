"""dbox files for tests, put together from the format page, and scanned in memory."""

from __future__ import annotations

import bz2
import gzip
import zlib
from dataclasses import dataclass

from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store.salvage import Found, Gap, MapPlace, open_window, scan_file

HEADER = b"2 M1e C6b00a985\n"


def guid(number: int) -> bytes:
    return b"%032x" % (0xABCDEF0123456789 * (number + 1))


def record(number: int, text: bytes, *, stored: bytes | None = None, extra: bytes = b"BINBOX\n") -> bytes:
    """A record as dbox-files section 1 has it; *stored*: the compressed text."""
    virtual = len(text) + text.count(b"\n") - text.count(b"\r\n")
    size = b"" if stored is None else b"Z%x\n" % len(text)
    body = text if stored is None else stored
    lines = b"%sR65000000\nV%x\nG%s\n%s" % (size, virtual, guid(number), extra)
    return b"\x01\x02N          %016X\n%s\n\x01\x03\n%s\n" % (len(body), body, lines)


@dataclass(frozen=True, slots=True)
class Sample:
    """A file: its bytes, and for each message where its record is and what its text."""

    data: bytes
    places: tuple[MapPlace, ...]
    texts: tuple[bytes, ...]

    def texts_beside(self, offset: int) -> set[bytes]:
        """The texts of all messages that do not have the byte at *offset*."""
        return {
            text
            for place, text in zip(self.places, self.texts, strict=True)
            if not place.offset <= offset < place.offset + place.size
        }


def sample() -> Sample:
    """Messages that are hard on a scan: empty, compressed, with records and metadata inside."""
    inner = HEADER + record(90, b"a message in a message\n") + record(91, b"and another one\n" * 3)
    texts = [
        b"Subject: one\n\nplain text\n",
        b"",
        b"Subject: two\r\n\r\nwith CRLF\r\nand\nLF\r",
        b"an attached dbox file:\n" + inner + b"and its end\n",
        b"x\n\x01\x03\n",
        b"compressed " * 40 + b"\n",
        b"the same with bzip2\n" * 9,
        b"no line end",
        b"looks like metadata\n\x01\x03\nR1\nV2\nG%s\n\nand goes on\n" % guid(95),
        b"last\n",
    ]
    stored = {5: gzip.compress(texts[5], mtime=0), 6: bz2.compress(texts[6])}
    data, places = HEADER, []
    for number, text in enumerate(texts):
        piece = record(number, text, stored=stored.get(number))
        places.append(MapPlace(len(data), len(piece)))
        data += piece
    return Sample(data, tuple(places), tuple(texts))


async def scan(
    data: bytes, places: tuple[MapPlace, ...] = (), *, single: bool = False, chunk: int = 1 << 20
) -> list[Found | Gap]:
    driver = MemoryDriver(nowait=True)
    driver.put("/s/m.1", data)
    async with FileSystem(driver) as fs, open_window(fs, "/s/m.1", chunk) as window:
        return [item async for item in scan_file(window, places, single=single)]


def text_of(data: bytes, found: Found) -> bytes:
    """The plain text, decompressed by the standard library."""
    stored = data[found.body_offset : found.body_offset + found.body_size]
    if stored.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(-15).decompress(stored[10:])  # the header's other bytes don't count
    return bz2.decompress(stored) if stored.startswith(b"BZh9") else stored
