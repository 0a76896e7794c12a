"""Hidden mail: messages that a store has but does not show.

A store is read by its indexes.  If these are elsewhere (``INDEX=``) or lost, or if INBOX is elsewhere
(``INBOX=``; Dovecot 2.4 on Debian 13 sets ``mail_inbox_path``), mailboxes show fewer messages or are missing,
without any error.  A backup or a conversion would then miss the messages.  These signs show it:

* NO_INDEX: a mailbox without an index that has message files (sdbox), or that stored messages were saved to
  (mdbox);
* NO_MAILBOX: messages of the map that no mailbox has, whose mailbox does not exist or shows fewer messages;
* OLD_INDEX: a mailbox of an sdbox with more message files that its index doesn't list than it lists, without
  those that its log shows as expunged before: the index is older than the files (a copy of a store in use),
  or was created again;
* NO_INBOX: there is no INBOX.  That is also so in a store without any login yet, or of another namespace.

Interrupted saves leave a few messages that no mailbox has, saved to an existing mailbox: they are no sign
(``dboxfs check`` names them).  A mailbox whose index can't be read is reported as an error.

This module writes and locks nothing.  It lists only directories of mailboxes that have no index, fewer than
:data:`FEW` messages, or files of the next uids.  It reads only messages that no mailbox has, at most
:data:`SAMPLE` of them.
"""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import trio
from msgspec import Struct

from dboxfs.errors import CorruptFile, DboxfsError, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.expunges import LogBytes, expunged_since, is_left_by_expunge
from dboxfs.index.mailbox import map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.state import IndexState
from dboxfs.store.evidence import MESSAGE, NOTE
from dboxfs.store.location import Kind, Location
from dboxfs.store.mdbox.storage import MdboxStorage

if TYPE_CHECKING:
    from dboxfs.store.store import Store

SAMPLE = 256
"""Messages without a mailbox whose original mailbox is looked up, at most."""

FEW = 10
"""Fewer messages than that, saved to an existing mailbox, count as left by interrupted saves."""

_LONGEST = 1 << 31

_SAVE_SECONDS = 0.3
"""Seconds after which a running save has reached its mailbox."""


class Cause(enum.Enum):
    """Reasons why mail is not shown."""

    NO_INDEX = "no-index"
    NO_MAILBOX = "no-mailbox"
    OLD_INDEX = "old-index"
    NO_INBOX = "no-inbox"


class Hidden(Struct, frozen=True):
    """One sign of hidden mail.  ``what``, ``todo``: half a line each.  ``mailbox``: storage name.

    ``messages``: number of messages found that are not shown; 0: unknown.
    """

    cause: Cause
    path: str
    what: str
    todo: str
    mailbox: str
    messages: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.todo}"


async def hidden_mail(
    fs: FileSystem,
    location: Location,
    states: Mapping[str, IndexState | None],
    *,
    unread: Collection[str] = (),
    storage: MdboxStorage | None = None,
    unlisted: npt.NDArray[np.uint32] | None = None,
) -> list[Hidden]:
    """All signs of hidden mail; empty for a store that shows all its messages.

    :param states: the index of each mailbox, by storage name; None: there is none.
    :param unread: mailboxes (storage names) whose index can't be read; they are not in *states*.
    :param storage: mdbox: to read stored messages with; None: an sdbox, or the map can't be read.
    :param unlisted: the result of :func:`unlisted_messages`.
    """
    found: list[Hidden] = []
    if location.kind is Kind.SDBOX:
        for name in sorted(name for name, state in states.items() if state is None):
            found += await _files_without_index(fs, location, name)
        # else a writer is at work, or has died: the next one removes its files
        settled = not await _listdir(fs, location.control_dir, NOTE)
        for name, state in sorted(states.items()) if settled else ():
            found += await _files_of_no_record(fs, location, name, state) if state is not None else []
    elif storage is not None and unlisted is not None and len(unlisted) and not unread:
        found += await _without_mailbox(location, states, storage, unlisted)
    if "INBOX" not in states and "INBOX" not in unread and Cause.NO_INBOX not in {one.cause for one in found}:
        found.append(_no_inbox(location))
    return found


def unlisted_messages(mapping: MapIndex, states: Mapping[str, IndexState | None]) -> npt.NDArray[np.uint32]:
    """Map uids with a refcount that no mailbox has.  The caller has to read the states before the map."""
    columns = [
        column for state in states.values() if state is not None and (column := map_uids(state)) is not None
    ]
    used = mapping.map_uids[mapping.refcounts > 0].astype(np.uint32, copy=False)
    listed = np.concatenate(columns) if columns else np.zeros(0, np.uint32)
    return used[~np.isin(used, listed)]  # without sorting: that takes 80 MB for a million messages


async def hidden_in(store: Store) -> list[Hidden]:
    """:func:`hidden_mail` of a loaded store.  Running saves get the time to end."""
    boxes = {name: folder.mailbox for name, folder in store.folders.items() if folder.mailbox is not None}
    unread = store.index_errors.keys()
    unlisted: npt.NDArray[np.uint32] | None = None

    def states() -> dict[str, IndexState | None]:
        return {name: box.state for name, box in boxes.items() if name not in unread}

    storage = store.storage
    if storage is not None:
        try:
            unlisted = unlisted_messages(await storage.map(), states())
            if len(unlisted):
                await trio.sleep(_SAVE_SECONDS)
                for folder in list(store.folders.values()):
                    await store.refresh_mailbox(folder)
                again = unlisted_messages(await storage.map(fresh=True), states())
                unlisted = np.intersect1d(unlisted, again)
        except (CorruptFile, OSError):
            storage = None  # opening a message raises the error
    found = await hidden_mail(
        store.fs, store.location, states(), unread=unread, storage=storage, unlisted=unlisted
    )
    if Cause.OLD_INDEX in {one.cause for one in found}:
        await trio.sleep(_SAVE_SECONDS)
        for folder in list(store.folders.values()):
            await store.refresh_mailbox(folder)
        found = await hidden_mail(store.fs, store.location, states(), unread=unread)
    return found


def told(found: Sequence[Hidden]) -> list[str]:
    """A line for each sign; each advice is given once, with the first sign that needs it."""
    said: set[str] = set()
    lines = []
    for one in found:
        lines.append(f"mail may be hidden: {one if one.todo not in said else f'{one.path}: {one.what}'}")
        said.add(one.todo)
    return lines


def summary(found: Sequence[Hidden]) -> str:
    """One line for all signs."""
    more = f" (and {len(found) - 1} more: dboxfs info names them)" if len(found) > 1 else ""
    return f"mail may be hidden: {found[0]}{more}"


async def _files_without_index(fs: FileSystem, location: Location, name: str) -> list[Hidden]:
    count = 0
    for directory in (location.mailbox_path(name), location.alt_mailbox_path(name)):
        if directory is None:
            continue
        try:
            count += sum(MESSAGE.fullmatch(entry.name) is not None for entry in await fs.listdir(directory))
        except OSError:
            continue  # the alternative storage may not exist
    what = f"{count} message files and no index: none of them is shown"
    return [_no_index(location, name, what, count)] if count else []


async def _files_of_no_record(
    fs: FileSystem, location: Location, name: str, state: IndexState
) -> list[Hidden]:
    """A sign if a mailbox has more message files that its index doesn't list than it lists."""
    directory = location.mailbox_path(name)
    if len(state) >= FEW:
        paths = [Peek(f"{directory}/u.{state.next_uid + more}", ()) for more in range(FEW)]
        if not any(isinstance(answer, PeekResult) for answer in await fs.peek(paths)):
            return []
    names = await _listdir(fs, directory)
    listed = {f"u.{uid}" for uid in state.uids.tolist()}
    files = [one for one in names if MESSAGE.fullmatch(one) is not None and one not in listed]
    if len(files) < FEW or len(files) <= len(state):
        return []
    count = len(files) - await _left_by_expunges(fs, location, name, [int(one[2:]) for one in files])
    if count < FEW or count <= len(state):
        return []
    what = f"{count} message files that the index does not list, which has {len(state)}"
    todo = (
        "was the index lost and made anew, or is it older than they? "
        "dboxfs rescue brings them back in a new store"
    )
    return [Hidden(Cause.OLD_INDEX, location.index_path(name), what, todo, name, count)]


async def _left_by_expunges(fs: FileSystem, location: Location, name: str, uids: Sequence[int]) -> int:
    """The number of those files that a writer has left which died behind the expunge."""
    index, directory = location.index_path(name), location.mailbox_path(name)
    logs = [Peek(f"{index}/dovecot.index.log{older}", ((0, None),), limit=_LONGEST) for older in ("", ".2")]
    log, older = [
        LogBytes(answer.chunks[0], answer.stat.st_mtime_ns) if isinstance(answer, PeekResult) else None
        for answer in await fs.peek(logs)
    ]
    try:
        shown = expunged_since(uids, log, older) if log is not None else {}
    except FormatError:
        return 0
    found = await fs.peek([Peek(f"{directory}/u.{uid}", ()) for uid in shown])
    return sum(
        isinstance(answer, PeekResult) and is_left_by_expunge(answer.stat, uid, shown)
        for uid, answer in zip(shown, found, strict=True)
    )


async def _listdir(fs: FileSystem, directory: str, prefix: str = "") -> list[str]:
    try:
        return [entry.name for entry in await fs.listdir(directory) if entry.name.startswith(prefix)]
    except OSError:
        return []


def _no_index(location: Location, name: str, what: str, count: int) -> Hidden:
    todo = (
        "give INDEX= if the indexes lie elsewhere (Dovecot 2.4: mail_index_path)"
        if location.index is None
        else f"see that INDEX={location.index} is right"
    )
    todo += "; if they are lost, dboxfs rescue makes a new store of the messages"
    return Hidden(Cause.NO_INDEX, location.index_path(name), what, todo, name, count)


async def _without_mailbox(
    location: Location,
    states: Mapping[str, IndexState | None],
    storage: MdboxStorage,
    unlisted: npt.NDArray[np.uint32],
) -> list[Hidden]:
    """Signs by the mailboxes that messages without a mailbox were saved to."""
    mapping = await storage.map()
    # else a writer died after its change of the map: the next one puts its messages into their mailboxes
    settled = mapping.state.tail_offset == mapping.state.head_offset
    counts: Counter[str] = Counter()
    for map_uid in unlisted[:SAMPLE].tolist():
        place = mapping.lookup(map_uid)
        if place is None:
            continue
        try:
            record = await storage.record(place)
        except (DboxfsError, OSError):
            continue  # reading the message raises the error
        counts[os.fsdecode(record.metadata.orig_mailbox or b"INBOX")] += 1
    least = "at least " if len(unlisted) > SAMPLE else ""
    found = []
    for name, count in sorted(counts.items()):
        shown = location.display_name(name)
        state = states.get(name)
        what = f"{least}{count} messages in {location.storage} were saved to {shown}"
        if name in states and state is None:
            found.append(_no_index(location, name, f"{what}, which has no index", count))
        elif state is None and name == "INBOX":
            found.append(_no_inbox(location, f"{what}, which is not there", count))
        elif state is None:
            todo = "is it kept elsewhere, or lost? dboxfs rescue brings them back in a new store"
            path = location.mailbox_path(name)
            found.append(Hidden(Cause.NO_MAILBOX, path, f"{what}, which is not there", todo, name, count))
        elif settled and count >= FEW and count > len(state):
            what += f", whose index has {len(state)}"
            todo = "was the index lost and made anew? dboxfs rescue brings them back in a new store"
            path = location.index_path(name)
            found.append(Hidden(Cause.NO_MAILBOX, path, what, todo, name, count))
    return found


def _no_inbox(location: Location, what: str = "there is no INBOX", count: int = 0) -> Hidden:
    if location.inbox is not None:
        todo = f"see that INBOX={location.inbox} is right"
    else:
        todo = (
            "if it lies elsewhere, give INBOX=DIR (Dovecot 2.4: mail_inbox_path, which Debian 13 sets to "
            "/var/mail/%{user})"
        )
    return Hidden(Cause.NO_INBOX, location.mailbox_path("INBOX"), what, todo, "INBOX", count)
