"""The names of the messages of a mailbox, in memory.

A message has one name: the one that a listing shows.  No other name leads to it.  Its name is the first free
one of these:

1. the name under which a program has written it, or to which it was renamed (its *written name*); 2.
``<uid>.eml``; 3. ``uid-<uid>.eml``, ``uid-uid-<uid>.eml``, and so on.

A name is free unless another message of the mailbox has it as its written name, or a child mailbox is shown
under it.  Forms 2 and 3 contain the uid, so two messages never need the same one, and the name of a message
changes only when a written name is added or removed.

A name is given before the message is written, or before the message replaces the one that has the name now:
see :class:`~dboxfs.store.names.codec.Line`.  Until then the name keeps its meaning.
:mod:`dboxfs.store.names.files` stores written names on disk.

Concurrency: no method awaits, so each is atomic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.store.names.codec import HIGHEST_UID, Line, LineKind

NOBODY = "0"
"""The token of a writer that does not exist: its line takes an announcement back."""

NAMES_FOLLOWED = 1000
"""Lines without effect that stay in a file, and replacements that are remembered, at most."""
_REPLACED = 64
"""Replaced messages that a file still has when it is rewritten, at most."""
_FORM = re.compile(rb"(?:uid-)*([1-9][0-9]{0,9})\.eml")

There = Callable[[Iterable[int]], Sequence[int]]
"""A function that gives those of some uids that the mailbox has."""


def never(what: object) -> bool:
    """Always False."""
    return False


class BoxNames(Struct):
    """The written names of one mailbox.

    A line counts when its message exists and the message that it replaces does not.  Of the lines about one
    name, the last one that counts gives its message.  ``by_name`` and ``by_uid`` have the lines that count,
    ``pending`` the later lines that don't count yet, by name, in their order.

    ``unfinished``: announced messages whose writer died before it confirmed the name.  ``contested``:
    announced messages about which there was another line before.

    ``unusual``: the names that differ from ``<uid>.eml``, by uid, if no child mailbox has one of them.
    ``pending_of``: the last pending line about a message, by its uid.  ``announced``: lines that count but
    are not confirmed yet.  ``heirs``: by uid, the message that has replaced it since the beginning of this
    mount; ``successors``: the message that was renamed over it; ``replaced``: the last lines of these, for
    mounts that don't know yet that it is gone.  ``lines``: number of lines in the file.  ``version``: changes
    whenever a written name is added or removed.

    ``lives``: whether the process that has written a line still runs.  ``has``: whether the mailbox shows a
    message.  ``gone``: whether the mailbox had a message and does not have it any more.
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
    contested: set[int] = field(default_factory=set)
    heirs: dict[int, int] = field(default_factory=dict)
    successors: dict[int, int] = field(default_factory=dict)
    replaced: dict[int, Line] = field(default_factory=dict)
    lines: int = 0
    version: tuple[object, int] = field(default_factory=lambda: (object(), 0))

    @property
    def has_grown(self) -> bool:
        """Whether most lines of the file have no effect any more."""
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

        :param there: gives the uids that the mailbox has now, which may be newer than the state that was
            read.
        """
        for line in reversed(self.pending.get(name, ())):
            if there([line.uid]) and not there([line.after]) and self._believes(line):
                return line.uid
        uid = self.by_name.get(name)
        return uid if uid is not None and there([uid]) else None

    def name_by_now(self, uid: int, there: There, children: Mapping[str, object] | None = None) -> bytes:
        """The name of a message of which the mailbox may have a newer state than the one that was read.

        :param there: gives the uids that the mailbox has now.
        """
        line = self.pending_of.get(uid)
        if line is not None and not there([line.after]) and self._believes(line):
            return line.name
        return self.name(uid, children)

    def confirmation(self, uid: int, name: bytes) -> list[Line]:
        """The lines that confirm a durable message that was announced with *name*; empty: it was renamed
        since, or has the name without a line.

        A later line about a name supersedes an earlier one.  So the lines of messages that were given the
        name since, or have it by now, follow once more.
        """
        known = self.pending_of.get(uid)
        if (self.by_uid.get(uid) or (known.name if known is not None else name)) != name:
            return []
        lines, holder = [Line(self.validity, uid, name)], self.by_name.get(name)
        if holder is not None and holder != uid and not self.has(uid):
            line = self.announced.get(holder) or Line(self.validity, holder, name)
            lines.append(replace(line, after=uid))
        others = (line for line in self.pending.get(name, ()) if line.uid != uid)
        lines += [line for line in others if self._believes(line)]
        return [] if len(lines) == 1 and self._is_plain(uid, name) else lines

    def confirmation_ahead(self, uid: int, name: bytes) -> list[Line]:
        """:meth:`confirmation` of a message that was announced and is not there yet; empty also if there is
        anything else to know about the name by then.
        """
        said = self.pending.get(name, ())
        only = [(line.uid, line.after) for line in said] == [(uid, 0)] and name not in self.by_name
        return self.confirmation(uid, name) if only else []

    def _is_plain(self, uid: int, name: bytes) -> bool:
        """Whether a message has this name also if its announcement does not count any more, because its
        writer is gone: it is ``<uid>.eml``, replaces no message, and there was no other line about it.
        """
        said = self.announced.get(uid) or self.pending_of.get(uid)
        return (
            name == b"%d.eml" % uid
            and said is not None
            and (said.name, said.after) == (name, 0)
            and uid not in self.contested
        )

    def _believes(self, line: Line) -> bool:
        return line.kind is not LineKind.ANNOUNCED or self.lives(line.writer)

    # -- changing ------------------------------------------------------------------------------

    def take(self, line: Line) -> set[bytes]:
        """Take over the next line of the file; gives the names that have another meaning now."""
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
        if line.kind is LineKind.ANNOUNCED and (before is not None or line.uid in self.by_uid):
            self.contested.add(line.uid)
        else:
            self.contested.discard(line.uid)
        if before is not None and before.name == line.name and not line.after:
            line = replace(line, after=before.after)
        self.pending.setdefault(line.name, []).append(line)
        self.pending_of[line.uid] = line
        return self._settle(line.name)

    def _unsay(self, line: Line) -> set[bytes]:
        """Take back an announcement: a message that has this uid now is another one."""
        said = self.announced.get(line.uid)
        if said is None or said.name != line.name:
            return set()
        before = self._before(line.uid, number_of(line.name))
        del self.announced[line.uid], self.by_uid[line.uid], self.by_name[line.name]
        return self._look_again(before)

    def update(self, went: Iterable[int], came: Iterable[int] = ()) -> set[bytes]:
        """Update the names after messages went and came; ``has`` and ``gone`` already know it.

        Gives the names of those that went, and other names that have another meaning now.
        """
        new = set(came)
        changed: set[bytes] = set()
        for uid in went:
            changed |= {self.name(uid)} | self._drop(uid)
        for name in list(self.pending):
            changed |= self._settle(name, new)
        return changed

    def withdraw(self, line: Line) -> None:
        """Forget an announcement whose message will not be written."""
        if self.pending_of.get(line.uid) == line:
            self._forget(line)

    def _forget(self, line: Line | None) -> Line | None:
        """Drop a pending line."""
        if line is not None:
            del self.pending_of[line.uid]
            self.pending[line.name].remove(line)
            if not self.pending[line.name]:
                del self.pending[line.name]
        return line

    def _settle(self, name: bytes, new: Container[int] = ()) -> set[bytes]:
        """Check whether a pending line counts by now.  *new*: messages that had no name before."""
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
        """Update the names of messages after a change of written names; *before*: their names before it.

        Gives the names, old and new, of shown messages whose name has changed.
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
        """Drop the lines of dead writers; True: there were some, and the file must be rewritten.

        The index was read after the lines, so a line about a message that does not exist will never count.
        Names of messages that were written but not confirmed are dropped, too: a mount that ran when they
        were announced shows them until it reads the file again.
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
        """All known lines, for a new file."""
        replaced, given = self._replaced_lines()
        said = [
            given.get(uid) or self.announced.get(uid) or Line(self.validity, uid, name)
            for uid, name in sorted(self.by_uid.items())
        ]
        return replaced + said + [line for _, lines in sorted(self.pending.items()) for line in lines]

    def _replaced_lines(self) -> tuple[list[Line], dict[int, Line]]:
        """The lines of replaced messages and of their successors; lines of existing messages are separate, by
        uid.

        A mount that has not read the index yet still shows the old message under its name, and a write to it
        continues in the new one.  Lines of messages that are known to be gone have no effect for other
        mounts.
        """
        gone: dict[int, Line] = {}
        there: dict[int, Line] = {}
        for line in self.replaced.values():
            if self.has(line.after) or (self.has(line.uid) and self.by_uid.get(line.uid) != line.name):
                continue  # it was renamed since
            if line.kind is LineKind.ANNOUNCED and line.uid not in self.announced:  # the message exists
                line = replace(line, kind=LineKind.SAID, writer="")
            gone.setdefault(line.after, Line(self.validity, line.after, line.name))
            (there if self.has(line.uid) else gone)[line.uid] = line
        return list(gone.values()), there


def number_of(name: bytes | None) -> int | None:
    """The uid in a name of form 2 or 3; None: another form."""
    match = _FORM.fullmatch(name) if name is not None else None
    number = int(match[1]) if match is not None else 0
    return number if 0 < number <= HIGHEST_UID else None


def encode(name: str) -> bytes:
    """A file name as bytes, as the kernel has it."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """A file name as text."""
    return name.decode("utf-8", "surrogateescape")
