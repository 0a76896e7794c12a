"""Format 3 files made by hand: from the grammar of FORMAT3.md, with hashlib and zlib only."""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path
from typing import Final

import dboxfs.dbox

KEY: Final = bytes(range(0x10, 0x20))
HEADER: Final = b"3 M13 C6b00a985 K101112131415161718191a1b1c1d1e1f\n"
FIRST: Final = b"sixteen bytes!!!"
SECOND: Final = bytes(range(0xF0, 0x100))


def separator(number: int) -> bytes:
    """As good as random, and the same at every run."""
    return hashlib.md5(b"separator %d" % number, usedforsecurity=False).digest()


def trailer(
    offset: int, separator: bytes, body: bytes, lines: bytes = b"", *, key: bytes = KEY, size: int = -1
) -> bytes:
    """What FORMAT3.md wants behind *body*; *lines*: metadata lines and C line.  *size*: a false one."""
    size = len(body) if size < 0 else size
    text = b"\x01\x03" + separator + b"%016x\n" % size + lines
    text += b"D%08x\n" % zlib.crc32(body) + b"K" + key.hex().encode() + b"\n"
    covered = offset.to_bytes(8, "little") + text
    tag = hashlib.blake2b(covered, digest_size=16, key=key).hexdigest()
    return text + b"H" + tag.encode() + b"\n" + b"L%08x\n\n" % (len(text) + 34 + 10 + 1)


def record(offset: int, separator: bytes, body: bytes, lines: bytes = b"", *, key: bytes = KEY) -> bytes:
    """One record at *offset* of its file."""
    return b"\x01\x02" + separator + b"\n" + body + trailer(offset, separator, body, lines, key=key)


def file_of(bodies: list[bytes], *, key: bytes = KEY) -> tuple[bytes, list[int]]:
    """A file with these messages, and where each of its records begins, and where the last one ends."""
    data = b"3 M13 C6b00a985 K" + key.hex().encode() + b"\n"
    offsets = [len(data)]
    for number, body in enumerate(bodies):
        lines = b"R%x\nG%032x\n" % (1000 + number, number)
        data += record(len(data), separator(number), body, lines, key=key)
        offsets.append(len(data))
    return data, offsets


def page_example() -> bytes:
    """The bytes of the hexdump in FORMAT3.md."""
    page = (Path(dboxfs.dbox.__file__).parent / "FORMAT3.md").read_text("utf-8")
    dump = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} )+) *\|", page, re.MULTILINE)
    return bytes.fromhex("".join(dump))
