"""Whether a file that is put back is a message that the store has: then it is not saved a second time.

A restore that was killed between a mailbox's transaction and its names has left a message as ``<uid>.eml``
that the same backup brings once more under the name that it had.  It is the same message if uid, guid and
text are the same.  What it is in the store it stays; only a name that nobody has given it is given to it.
"""

from __future__ import annotations

from dboxfs.errors import DboxfsError
from dboxfs.store import Mailbox
from dboxfs.store.write import BodySource, Source
from dboxfs.store.write.message import Pieces
from dboxfs.vfs.draft import Draft


async def is_back_already(box: Mailbox, uid: int | None, draft: Draft, *, convert: bool) -> bool:
    """Whether message *uid* of a mailbox is what a draft brings.

    :param uid: that the draft asks for.
    :param convert: line ends become LF when it is saved.
    """
    if uid is None or draft.brought.guid is None or uid not in box:
        return False
    try:
        if (await box.details(uid)).metadata.guid != draft.brought.guid:
            return False
        body = await box.open(uid)
    except DboxfsError:  # it can't be read: what the backup has is wanted
        return False
    try:
        return await _are_equal(draft.source(), BodySource(body), convert=convert)
    finally:
        body.close()


async def _are_equal(new: Source, old: Source, *, convert: bool) -> bool:
    if not convert and new.size != old.size:
        return False
    pieces, at = Pieces(new, convert=convert), 0
    while (piece := await pieces.next()) is not None:
        if await old.read(len(piece), at) != piece:
            return False
        at += len(piece)
    return at == old.size
