"""A file that is written at any offset over a temporary that only grows is what a plain file would be."""

from __future__ import annotations

import errno
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.vfs.extents import Extents, From, Piece

BASE = bytes(range(65, 91)) * 4


class Modelled:
    """Extents with what they describe, beside a plain file."""

    def __init__(self, base: bytes = b"", **limits: int) -> None:
        self.base = base
        self.temporary = bytearray()
        self.extents = Extents(len(base), **limits)
        self.model = bytearray(base)

    def write(self, offset: int, data: bytes) -> None:
        self.extents.write(offset, len(data), len(self.temporary))
        self.temporary += data
        if data:
            self.model += bytes(max(offset - len(self.model), 0))
            self.model[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.extents.truncate(size)
        self.model = self.model[:size] + bytes(max(size - len(self.model), 0))

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        sources = {From.BASE: self.base, From.TEMPORARY: bytes(self.temporary)}
        parts = []
        for piece in self.extents.pieces(offset, size):
            assert piece.size > 0
            source = sources.get(piece.source)
            part = bytes(piece.size) if source is None else source[piece.at : piece.at + piece.size]
            assert len(part) == piece.size
            parts.append(part)
        return b"".join(parts)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 150), st.binary(max_size=40)),
        st.integers(0, 150),
        st.none(),
    ),
    max_size=25,
)


@given(st.integers(0, len(BASE)), STEPS, st.integers(0, 160), st.integers(0, 160))
def test_it_is_what_a_plain_file_would_be(base: int, steps: list[object], offset: int, size: int) -> None:
    file = Modelled(BASE[:base])
    for step in steps:
        match step:
            case None:
                file.write(file.extents.size, b"appended")
            case int():
                file.truncate(step)
            case (int(at), bytes(data)):
                file.write(at, data)
        assert file.extents.size == len(file.model)
        assert file.read() == file.model
    assert file.read(offset, size) == file.model[offset : offset + size]
    pieces = list(file.extents.pieces())
    assert sum(piece.size for piece in pieces if piece.source is From.HOLE) == file.extents.holes
    for one, next_one in pairwise(pieces):
        assert (one.source, one.at + one.size) != (next_one.source, next_one.at), "two extents that are one"
        assert one.source is not From.HOLE or next_one.source is not From.HOLE
    assert file.extents.is_plain(len(file.temporary)) <= (file.temporary == file.model)


def test_writes_one_behind_the_other_are_one_extent() -> None:
    file = Modelled(BASE)
    for number in range(1000):
        file.write(file.extents.size, b"%4d" % number)
    assert len(file.extents) == 2
    file.truncate(0)
    file = Modelled()
    file.write(4, b"last")
    file.write(0, b"1st.")
    assert list(file.extents.pieces()) == [Piece(From.TEMPORARY, 4, 4), Piece(From.TEMPORARY, 0, 4)]
    file.write(0, b"again, all of it")
    assert list(file.extents.pieces()) == [Piece(From.TEMPORARY, 8, 16)]
    assert file.extents.place(2, 3) == 10
    assert file.extents.place(2, 30) is None


def test_a_file_in_too_many_parts_is_refused_and_stays_as_it_was() -> None:
    file = Modelled(most=10)
    for number in range(10):
        file.write(number * 10, b"part")
    before = bytes(file.model)
    for at in (200, 1):
        with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EFBIG):
            file.write(at, b"m")
        assert file.read() == before == file.model
    file.write(0, b"x" * 100)
    assert (len(file.extents), file.read()) == (1, b"x" * 100)


def test_more_zeros_than_a_message_can_have_are_refused() -> None:
    file = Modelled(BASE, most_holes=1000)
    changes: list[Callable[[], None]] = [
        lambda: file.write(1 << 40, b"x"),
        lambda: file.truncate(1 << 62),
        lambda: file.write(len(BASE) + 1001, b"x"),
    ]
    for change in changes:
        with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EFBIG):
            change()
        assert file.read() == BASE
    file.truncate(len(BASE) + 1000)
    assert file.extents.holes == 1000
    file.truncate(0)
    file.truncate(1000)
    file.write(500, b"x" * 100)
    assert (file.extents.holes, file.read()) == (900, bytes(500) + b"x" * 100 + bytes(400))


def test_memory_goes_with_the_extents_and_not_with_the_bytes() -> None:
    tracemalloc.start()
    extents = Extents(1 << 40)
    for number in range(1000):
        extents.write(number << 20, 1 << 19, number << 19)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(extents) == 2000
    assert used < 1 << 20
