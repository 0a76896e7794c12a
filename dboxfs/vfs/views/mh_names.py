"""The names of messages in the MH view: numbers.

The number of a message is its uid.  The exceptions are written names
(:mod:`dboxfs.store.names.of_mailbox`) that are numbers:

* ``N``, ``N.eml``: a number below its uid that no other message has.  MH programs number a new message
  themselves, one above the highest that they see; where the uid that comes next is higher, since the last
  messages are gone, the message keeps the number that the program knows it by.
* ``,N``, ``,N.eml``, and it is \\Deleted: an MH program has removed it, by a rename as all of them do.  It is
  a message of Dovecot's still.  Without \\Deleted it has its number again.

A number below a uid never becomes a uid again.  If the number is the uid of another message, that message
keeps it, unless it has got another number itself (``folder -pack``).

The exceptions are looked up once for each state of names and mailbox.

Concurrency: nothing here awaits but :meth:`MhNames.know`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from dboxfs.store import Folder, Mailbox
from dboxfs.store.attrs import Uids
from dboxfs.store.names.codec import HIGHEST_UID
from dboxfs.vfs.names import Names
from dboxfs.vfs.node import Inodes
from dboxfs.vfs.views.letters import FLAGS
from dboxfs.vfs.views.mh_sequences import Numbers

REMOVED = b","
"""The beginning of the name of a message that an MH program has removed."""

KNOWN_MAILBOXES = 256
"""Mailboxes whose unusual names are remembered."""

DELETED = FLAGS["T"]

_WRITTEN = re.compile(rb"(,?)([1-9][0-9]{0,9})(?:\.eml)?")
_NUMBER = re.compile(rb"(,?)([1-9][0-9]{0,9})")


class MhName(NamedTuple):
    """A name that a message can have.  ``removed``: with a comma."""

    removed: bool
    number: int

    @property
    def shown(self) -> bytes:
        """As it is shown."""
        return (REMOVED if self.removed else b"") + b"%d" % self.number

    @property
    def forms(self) -> tuple[bytes, bytes]:
        """The written names that stand for it."""
        return self.shown + b".eml", self.shown


def name_of(name: bytes) -> MhName | None:
    """What a name says; None: no message can be called so."""
    match = _NUMBER.fullmatch(name)
    if match is None or int(match[2]) > HIGHEST_UID:
        return None
    return MhName(bool(match[1]), int(match[2]))


class _Unusual(NamedTuple):
    """The messages of a mailbox that are not called by their uid: by uid, and by name."""

    state: object
    names: Mapping[int, MhName]
    uids: Mapping[MhName, int]


_NOTHING: Mapping[int, MhName] = {}


class MhNames:
    """Finds messages by their number, and numbers by message."""

    def __init__(self, names: Names, inodes: Inodes) -> None:
        self._names = names
        self._inodes = inodes
        self._known: OrderedDict[int, _Unusual] = OrderedDict()

    async def know(self, folder: Folder) -> None:
        """Read the names that other mounts have brought."""
        await self._names.know(folder)

    # -- by message ----------------------------------------------------------------------------

    def name(self, folder: Folder, uid: int) -> MhName:
        """The name of a message."""
        return self._unusual(folder).names.get(uid) or MhName(removed=False, number=uid)

    def unusual(self, folder: Folder) -> Mapping[int, MhName]:
        """The messages that are not called by their uid."""
        return self._unusual(folder).names

    def shown(self, folder: Folder) -> Mapping[int, bytes]:
        """The same, with their names as bytes."""
        return {uid: name.shown for uid, name in self.unusual(folder).items()}

    def inner(self, folder: Folder, uid: int) -> bytes:
        """The name of a message where no view is."""
        return self._names.name(folder, uid)

    def numbers(self, folder: Folder) -> tuple[Uids, Numbers]:
        """The messages that were not removed: their uids, and their numbers."""
        box = folder.mailbox
        if box is None:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        uids, unusual = box.uids, self._unusual(folder).names
        hidden = {*self._names.hidden(folder), *(uid for uid, name in unusual.items() if name.removed)}
        if hidden:
            uids = uids[~np.isin(uids, np.fromiter(hidden, np.uint32, len(hidden)))]
        numbers = uids.astype(np.int64)
        for uid, name in unusual.items():
            if not name.removed:
                numbers[np.searchsorted(uids, uid)] = name.number
        return uids, numbers

    # -- by name -------------------------------------------------------------------------------

    def resolve(self, folder: Folder, name: MhName) -> int | None:
        """The message that is called *name*; None: there is none."""
        unusual, box = self._unusual(folder), folder.mailbox
        found = unusual.uids.get(name)
        if found is None and not name.removed and name.number not in unusual.names:
            found = name.number
        if found is None or box is None or found not in box or found in self._names.hidden(folder):
            return None
        return found

    # -- those that are not called by their uid ------------------------------------------------

    def _unusual(self, folder: Folder) -> _Unusual:
        key, state = self._inodes.of(folder), self._state(folder)
        known = self._known.get(key)
        if known is None or known.state != state:
            names = self._look(folder)
            known = self._known[key] = _Unusual(state, names, {name: uid for uid, name in names.items()})
            if len(self._known) > KNOWN_MAILBOXES:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return known

    def _state(self, folder: Folder) -> object:
        """What is another value when names, messages or flags have changed."""
        box = folder.mailbox
        hidden = tuple(self._names.hidden(folder))
        return box, box.changes if box is not None else 0, self._names.written.version(folder), hidden

    def _look(self, folder: Folder) -> Mapping[int, MhName]:
        written, box = self._names.written.unusual(folder), folder.mailbox
        if not written or box is None:
            return _NOTHING
        hidden, found, taken = self._names.hidden(folder), dict[int, MhName](), set[MhName]()
        for uid in sorted(written):
            match = _WRITTEN.fullmatch(written[uid])
            if match is None or uid not in box or uid in hidden:
                continue
            name = MhName(bool(match[1]), int(match[2]))
            if name in taken or not self._can_have(box, uid, name, found, hidden):
                continue
            found[uid] = name
            taken.add(name)
        return found

    def _can_have(
        self, box: Mailbox, uid: int, name: MhName, found: Mapping[int, MhName], hidden: Collection[int]
    ) -> bool:
        """Whether a message has a number that was written for it.

        :param found: those of messages before it.
        """
        if name.removed:
            return name.number <= uid and _is_deleted(box, uid)
        is_anothers = name.number in box and name.number not in hidden and name.number not in found
        return name.number < uid and not is_anothers

    def differing(self, folder: Folder) -> set[bytes]:
        """Names that have come to mean something else since they were looked at last."""
        key = self._inodes.of(folder)
        before = self._known.get(key)
        if before is None:
            return set()
        now = self._unusual(folder).names
        others = before.names.items() ^ now.items()
        return {name.shown for _, name in others} | {b"%d" % uid for uid, _ in others}


def _is_deleted(box: Mailbox, uid: int) -> bool:
    row = box.state.row_of(uid) if box.state is not None else -1
    return box.state is not None and row >= 0 and bool(int(box.state.flags[row]) & DELETED)
