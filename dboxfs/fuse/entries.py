"""The messages of a listing, as entries of the answer to a READDIRPLUS.

pyfuse3 takes entries one by one, each from Python.  Directories whose messages are there as columns
(:class:`~dboxfs.vfs.listing.ListingBlock`) go a shorter way where the hook (:mod:`dboxfs.fuse.openless`) is
loaded and pyfuse3's entries go through it: a whole block becomes entries in one call, 0.1 instead of 2 µs an
entry.

Concurrency: nothing here awaits, so the rows that the hook is told of are those that it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyfuse3

from dboxfs.fuse.openless import HOOK
from dboxfs.vfs.attrs import NS
from dboxfs.vfs.listing import ListingBlock, ListingRow, OpenDirectory

Blocks = Callable[[int], Iterator[ListingBlock]]

_NAMED_BY_HOOK: Any = b""


def add_messages(
    token: pyfuse3.ReaddirToken, directory: OpenDirectory, start: int, common: Any, above: int
) -> None:
    """Add the messages of a directory to the answer, from offset *start* on, as many as there is room for.

    :param common: an entry with the attributes that all of them have.  :param above: bits of all offsets.
    """
    blocks: Blocks | None = getattr(directory, "blocks", None)  # isinstance of a protocol takes 15 µs
    if blocks is not None and HOOK.can_list:
        for block in blocks(start):
            count = len(block.rows)
            if count:
                names = np.frombuffer(block.names, np.uint8)
                HOOK.list(block.rows.ctypes.data, count, names.ctypes.data, above)
                pyfuse3.readdir_reply(token, _NAMED_BY_HOOK, common, above)
                if HOOK.listed < count:
                    return
        return
    reply: Any = pyfuse3.readdir_reply  # its types of names and numbers are calls for nothing
    timeout = common.attr_timeout
    for row in directory.messages(start):
        _fill(common, row, timeout)
        if not reply(token, row.name, common, above | row.next):
            return


def _fill(entry: Any, row: ListingRow, timeout: float) -> None:
    """Make *entry* the attributes of one message in a listing: made once, filled for each."""
    entry.st_ino = row.inode
    entry.st_size = size = row.size
    entry.st_blocks = (size + 511) >> 9
    entry.st_mtime_ns = entry.st_atime_ns = row.received * NS
    entry.st_ctime_ns = row.changed_ns
    entry.attr_timeout = timeout if row.attr_timeout is None else row.attr_timeout
