"""Compares the imported messages with their source; both are read again: every text, and the attributes.

If the store had a message before this run, its flags, keywords and dates may have changed there since: only
its text is compared.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from contextlib import aclosing

from dboxfs.errors import DboxfsError
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.write import BytesSource, Source
from dboxfs.store.write.message import BodySource, Pieces
from dboxfs.tools.filling import sorted_out
from dboxfs.tools.importing.source import Incoming, NoArrival, SourceMailbox, reason_of


async def compare(
    source: SourceMailbox,
    box: Mailbox,
    uids: array[int],
    saved: Sequence[int],
    *,
    convert: bool,
    count: Callable[[int], None],
) -> list[str]:
    """A line for each difference.

    :param uids: of the messages in the store, in the order of the source; 0: it was left out.
    :param saved: for each message whether this run has saved it.
    :param convert: the import has converted line ends to LF.
    :param count: called for each message that was compared, with its bytes.
    """
    number, differing = 0, []
    async with aclosing(source.messages()) as chunks:
        async for chunk in chunks:
            for found in chunk:
                uid = uids[number] if number < len(uids) else 0
                if uid:
                    why = await _difference(found, box, uid, attributes=bool(saved[number]), convert=convert)
                    if why:
                        differing.append(f"{found.where}: uid {uid} of {box.display_name} {why}")
                    count(found.size if isinstance(found, Incoming) else 0)
                number += 1
    if number != len(uids):
        differing.append(f"{box.display_name}: the source has {number} messages now, it had {len(uids)}")
    return differing


async def _difference(
    found: Incoming | NoArrival, box: Mailbox, uid: int, *, attributes: bool, convert: bool
) -> str:
    """The difference, in words; empty: none."""
    if isinstance(found, NoArrival):
        return f"can't be compared: {found.reason}"
    try:
        if not await _same_text(found, box, uid, convert=convert):
            return "has another text"
        return await _attributes(found, box, uid) if attributes else ""
    except (DboxfsError, OSError) as exc:
        return f"can't be compared: {reason_of(exc)}"


async def _same_text(found: Incoming, box: Mailbox, uid: int, *, convert: bool) -> bool:
    text: Source = BytesSource(found.text) if isinstance(found.text, bytes) else found.text
    pieces = Pieces(text, convert=convert)
    body = await box.open(uid)
    try:
        theirs, offset = BodySource(body), 0
        while (piece := await pieces.next()) is not None:
            if piece != await theirs.read(len(piece), offset):
                return False
            offset += len(piece)
        return offset == theirs.size
    finally:
        body.close()


async def _attributes(found: Incoming, box: Mailbox, uid: int) -> str:
    state = box.state
    row = state.row_of(uid) if state is not None else -1
    if state is None or row < 0:
        return "is gone"
    if int(state.flags[row]) & 0x1F != found.flags:
        return "has other flags"
    wanted = sorted(word.lower() for word in sorted_out(found.keywords)[0])
    if sorted(word.lower() for word in box.keywords(uid)) != list(dict.fromkeys(wanted)):
        return "has other keywords"
    if found.received is not None and (await box.details(uid)).metadata.received != found.received:
        return "has another received date"
    return ""
