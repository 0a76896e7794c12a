"""Read many messages of one ``m.N`` with few reads, to put them into the kernel's cache ahead of a walk.

The result has only messages that are plain and of the expected size.  For any other message, the later read
of that message alone gives the error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dboxfs.dbox import (
    TRAILER_HEAD_SIZE,
    FileHeader,
    MessageHeader,
    begins_trailer,
    parse_message_header,
    separator_of,
)
from dboxfs.errors import FormatError
from dboxfs.fsapi import Handle
from dboxfs.index.mapindex import MapIndex

GAP_BYTES = 64 << 10
"""Bytes between two messages that are read, too, to need only one read."""

READ_BYTES = 1 << 20
"""Bytes of one read: a driver gives so many at once.  Longer reads are joined from pieces, and copying 8 MiB
into new memory takes a third of the CPU time of a walk through messages that the kernel has cached.
"""

Run = list[tuple[int, int, int]]
"""(offset, end, number of the message) of records in one file, ascending."""


def runs(mapping: MapIndex, rows: npt.NDArray[np.int64]) -> dict[int, Run]:
    """The records in these rows of the map, by file_id; without missing rows (-1) and records of unknown
    size.
    """
    found: dict[int, Run] = {}
    there = np.flatnonzero(rows >= 0)
    columns = (mapping.file_ids, mapping.offsets, mapping.sizes)
    places = zip(there.tolist(), *(column[rows[there]].tolist() for column in columns), strict=True)
    for number, file_id, offset, size in places:
        if size:
            found.setdefault(file_id, []).append((offset, offset + size, number))
    for run in found.values():
        run.sort()
    return found


async def read_run(
    handle: Handle, header: FileHeader, run: Run, sizes: list[int]
) -> list[tuple[int, memoryview]]:
    """Read the bodies of *run*, which has at least one record: (number, body) of those that have the expected
    size.

    :param sizes: bytes of each body, by number.
    """
    bodies: list[tuple[int, memoryview]] = []
    first = 0
    while first < len(run):
        last, (start, end, _) = first + 1, run[first]
        while last < len(run) and run[last][0] <= end + GAP_BYTES and run[last][1] <= start + READ_BYTES:
            end = max(end, run[last][1])
            last += 1
        try:
            data = memoryview(await handle.read(end - start, start))
        except OSError:
            return bodies
        for offset, stop, number in run[first:last]:
            body = _body_in(header, data[offset - start : stop - start], sizes[number])
            if body is not None:
                bodies.append((number, body))
        first = last
    return bodies


def _body_in(header: FileHeader, record: memoryview, size: int) -> memoryview | None:
    """The body of a record, if it is of *size* bytes."""
    begin = header.message_header_size
    try:
        if header.version != 3:
            message = parse_message_header(record[:begin], begin)
            good = isinstance(message, MessageHeader) and message.body_size == size
        else:
            separator, behind = separator_of(record[:begin]), record[begin + size :][:TRAILER_HEAD_SIZE]
            good = isinstance(separator, bytes) and begins_trailer(behind, separator, size)
    except FormatError:
        return None
    return record[begin : begin + size] if good and len(record) >= begin + size else None
