"""The format of ``.mh_sequences``: lists of messages, by their numbers.

::

    unseen: 3-5 9
    flagged: 4
    cur: 3

One line a sequence: its name, a colon, numbers and ranges.  In this view

===========  ==========================
``unseen``   the messages without \\Seen
``flagged``  those with \\Flagged
``replied``  those with \\Answered
===========  ==========================

Every other sequence (``cur``) is a program's own, and kept as it was written.

Pure: no store, no kernel.  Ranges are never expanded, so a file can't ask for more memory than it has bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from msgspec import Struct

NAME = b".mh_sequences"

UNSEEN, FLAGGED, REPLIED = b"unseen", b"flagged", b"replied"

SEQUENCES_LARGEST = 16 << 20
"""Bytes of the file, at most."""

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_HIGHEST = 0xFFFFFFFF
_LINE = re.compile(rb"\s*([A-Za-z][^\s:]*):((?:\s+[0-9]{1,10}(?:-[0-9]{1,10})?)*)\s*")


class Sequences(Struct, frozen=True):
    """The content of a file.

    ``ranges``: by the name of the sequence, an array of shape (n, 2) of first and last numbers.
    ``lines``: the lines of the sequences that are a program's own, by name.
    """

    ranges: Mapping[bytes, Numbers]
    lines: Mapping[bytes, bytes]

    def has(self, name: bytes, numbers: Numbers) -> Mask:
        """Which of *numbers* are in the sequence *name*."""
        ranges = self.ranges.get(name)
        found = np.zeros(len(numbers), bool)
        if ranges is None or not len(ranges):
            return found
        starts = np.sort(ranges[:, 0])
        ends = np.sort(ranges[:, 1])
        # A number is in as many ranges as have begun by then and not ended before.
        begun = np.searchsorted(starts, numbers, side="right")
        ended = np.searchsorted(ends, numbers, side="left")
        return begun > ended


def parse_sequences(data: bytes) -> Sequences:
    """Parse a file; lines that are no sequence are left out."""
    ranges: dict[bytes, Numbers] = {}
    lines: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, spans = match[1], [span.split(b"-") for span in match[2].split()]
        found = np.array([(int(span[0]), int(span[-1])) for span in spans], np.int64).reshape(-1, 2)
        found = found[(found[:, 0] <= found[:, 1]) & (found[:, 1] <= _HIGHEST)]
        ranges[name] = np.concatenate([ranges[name], found]) if name in ranges else found
        if name not in (UNSEEN, FLAGGED, REPLIED):
            lines[name] = line.strip()
    return Sequences(ranges, lines)


def format_sequence(name: bytes, numbers: Numbers) -> bytes:
    """One line, with its end; nothing, if the sequence has no message.

    :param numbers: in any order.
    """
    if not len(numbers):
        return b""
    ordered = np.sort(numbers)
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    firsts = ordered[np.concatenate([[0], breaks + 1])].tolist()
    lasts = ordered[np.concatenate([breaks, [len(ordered) - 1]])].tolist()
    spans = (b"%d" % a if a == b else b"%d-%d" % (a, b) for a, b in zip(firsts, lasts, strict=True))
    return name + b": " + b" ".join(spans) + b"\n"
