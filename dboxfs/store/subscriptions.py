"""The file ``subscriptions`` (mailbox-layout section 9).

Version 2: ``V TAB 2 LF LF``, then a storage name a line, hierarchy parts separated by TAB, with 0x01, TAB,
CR, LF and NUL escaped as 0x01 and one of ``1 t r n 0``.  Version 1, which has no such first line: a name a
line, parts joined with the separator of the layout, ``/``.
"""

from __future__ import annotations

import os
import re

from dboxfs.fsapi import FileSystem, Peek
from dboxfs.store.location import Location

_UNESCAPE = {b"1": b"\x01", b"t": b"\t", b"r": b"\r", b"n": b"\n", b"0": b"\0"}


def parse_subscriptions(data: bytes) -> frozenset[str]:
    """The subscribed storage names, parts joined with ``/``.  Lines that can't be read are left out."""
    if data.startswith(b"V\t2\n"):
        lines = data.split(b"\n")[1:]
        return frozenset(_name(line) for line in lines if line)
    return frozenset(os.fsdecode(line) for line in data.split(b"\n") if line)


async def read_subscriptions(fs: FileSystem, location: Location) -> frozenset[str]:
    """The subscribed storage names of a store in the file now; empty if there is no file.

    :raises OSError: there is such a file, but it can't be read.
    """
    (found,) = await fs.peek([Peek(location.subscriptions_path, ((0, None),))])
    if isinstance(found, FileNotFoundError):
        return frozenset()
    if isinstance(found, OSError):
        raise found
    names, prefix = parse_subscriptions(found.chunks[0]), location.subscribed_as
    return frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _name(line: bytes) -> str:
    parts = [
        re.sub(rb"\x01(.)", lambda m: _UNESCAPE.get(m[1], m[0]), part, flags=re.DOTALL)
        for part in line.split(b"\t")
    ]
    return os.fsdecode(b"/".join(parts))
