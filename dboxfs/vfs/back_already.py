"""Finds out whether the store already has the message of a file that is put back: it isn't saved twice.

A restore that was killed between a mailbox's transaction and its names has left messages as ``<uid>.eml``.
The same backup then brings each of them again under its written name.  It is the same message if uid, guid
and text are the same.  Such a message stays as it is in the store; it only gets the written name, if it has
none.
"""

from __future__ import annotations

from dboxfs.errors import DboxfsError
from dboxfs.store import Mailbox
from dboxfs.store.write import BodySource, Source
from dboxfs.store.write.message import Pieces
from dboxfs.vfs.draft import Draft


async def is_back_already(box: Mailbox, uid: int | None, draft: Draft, *, convert: bool) -> bool:
    """Whether message *uid* of a mailbox has the guid and the text of a draft.

    :param uid: the one that the draft asks for; None: it asks for none, and the answer is False.
    :param convert: a save changes line ends to LF.
    """
    if uid is None or draft.brought.guid is None or uid not in box:
        return False
    try:
        if (await box.details(uid)).metadata.guid != draft.brought.guid:
            return False
        body = await box.open(uid)
    except DboxfsError:  # it can't be read: save the message of the backup
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
