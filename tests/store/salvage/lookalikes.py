"""Bodies full of what a scan looks for, and files whose records say what isn't true."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable

from tests.dbox.golden3 import file_of
from tests.store.salvage.files import HEADER, record


def fill(piece: bytes, size: int) -> bytes:
    return piece * max(1, size // len(piece))


def each(make: Callable[[int], bytes], size: int) -> bytes:
    """*make*'s pieces, numbered, up to *size* bytes."""
    out, number, length = [], 0, 0
    while length < size:
        out.append(make(number))
        length += len(out[-1])
        number += 1
    return b"".join(out)


def head(size: int) -> bytes:
    return b"\x01\x02N          %016X\n" % size


def whole(number: int) -> bytes:
    """A small record."""
    return record(number, b"Subject: %d\n\n" % number + b"some words of a mail\n" * 8)


def lying(number: int, body: bytes) -> bytes:
    """A record whose sizes are wrong."""
    return head(len(body)) + body + b"\n\x01\x03\nR5f000000\nV5\nZ5\nG%032x\n\n" % number


def stored_gzip(text: bytes) -> bytes:
    """*text* in a gzip file that compresses nothing, so that all of it stands there."""
    parts = [text[at : at + 65535] for at in range(0, len(text), 65535)]
    blocks = [
        b"\0%b%b%b" % (len(p).to_bytes(2, "little"), (65535 - len(p)).to_bytes(2, "little"), p) for p in parts
    ]
    end = zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"".join(blocks) + b"\x03\0" + end


def heads_to_one_place(size: int, body: bytes = b"") -> bytes:
    """Message headers whose sizes all lead to the end of this."""
    step = 30 + len(body)
    count = size // step
    return b"".join(head((count - at) * step - 30) + body for at in range(count))


def blocks_that_fit(size: int, line: bytes) -> bytes:
    """Metadata blocks whose V fits a text from the beginning of this, with a *line* that doesn't."""
    out, length, ends = [], 0, 0
    while length < size:
        block = b"\n\x01\x03\nV%x\n%s\n" % (length + ends, line)
        out.append(block)
        length += len(block)
        ends += block.count(b"\n")
    return b"".join(out)


_BOMB = gzip.compress(bytes(1 << 20), mtime=0)
_BZIP2_BOMB = bz2.compress(bytes(90000)) + bytes(600)
_GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
_HEAD_3 = b"\x01\x02" + b"s" * 16 + b"\n"
_TRAILER_3 = b"\x01\x03" + b"s" * 16 + b"0" * 16 + b"\n"

BODIES: dict[str, Callable[[int], bytes]] = {
    "magic bytes": lambda n: fill(b"\n\x01\x03\n", n),
    "magic bytes and a letter": lambda n: fill(b"\n\x01\x03\nA", n),
    "metadata blocks without an end": lambda n: fill(b"\n\x01\x03\nV1", n),
    "metadata blocks": lambda n: fill(b"\n\x01\x03\nV1\n", n),
    "metadata blocks with a guid": lambda n: fill(b"text\n\x01\x03\nR5f000000\nGxyz\n\n", n),
    "metadata blocks that nearly fit": lambda n: blocks_that_fit(n, b"Z1\n"),
    "line feeds": lambda n: fill(b"\nAB", n),
    "message headers": lambda n: fill(head(5), n),
    "message headers that lead to line feeds": lambda n: (
        b"".join(head(n - 31 * at + 3 * (at % 7)) for at in range(n // 62)) + fill(b"\nG\n", n // 2)
    ),
    "message headers that lead to one block": lambda n: heads_to_one_place(n) + b"\n\x01\x03\nV5\n\n",
    "message headers that lead to one without V": lambda n: heads_to_one_place(n) + b"\n\x01\x03\nZ5\nR1\n\n",
    "message headers that lead to an attachment": lambda n: (
        heads_to_one_place(n) + b"\n\x01\x03\nV5\nX0 5 - aa/bb\n\n"
    ),
    "compressed texts that lead to one block": lambda n: (
        heads_to_one_place(n, _GZIP) + b"\n\x01\x03\nV5\nZ5\n\n"
    ),
    "compressed texts in one that is not": lambda n: (
        stored_gzip(heads_to_one_place(n, _GZIP)) + b"\n\x01\x03\nV5\nZ5\n\n"
    ),
    "blocks in a compressed text": lambda n: stored_gzip(fill(b"\n\x01\x03\nV1\n", n)),
    "texts that decompress without an end": lambda n: fill(lying(7, _BOMB), n),
    "file headers": lambda n: fill(HEADER, n),
    "files": lambda n: each(lambda number: HEADER + whole(number), n),
    "records": lambda n: each(whole, n),
    "NULs": bytes,
    "headers of version 3": lambda n: fill(_HEAD_3, n),
    "headers and trailers of version 3": lambda n: fill(_HEAD_3 + _TRAILER_3, n),
}
"""Bodies of about so many bytes."""

BODIES_3: dict[str, Callable[[int], bytes]] = {
    **{name: BODIES[name] for name in ("message headers", "metadata blocks", "records", "NULs")},
    "headers": lambda n: fill(_HEAD_3, n),
    "headers and one trailer": lambda n: fill(_HEAD_3, n) + _TRAILER_3 + b"D00000000\n\n",
    "headers and trailers": lambda n: fill(_HEAD_3 + _TRAILER_3, n),
    "headers and trailers, one in the other": lambda n: (
        b"".join(b"\x01\x02%016d\n" % at for at in range(n // 60))
        + b"".join(b"\x01\x03%016d0000000000000000\nD00000000\n\n" % at for at in range(n // 60))
    ),
    "magic bytes": lambda n: fill(b"\x01\x03", n),
    "beginnings of trailers": lambda n: fill(_TRAILER_3, n),
    "trailers that prove nothing": lambda n: fill(_TRAILER_3 + b"L00000040\n\n", n),
    "a file": lambda n: file_of([b"x" * 200] * (n // 400))[0],
}
"""The same for files of version 3."""

FILES: dict[str, Callable[[int], bytes]] = {
    "whole records": lambda n: each(whole, n),
    "whole records, bytes between them": lambda n: each(lambda at: whole(at) + b"x", n),
    "every second record damaged": lambda n: each(
        lambda at: whole(at).replace(b"N ", b"M ") if at % 2 else whole(at), n
    ),
    "records whose sizes contradict them": lambda n: each(
        lambda at: lying(at, b"Subject: x\n\n" + bytes(200)), n
    ),
    "texts that decompress to far more than they say": lambda n: each(lambda at: lying(at, _BOMB), n),
    "the same with bzip2": lambda n: each(lambda at: lying(at, _BZIP2_BOMB), n),
}
"""Records of whole files (without the header line) of about so many bytes."""
