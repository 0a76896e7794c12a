"""How a text can be stored in the new store, where it begins like a compressed or an encrypted one.

dbox version 2 has no flag for that: Dovecot takes every body for compressed that begins so, if it has the
plugin.  So such a text is compressed itself, as Dovecot's own plugin does with it.  Where no message of the
old store is compressed, Dovecot perhaps has no plugin, stored the text as it is and shows it so: it stays as
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
"""Bytes of the largest text that is compressed here: it is done in memory."""


async def packed(text: bytes | Source) -> tuple[bytes, Coded]:
    """*text*, compressed; it has at most :data:`MOST` bytes.

    :raises OSError: it can't be read.
    """
    plain = text if isinstance(text, bytes) else await text.read(text.size, 0)
    lines = LineEnds()
    lines.feed(plain)
    data = await trio.to_thread.run_sync(partial(gzip.compress, plain, mtime=0))
    return data, Coded(lines.size, lines.virtual_size)


async def counted(text: bytes | Source) -> Coded:
    """The sizes of a *text* that is stored as it is.

    :raises OSError: it can't be read.
    """
    lines = LineEnds()
    if isinstance(text, bytes):
        lines.feed(text)
    else:
        pieces = Pieces(text, convert=False)
        while (piece := await pieces.next()) is not None:
            lines.feed(piece)
    return Coded(lines.size, lines.virtual_size)
