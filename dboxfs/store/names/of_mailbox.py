"""The names of the messages of a mailbox, in memory.

A message has one name: the one that a listing shows.  Nothing else leads to it.  That name is the first of
these which is free:

1. the name that a program has written it under, or renamed it to (its *written name*);
2. ``<uid>.eml``;
3. ``uid-<uid>.eml``, ``uid-uid-<uid>.eml``, and so on.

A name is free unless it is the written name of another message of the mailbox, or a child mailbox is shown
under it.  Forms 2 and 3 hold the uid, so two messages never want the same one, and the name of a message
changes only when a written name comes or goes.

A name is given before the message comes, or takes the place of the one that has it now: see
:class:`~dboxfs.store.names.codec.Line`.  Until then it stands for what it stood for.
:mod:`dboxfs.store.names.files` says where written names are kept.

Concurrency: nothing here awaits, so every method is atomic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dboxfs.store.names.codec import HIGHEST_UID, Line, LineKind

NOBODY = "0"
"""A writer that lives nowhere: what it announces is taken back."""

NAMES_FOLLOWED = 1000
"""Lines that mean nothing and stay in a file, and replacements that are remembered."""
_REPLACED = 64
"""Messages that were replaced and that a file says of when it is written anew."""
_FORM = re.compile(rb"(?:uid-)*([1-9][0-9]{0,9})\.eml")

There = Callable[[Iterable[int]], Sequence[int]]
"""Those of some uids that the mailbox has."""


def never(what: object) -> bool:
    """Says no."""
    return False


@dataclass(slots=True)
class BoxNames:
    """The written names of one mailbox.

    A line counts when its message is there and the one whose place it takes is not; of the lines about one
    name the last one that counts says whose it is.  ``by_name`` and ``by_uid`` have what counts, ``pending``
    the lines behind it that don't count yet, by name, in their order.

    ``unfinished``: messages that a line was announced for whose writer died before it said more.

    ``unusual``: the names that differ from ``<uid>.eml``, by uid, if no child mailbox has one of them.
    ``pending_of``: the last pending line about a message, by its uid.  ``announced``: lines that count, but
    nobody has said that their message is on disk.  ``heirs``: what has replaced a message since this mount
    was made, by its uid; ``successors``: what was renamed over it; ``replaced``: the lines that the last of
    these came from, for mounts that don't know yet that it is gone.  ``lines``: how many the file has.
    ``version``: another value whenever a written name has come or gone.

    ``lives``: whether the process that has written a line runs still.  ``has``: whether the mailbox shows a
    message.  ``gone``: whether it had one, and doesn't any more.
    """

    validity: int
    lives: Callable[[str], bool] = never
    has: Callable[[int], bool] = never
    gone: Callable[[int], bool] = never
    by_name: dict[bytes, int] = field(default_factory=dict)
    by_uid: dict[int, bytes] = field(default_factory=dict)
    unusual: dict[int, bytes] = field(default_factory=dict)
    pending: dict[bytes, list[Line]] = field(default_factory=dict)
    pending_of: dict[int, Line] = field(default_factory=dict)
    announced: dict[int, Line] = field(default_factory=dict)
    unfinished: set[int] = field(default_factory=set)
    heirs: dict[int, int] = field(default_factory=dict)
    successors: dict[int, int] = field(default_factory=dict)
    replaced: dict[int, Line] = field(default_factory=dict)
    lines: int = 0
    version: tuple[object, int] = field(default_factory=lambda: (object(), 0))

    @property
    def has_grown(self) -> bool:
        """Whether most lines of the file mean nothing any more."""
        return self.lines > 2 * len(self.by_uid) + NAMES_FOLLOWED

    def name(self, uid: int, children: Mapping[str, object] | None = None) -> bytes:
        """The name of a message; *children*: the mailboxes that are shown beside it."""
        name = self.by_uid.get(uid)
        if name is not None and not (children and decode(name) in children):
            return name
        name = b"%d.eml" % uid
        while self.by_name.get(name, uid) != uid or (children and decode(name) in children):
            name = b"uid-" + name
        return name

    def holder(self, name: bytes, there: There) -> int | None:
        """The message that has *name* as its written name.

        :param there: the state of the mailbox that counts, which may be newer than what was heard of it.
        """
        for line in reversed(self.pending.get(name, ())):
            if there([line.uid]) and not there([line.after]) and self._believes(line):
                return line.uid
        uid = self.by_name.get(name)
        return uid if uid is not None and there([uid]) else None

    def confirmation(self, uid: int, name: bytes) -> list[Line]:
        """The lines which say that a message that was announced with *name* is on disk; none: it was renamed
        since.

        A later line about a name counts more than an earlier one.  So the lines of those that were promised
        the name since, or have it by now, follow once more.
        """
        known = self.pending_of.get(uid)
        if (self.by_uid.get(uid) or (known.name if known is not None else name)) != name:
            return []
        lines, holder = [Line(self.validity, uid, name)], self.by_name.get(name)
        if holder is not None and holder != uid and not self.has(uid):
            line = self.announced.get(holder) or Line(self.validity, holder, name)
            lines.append(replace(line, after=uid))
        others = (line for line in self.pending.get(name, ()) if line.uid != uid)
        return lines + [line for line in others if self._believes(line)]

    def _believes(self, line: Line) -> bool:
        return line.kind is not LineKind.ANNOUNCED or self.lives(line.writer)

    # -- changing ------------------------------------------------------------------------------

    def take(self, line: Line) -> set[bytes]:
        """The next line of the file.  Gives the names that stand for something else than before."""
        before = self._forget(self.pending_of.get(line.uid))
        if not self._believes(line):
            if line.writer == NOBODY:
                return self._unsay(line)
            self.unfinished.add(line.uid)
            return set()
        self.unfinished.discard(line.uid)
        if self.gone(line.uid):
            self._remember(line)
            return set()
        self.announced.pop(line.uid, None)
        if before is not None and before.name == line.name and not line.after:
            line = replace(line, after=before.after)
        self.pending.setdefault(line.name, []).append(line)
        self.pending_of[line.uid] = line
        return self._settle(line.name)

    def _unsay(self, line: Line) -> set[bytes]:
        """Nothing came of what was announced.  A message that has this uid now is another one."""
        said = self.announced.get(line.uid)
        if said is None or said.name != line.name:
            return set()
        before = self._before(line.uid, number_of(line.name))
        del self.announced[line.uid], self.by_uid[line.uid], self.by_name[line.name]
        return self._look_again(before)

    def update(self, went: Iterable[int], came: Iterable[int] = ()) -> set[bytes]:
        """Messages went and came, and ``has`` and ``gone`` say so already.

        Gives the names of those that went, and others that stand for something else than before.
        """
        new = set(came)
        changed: set[bytes] = set()
        for uid in went:
            changed |= {self.name(uid)} | self._drop(uid)
        for name in list(self.pending):
            changed |= self._settle(name, new)
        return changed

    def withdraw(self, line: Line) -> None:
        """What was announced will not come."""
        if self.pending_of.get(line.uid) == line:
            self._forget(line)

    def _forget(self, line: Line | None) -> Line | None:
        """A pending line means nothing any more."""
        if line is not None:
            del self.pending_of[line.uid]
            self.pending[line.name].remove(line)
            if not self.pending[line.name]:
                del self.pending[line.name]
        return line

    def _settle(self, name: bytes, new: Container[int] = ()) -> set[bytes]:
        """Look whether a pending line counts by now.  *new*: messages that had no name before."""
        counts: Line | None = None
        for line in list(reversed(self.pending.get(name, ()))):
            if counts is not None or self.gone(line.uid):
                self._forget(line)
                self._remember(line)
            elif self.has(line.uid) and not self.has(line.after):
                self._forget(line)
                if self._believes(line):
                    self._remember(line)
                    counts = line
        if counts is None:
            return set()
        changed = self._set(counts.uid, name, new)
        if counts.kind is LineKind.ANNOUNCED:
            self.announced[counts.uid] = counts
        return changed

    def _remember(self, line: Line) -> None:
        if line.after:
            known = self.successors if line.kind is LineKind.PLACED else self.heirs
            known[line.after] = line.uid
            if len(known) > NAMES_FOLLOWED:
                del known[next(iter(known))]
            self.replaced.pop(line.after, None)
            self.replaced[line.after] = line
            if len(self.replaced) > _REPLACED:
                del self.replaced[next(iter(self.replaced))]

    def _set(self, uid: int, name: bytes, new: Container[int]) -> set[bytes]:
        old_name, old_uid = self.by_uid.get(uid), self.by_name.get(name)
        if old_name == name:
            return set()
        before = self._before(uid, old_uid, number_of(name), number_of(old_name))
        if old_uid is not None:
            del self.by_uid[old_uid]
            self.announced.pop(old_uid, None)
        if old_name is not None:
            del self.by_name[old_name]
        self.by_name[name], self.by_uid[uid] = uid, name
        return self._look_again(before, new)

    def _drop(self, uid: int) -> set[bytes]:
        name = self.by_uid.get(uid)
        if name is None:
            self.unusual.pop(uid, None)
            return set()
        before = self._before(uid, number_of(name))
        del self.by_uid[uid], self.by_name[name]
        self.announced.pop(uid, None)
        changed = self._look_again(before)
        self.unusual.pop(uid, None)
        return changed

    def _before(self, *uids: int | None) -> dict[int, bytes]:
        return {uid: self.name(uid) for uid in uids if uid is not None}

    def _look_again(self, before: Mapping[int, bytes], new: Container[int] = ()) -> set[bytes]:
        """The written names have changed; *before*: what messages were called whose names may have, too.

        Gives those names of messages that are shown, and are not what they were.
        """
        changed: set[bytes] = set()
        self.version = self.version[0], self.version[1] + 1
        for uid, old in before.items():
            name = self.name(uid)
            if name == b"%d.eml" % uid:
                self.unusual.pop(uid, None)
            else:
                self.unusual[uid] = name
            if name != old and self.has(uid) and uid not in new:
                changed |= {old, name}
        return changed

    # -- the file ------------------------------------------------------------------------------

    def mend(self) -> bool:
        """Take out what the dead have left; whether there was anything, and the file has to be written anew.

        The index was read after the lines: what is said of a message that is not there will never be true.
        Names of messages that came after all are taken out too: a mount that was there when they were
        announced shows them until it reads the file again.
        """
        dead = [
            line
            for line in self.pending_of.values()
            if not self.lives(line.writer) and (line.after or not self.has(line.uid))
        ]
        for line in dead:
            self._forget(line)
        unfinished, self.unfinished = self.unfinished, set()
        return bool(dead or unfinished)

    def all_lines(self) -> list[Line]:
        """Everything that is known, for a new file."""
        replaced, given = self._replaced_lines()
        said = [
            given.get(uid) or self.announced.get(uid) or Line(self.validity, uid, name)
            for uid, name in sorted(self.by_uid.items())
        ]
        return replaced + said + [line for _, lines in sorted(self.pending.items()) for line in lines]

    def _replaced_lines(self) -> tuple[list[Line], dict[int, Line]]:
        """What messages were called that were replaced, and by which others; the lines of those that are
        there are apart, by uid.

        A mount that has not read the index yet shows the old one still: under its name, and what is written
        there goes on in the new one.  Lines of messages that are known to be gone mean nothing to others.
        """
        gone: dict[int, Line] = {}
        there: dict[int, Line] = {}
        for line in self.replaced.values():
            if self.has(line.after) or (self.has(line.uid) and self.by_uid.get(line.uid) != line.name):
                continue  # it was renamed since
            if line.kind is LineKind.ANNOUNCED and line.uid not in self.announced:  # the message has come
                line = replace(line, kind=LineKind.SAID, writer="")
            gone.setdefault(line.after, Line(self.validity, line.after, line.name))
            (there if self.has(line.uid) else gone)[line.uid] = line
        return list(gone.values()), there


def number_of(name: bytes | None) -> int | None:
    """The uid of the message that is called so if nobody has written its name; None: none is."""
    match = _FORM.fullmatch(name) if name is not None else None
    number = int(match[1]) if match is not None else 0
    return number if 0 < number <= HIGHEST_UID else None


def encode(name: str) -> bytes:
    """A file name as the kernel has it."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """A file name as text."""
    return name.decode("utf-8", "surrogateescape")
