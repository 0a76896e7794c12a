"""How the new store can hold a plain text that begins like a compressed one.

dbox version 2 has no flag for compression: a Dovecot with the plugin takes every body for compressed that
begins so.  So such a text is compressed itself, as Dovecot's own plugin does.  If no message of the old store
is compressed, its Dovecot perhaps has no plugin, stored the text as it is and shows it so: then it stays as
it is.
"""

from __future__ import annotations

import gzip
from functools import partial
from typing import Final

import trio

from dboxfs.dbox import LineEnds
from dboxfs.store.write import Coded, Source
from dboxfs.store.write.message import Pieces

MOST: Final = 64 << 20
"""Bytes of the largest text that is compressed here, since that happens in memory."""


async def packed(text: bytes | Source) -> tuple[bytes, Coded]:
    """*text* (at most :data:`MOST` bytes), compressed with gzip, and its sizes before the compression.

    :raises OSError: *text* can't be read.
    """
    plain = text if isinstance(text, bytes) else await text.read(text.size, 0)
    lines = LineEnds()
    lines.feed(plain)
    data = await trio.to_thread.run_sync(partial(gzip.compress, plain, mtime=0))
    return data, Coded(lines.size, lines.virtual_size)


async def counted(text: bytes | Source) -> Coded:
    """The sizes of a *text* that is stored as it is.

    :raises OSError: *text* can't be read.
    """
    lines = LineEnds()
    if isinstance(text, bytes):
        lines.feed(text)
    else:
        pieces = Pieces(text, convert=False)
        while (piece := await pieces.next()) is not None:
            lines.feed(piece)
    return Coded(lines.size, lines.virtual_size)
