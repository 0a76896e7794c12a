"""Objects seen as files: keys and names, attributes, and the ranges of a peek.

The key of the path ``/a/b`` is ``a/b``.  Bytes that keys don't take (control characters, bytes that are no
UTF-8, parts ``.`` and ``..``) and the percent sign are percent-encoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from dboxfs.fsapi.types import Peek

GAP = 64 << 10
"""Bytes between two ranges up to which they are read in one request."""

_UNSAFE = re.compile(rb"[\x00-\x1f\x7f%]")


def key_of(path: str) -> str:
    """The key of a path."""
    if "\0" in path:
        raise ValueError("embedded null byte")
    return "/".join(_encoded(part) for part in path.split("/") if part)


def _encoded(part: str) -> str:
    if part in (".", ".."):
        return part.replace(".", "%2E")
    raw = _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], os.fsencode(part))
    text = raw.decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def name_of(part: str) -> str | None:
    """The name of a part of a key; None: :func:`key_of` never makes it."""
    raw = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), part.encode("utf-8"))
    name = os.fsdecode(raw)
    return name if "/" not in name and "\0" not in name and _encoded(name) == part else None


def make_stat(mode: int, inode: int, size: int, modified_ns: int) -> os.stat_result:
    """The attributes of a file that has no others; it belongs to this process's user."""
    seconds = modified_ns // 10**9
    plain = (mode, inode, 0, 1, os.geteuid(), os.getegid(), size, seconds, seconds, seconds)
    times: dict[str, float] = {f"st_{kind}time_ns": modified_ns for kind in "amc"}
    times |= {f"st_{kind}time": modified_ns / 10**9 for kind in "amc"}
    return os.stat_result(plain, times)


def read_ranges(request: Peek, size: int, read: Callable[[int, int], bytes]) -> tuple[bytes, ...]:
    """The chunks of a peek at a file of *size* bytes; ranges that lie close together are one *read*."""
    wanted: list[tuple[int, int]] = []
    for offset, count in request.ranges:
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        most = request.limit if count is None else min(count, request.limit)
        wanted.append((start, min(size, start + most)))
    data: dict[tuple[int, int], bytes] = {}
    for begin, end in _joined([one for one in wanted if one[0] < one[1]]):
        whole = read(begin, end)
        for start, stop in wanted:
            if begin <= start and stop <= end:
                data[start, stop] = whole[start - begin : stop - begin]
    return tuple(data.get(one, b"") for one in wanted)


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, in order, those with at most :data:`GAP` bytes between them as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start - found[-1][1] <= GAP:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found
