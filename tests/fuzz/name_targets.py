"""Target of the fuzzer: the lines of a file of names (:mod:`dboxfs.store.names.codec`)."""

from __future__ import annotations

import zlib
from random import Random

from dboxfs.store.names.codec import HIGHEST_UID, LONGEST_NAME, Line, LineKind, decode_lines, encode_line
from tests.fuzz.machine import Target

_LINES = (
    Line(1000, 1, b"name"),
    Line(1000, 2, b"\xff a%b\n", 1),
    Line(1000, 7, b"placed", 2, LineKind.PLACED, "7-0-abc"),
    Line(1000, 8, b"announced", 0, LineKind.ANNOUNCED, "7-0-abc"),
)
_NUMBERS = (
    b"1000",
    b"7",
    b"0",
    b"-1",
    b"x",
    b"",
    b"1e3",
    b"4294967295",
    b"4294967296",
    b"9" * 5000,
    b"\xd9\xa3",
)
_NAMES = (
    b"name",
    b"a%2Fb",
    b"%2E%2E",
    b".",
    b"",
    b"x" * 255,
    b"x" * 256,
    b"x" * 5000,
    b"%00",
    b"%FF%zz",
    b".dboxfs",
)
_WRITERS = (b"=7-0-abc", b"+7-0-abc", b"=", b"?x", b"", b"=" + b"a" * 100)


def run_names(data: bytes, random: Random) -> None:
    """A line counts if it can be one, and is then written as it was read; every other is skipped."""
    at = 0
    for end, line in decode_lines(data):
        assert at < end <= len(data)
        assert data[end - 1 : end] == b"\n"
        at = end
        if line is None:
            continue
        assert 0 < line.uid <= HIGHEST_UID
        assert 0 < len(line.name) <= LONGEST_NAME
        assert not {b"/", b"\0"} & {line.name[i : i + 1] for i in range(len(line.name))}
        assert [again for _, again in decode_lines(encode_line(line))] == [line]
    assert b"\n" not in data[at:], "every line was looked at"


def make_names(random: Random) -> bytes:
    """Lines whose checksums hold, whatever is in them."""
    lines = []
    for _ in range(random.randrange(6)):
        fields = [random.choice(_NUMBERS), random.choice(_NUMBERS), random.choice(_NAMES)]
        if random.random() < 0.5:
            fields.append(random.choice(_NUMBERS))
        if random.random() < 0.3:
            fields.append(random.choice(_WRITERS))
        text = b" ".join(fields)
        lines.append(b"%08x %s\n" % (zlib.crc32(text), text))
    return b"".join(lines)


def targets() -> list[Target]:
    """All of them."""
    whole = b"".join(encode_line(line) for line in _LINES)
    return [Target("names", [whole], run_names, (b" ", b"\n", b"%2F", b"%00", *_WRITERS), make_names, 8)]
