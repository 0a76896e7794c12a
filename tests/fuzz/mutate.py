"""Changes to inputs, by chance: bytes, words, numbers, slices, and the pieces that a grammar is made of.

Everything comes from the :class:`random.Random` that the caller gives, so an input can be made again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from random import Random

LONGEST = 1 << 16
"""Bytes that an input has at most: what it takes is bounded by its size."""

_SMALL = (0, 1, 2, 3, 4, 7, 8, 12, 16, 30, 40, 127, 128, 255, 256, 65535, 65536, 1 << 20)
_LARGE = ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_NUMBERS = _SMALL + _LARGE
_DIGITS = re.compile(rb"[0-9a-fA-F]{1,32}")


def mutated(random: Random, data: bytes, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """*data* with up to eight changes; one in fifty stays as it is.

    :param others: inputs of the same kind, to take slices from.
    :param tokens: what the grammar is made of.
    """
    if random.random() < 0.02:
        return data
    result = bytearray(data)
    for _ in range(min(1 + int(random.expovariate(0.7)), 8)):
        _change(random, result, others, tokens)
    return bytes(result[:LONGEST])


def _change(random: Random, data: bytearray, others: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    match random.randrange(12):
        case 0 | 1 if data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        case 2 if data:
            data[at % len(data)] = random.choice((0, 1, 10, 13, 32, 0x7F, 0x80, 0xFF, random.randrange(256)))
        case 3:
            _word(random, data, at)
        case 4 | 5:
            _number(random, data)
        case 6:
            del data[at : at + _length(random, data)]
        case 7:
            piece = data[at : at + _length(random, data)]
            for _ in range(random.choice((1, 1, 1, 2, 30))):
                data[at:at] = piece
        case 8 if tokens:
            end = at + random.choice((0, 0, 1, 4))
            data[at:end] = random.choice(tokens)
        case 9 if others:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            data[at:] = other[start:]
        case 10:
            del data[at:]
        case _:
            data[at:at] = random.randbytes(random.choice((1, 1, 2, 4, 8, 100)))
    del data[LONGEST:]


def _length(random: Random, data: bytearray) -> int:
    return random.choice((1, 1, 2, 4, 8, 16, 64, random.randrange(len(data) + 1)))


def _word(random: Random, data: bytearray, at: int) -> None:
    """A number of 2, 4 or 8 bytes, little or big endian; or one that is there, a little more or less."""
    size, order = random.choice((2, 4, 4, 8)), random.choice("<<>")
    at -= at % random.choice((1, 4))
    if at + size > len(data):
        return
    form = order + {2: "H", 4: "I", 8: "Q"}[size]
    (old,) = struct.unpack_from(form, data, at)
    new = random.choice((*_NUMBERS, len(data), old + 1, old - 1, old * 2, -old))
    struct.pack_into(form, data, at, new % (1 << 8 * size))


def _number(random: Random, data: bytearray) -> None:
    """A number in digits becomes another one."""
    found = list(_DIGITS.finditer(data))[:200]
    if not found:
        return
    match = random.choice(found)
    start, end = match.span()
    form = random.choice(("%d", "%x", "%X", "%016X", "%016x"))
    value = random.choice((*_NUMBERS, len(data), max(0, len(data) - end), int(match[0], 16) + 1))
    data[start:end] = (form % value).encode()
