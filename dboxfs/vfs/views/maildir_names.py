"""The names of messages in the Maildir view: ``<base>:2,<letters>`` in ``cur/``, ``<base>`` in ``new/``.

The base stays as long as the message lives:

* the one that a program has chosen (a delivery, a move), which is the message's written name
  (:mod:`dboxfs.store.names.of_mailbox`), or
* ``<uidvalidity>.U<uid>F<mailbox>.dboxfs,S=<size>,W=<virtual size>``: mailbox is 7 hex digits of a hash of
  the mailbox's identity, size the bytes of the message, virtual size those with CRLF line ends.  ``W=`` is
  left out where the message's metadata don't say it: to count it, every message would have to be read before
  the first listing, and a name that got it later would not be stable.  A damaged message has neither.

**In ``new/``** is a message that is not \\Seen, that no Maildir program has moved to ``cur/``, and that has
no other flag or keyword with a letter either.  If a Maildir program has chosen its name, other letters leave
it in ``new/``: a delivery into ``new/`` may bring flags (mbsync).

If a program has moved a message to ``cur/``, its written name ends with ``:2,`` (without letters: these are
in the index).  If no program has chosen its base, the written name is ``<uid>.eml:2,`` then.

Concurrency: only :meth:`MaildirNames.resolve` and :meth:`MaildirNames.full` await.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dboxfs.errors import NoSuchMessage
from dboxfs.store import Folder, Mailbox
from dboxfs.store.attrs import DAMAGED, KNOWN, FactColumns, Facts, Uids
from dboxfs.store.names.codec import LONGEST_NAME
from dboxfs.store.names.of_mailbox import number_of
from dboxfs.vfs.names import Names
from dboxfs.vfs.views.letters import FLAG_MASK, INFO, SEEN, Marks, letters_of, split
from dboxfs.vfs.views.places import Sub
from dboxfs.vfs.walks import OwnNames

LONGEST_BASE = LONGEST_NAME - len(INFO) - 32
"""Bytes of a base: every letter has room behind it."""

KEPT_MAILBOXES = 16
"""Mailboxes whose written names are kept at hand until they change."""

_INFO_OF = tuple(INFO + letters_of(Marks(bits), ()).encode("ascii") for bits in range(FLAG_MASK + 1))
_NO_INFO = (b"",) * (FLAG_MASK + 1)

_OWN = re.compile(rb"([0-9]{1,10})\.U([1-9][0-9]{0,9})F([0-9a-f]{7})\.dboxfs(?:,S=[0-9]+(?:,W=[0-9]+)?)?\+*")


@lru_cache(maxsize=4096)
def _tag(identity: bytes) -> bytes:
    return hashlib.sha256(identity).hexdigest()[:7].encode("ascii")


class Name(NamedTuple):
    """Where a message is, and under which name."""

    sub: Sub
    name: bytes


class ChosenName(NamedTuple):
    """The part of a message's name that programs have chosen.

    ``base``: the chosen one; None: none.  ``in_cur``: a program has moved it to ``cur/``.
    """

    base: bytes | None
    in_cur: bool


def sizes_in_name(size: int, virtual: int) -> bytes:
    """What a base says of the size of its message.

    :param size: bytes.  :param virtual: bytes with CRLF line ends; 0: not known.
    """
    return b",S=%d,W=%d" % (size, virtual) if virtual else b",S=%d" % size


def can_be_base(base: bytes) -> bool:
    """Whether a program can choose this base."""
    return bool(base) and len(base) <= LONGEST_BASE and not base.startswith(b".") and INFO not in base


class _WrittenNames(NamedTuple):
    """The written names of a mailbox that are no ``<uid>.eml``; another *key*: they may be others."""

    key: object
    by_uid: Mapping[int, bytes]
    bases: Collection[bytes]


class _Sides(NamedTuple):
    """The messages in ``cur/`` and in ``new/``, uint32[n] each; another *key*: they may be others."""

    key: object
    cur: Uids
    new: Uids


class MaildirNames:
    """Finds messages by their Maildir name, and the names by message."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._written: OrderedDict[str, _WrittenNames] = OrderedDict()
        self._sides: OrderedDict[str, _Sides] = OrderedDict()

    # -- by message ----------------------------------------------------------------------------

    def marks(self, box: Mailbox, uid: int) -> Marks:
        """Flags and keywords of a message.

        :raises NoSuchMessage: it is gone.
        """
        state = box.state
        row = state.row_of(uid) if state is not None else -1
        if state is None or row < 0:
            raise NoSuchMessage(f"{box.display_name}: no message with uid {uid}")
        return Marks(int(state.flags[row]) & FLAG_MASK, state.keywords(row))

    def letters(self, box: Mailbox, marks: Marks) -> str:
        """The letters of these flags and keywords in this mailbox."""
        words = box.state.keyword_names() if marks.keywords and box.state is not None else ()
        return letters_of(marks, words)

    def chosen(self, folder: Folder, uid: int) -> ChosenName:
        """The base that a program has chosen, and whether one has moved the message to ``cur/``."""
        written = self._names.name(folder, uid)
        in_cur = written.endswith(INFO)
        base = written.removesuffix(INFO) if in_cur else written
        if number_of(base) == uid:
            return ChosenName(None, in_cur)
        if not can_be_base(base) or (in_cur and self._holder(folder, base) not in (None, uid)):
            return ChosenName(None, in_cur)
        return ChosenName(base, in_cur)

    def _own_base(self, folder: Folder, uid: int, facts: Facts) -> bytes:
        base = self.own_names(folder).of(uid)
        if facts.known and not facts.damaged:
            base += sizes_in_name(facts.size, facts.virtual)
        while self._chosen_by(folder, base) not in (None, uid):
            base += b"+"
        return base

    def _holder(self, folder: Folder, name: bytes) -> int | None:
        """The visible message with this written name."""
        uid = self._names.written.holder(folder, name)
        return None if uid is None or uid in self._names.hidden(folder) else uid

    def _chosen_by(self, folder: Folder, base: bytes) -> int | None:
        """The message whose base a program has chosen to be this."""
        for written in (base, base + INFO):
            uid = self._holder(folder, written)
            if uid is not None and self.chosen(folder, uid).base == base:
                return uid
        return None

    def now(self, folder: Folder, uid: int) -> Name | None:
        """The name of a message, as far as it is known without waiting; None: it is gone, or hidden."""
        box = folder.mailbox
        facts = box.facts.get(uid) if box is not None else None
        if box is None or facts is None or uid in self._names.hidden(folder):
            return None
        try:
            return self._name(folder, box, uid, facts)
        except NoSuchMessage:
            return None

    def _name(self, folder: Folder, box: Mailbox, uid: int, facts: Facts) -> Name:
        marks, (chosen, in_cur) = self.marks(box, uid), self.chosen(folder, uid)
        letters = self.letters(box, marks)
        base = chosen if chosen is not None else self._own_base(folder, uid, facts)
        if marks.flags & SEEN or in_cur or (letters and chosen is None):
            return Name(Sub.CUR, base + INFO + letters.encode("ascii"))
        return Name(Sub.NEW, base + INFO + letters.encode("ascii") if letters else base)

    def in_directory(
        self, folder: Folder, sub: Sub, uids: Uids, facts: FactColumns
    ) -> tuple[npt.NDArray[np.bool_], list[bytes]]:
        """Which of these messages of the mailbox are in *sub*, and the names that :meth:`now` gives them.

        :param facts: of each.
        """
        box = folder.mailbox
        assert box is not None
        assert box.state is not None
        written, hidden = self._written_names(folder), self._names.hidden(folder)
        rows = box.state.rows_of(uids)
        odd = (rows < 0) | ((facts.state & (KNOWN | DAMAGED)) != KNOWN)
        for word in box.state.keyword_names():
            odd |= box.state.with_keyword(np.maximum(rows, 0), word)
        for some in filter(None, (written.by_uid.keys(), hidden)):
            odd |= np.isin(uids, np.fromiter(some, np.uint32, len(some)))
        flags = box.state.flags[np.maximum(rows, 0)] & FLAG_MASK
        infos = _INFO_OF if sub is Sub.CUR else _NO_INFO
        (before, behind), columns = self.own_names(folder), (uids, facts.size, facts.virtual, flags)
        names: list[bytes] = [
            b"%b%d%b,S=%d,W=%d%b" % (before, uid, behind, size, virtual, infos[bits])
            if virtual
            else b"%b%d%b,S=%d%b" % (before, uid, behind, size, infos[bits])
            for uid, size, virtual, bits in zip(*(column.tolist() for column in columns), strict=True)
        ]
        if written.bases:
            odd |= np.array([split(name)[0] in written.bases for name in names], np.bool_)
        there = (flags != 0) == (sub is Sub.CUR)
        for at in np.flatnonzero(odd).tolist():
            found = self.now(folder, int(uids[at]))
            there[at] = found is not None and found.sub is sub
            names[at] = found.name if found is not None else b""
        return there, names if there.all() else list(compress(names, there.tolist()))

    def own_names(self, folder: Folder) -> OwnNames:
        """What a base that no program has chosen is made of, up to its sizes."""
        box = folder.mailbox
        validity = box.uid_validity if box is not None else 0
        return OwnNames(b"%d.U" % validity, b"F%s.dboxfs" % _tag(folder.identity))

    def bases(self, folder: Folder) -> Mapping[int, bytes]:
        """The bases that programs have chosen, by message; a base that two messages want is there twice."""
        bases = {uid: name.removesuffix(INFO) for uid, name in self._written_names(folder).by_uid.items()}
        return {uid: base for uid, base in bases.items() if number_of(base) != uid}

    def beside(self, folder: Folder, uid: int) -> tuple[Sub, Uids]:
        """Whether a message is in ``cur/`` or ``new/``, and all that are there, ascending; nearly exact."""
        sides = self._sides_of(folder)
        sub = Sub.CUR if uid in sides.cur[sides.cur.searchsorted(uid) :][:1] else Sub.NEW
        return sub, sides.cur if sub is Sub.CUR else sides.new

    def _sides_of(self, folder: Folder) -> _Sides:
        box = folder.mailbox
        if box is None or box.state is None:  # gone a moment ago
            return _Sides(None, np.empty(0, np.uint32), np.empty(0, np.uint32))
        key, known = (box, box.changes, self.version(folder)), self._sides.get(folder.name)
        if known is not None and known.key == key:
            return known
        rows = box.state.rows_of(box.uids)
        flags = box.state.flags[np.maximum(rows, 0)]
        in_cur = (flags & FLAG_MASK) != 0
        for word in box.state.keyword_names():
            in_cur |= box.state.with_keyword(np.maximum(rows, 0), word)
        for uid, written in self._written_names(folder).by_uid.items():
            at = int(box.uids.searchsorted(uid))
            if at < len(box.uids) and box.uids[at] == uid:
                in_cur[at] = bool(flags[at] & SEEN) or written.endswith(INFO)
        cur, new = box.uids[in_cur], box.uids[~in_cur]
        if known is not None and np.array_equal(known.cur, cur) and np.array_equal(known.new, new):
            cur, new = known.cur, known.new
        self._sides[folder.name] = found = _Sides(key, cur, new)
        if len(self._sides) > KEPT_MAILBOXES:
            self._sides.popitem(last=False)
        return found

    def written(self, folder: Folder) -> Collection[int]:
        """The messages whose written name is no ``<uid>.eml``."""
        return self._written_names(folder).by_uid.keys()

    def version(self, folder: Folder) -> object:
        """Another value whenever a name that is not made of uid and flags has changed."""
        return self._names.version(folder)

    def _written_names(self, folder: Folder) -> _WrittenNames:
        key = self._names.written.version(folder), tuple(folder.children)
        known = self._written.get(folder.name)
        if known is None or known.key != key:
            by_uid = dict(self._names.written.unusual(folder))
            known = _WrittenNames(key, by_uid, {name.removesuffix(INFO) for name in by_uid.values()})
            self._written[folder.name] = known
            if len(self._written) > KEPT_MAILBOXES:
                self._written.popitem(last=False)
        return known

    async def full(self, folder: Folder, uid: int) -> Name | None:
        """The name of a message, with its size looked up; None: it is gone, or hidden.

        :raises DboxfsError, OSError: it can't be looked at.
        """
        box = folder.mailbox
        if box is None or uid not in box:
            return None
        if self.chosen(folder, uid).base is None:
            await box.facts_of(uid)
        return self.now(folder, uid)

    # -- by name -------------------------------------------------------------------------------

    def by_base(self, folder: Folder, base: bytes) -> int | None:
        """The message whose base may be this: what it says of sizes is not compared."""
        uid = self._chosen_by(folder, base)
        if uid is not None:
            return uid
        match, box = _OWN.fullmatch(base), folder.mailbox
        if match is None or box is None or match[3] != _tag(folder.identity):
            return None
        uid = int(match[2])
        if int(match[1]) != box.uid_validity or uid not in box or uid in self._names.hidden(folder):
            return None
        return uid

    async def resolve(self, folder: Folder, sub: Sub, name: bytes) -> int | None:
        """The message that has exactly this name in this directory; None: there is none.

        :raises DboxfsError, OSError: it can't be looked at.
        """
        await self._names.know(folder)
        uid = self.by_base(folder, split(name)[0])
        if uid is None:
            return None
        try:
            return uid if await self.full(folder, uid) == (sub, name) else None
        except NoSuchMessage:
            return None

    def written_to_be_in(
        self, folder: Folder, uid: int, old: Sub, new: Sub, base: bytes, marks: Marks
    ) -> bytes | None:
        """The written name that puts a message into *new*, if it has these flags and keywords then.

        :param old: where it is.  :param base: it has, and keeps.  :return: None: that which it has.
        """
        chosen, in_cur = self.chosen(folder, uid)
        is_marked = marks != Marks(0)
        if new is Sub.CUR:
            stays = marks.flags & SEEN or (is_marked and chosen is None)
            if in_cur or (old is Sub.CUR and stays):
                return None
            return (chosen if chosen is not None else b"%d.eml" % uid) + INFO
        return base if in_cur or (is_marked and chosen is None) else None

    def inner(self, folder: Folder, uid: int) -> bytes:
        """The name of a message where no view is."""
        return self._names.name(folder, uid)

    async def know(self, folder: Folder) -> None:
        """Read the names that other mounts have brought."""
        await self._names.know(folder)


def written_name(sub: Sub, base: bytes) -> bytes:
    """The written name of a message that a program puts into ``cur/`` or ``new/`` under this base."""
    return base + INFO if sub is Sub.CUR else base
