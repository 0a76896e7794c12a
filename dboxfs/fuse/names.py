"""The names of messages, in memory.

A message has one name: the one that a listing shows.  Nothing else leads to it.  That name is the first of
these which is free:

1. the name that a program has written it under, or renamed it to (its *written name*);
2. ``<uid>.eml``;
3. ``uid-<uid>.eml``, ``uid-uid-<uid>.eml``, and so on.

A name is free unless it is the written name of another message of the mailbox, or a child mailbox is shown
under it.  Forms 2 and 3 hold the uid, so two messages never want the same one, and the name of a message
changes only when a written name comes or goes.

A name is given before the message comes, or takes the place of the one that has it now: see
:class:`~dboxfs.fuse.namelines.Line`.  Until then it stands for what it stood for.
:mod:`dboxfs.fuse.namefiles` says where written names are kept.

Concurrency: nothing here awaits, so every method is atomic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dboxfs.fuse.namelines import HIGHEST, Kind, Line
from dboxfs.store import Folder, Mailbox

_FEW = 1000
_FORM = re.compile(rb"(?:uid-)*([1-9][0-9]{0,9})\.eml")

There = Callable[[Iterable[int]], Sequence[int]]
"""Those of some uids that the mailbox has."""


def _nobody(writer: str) -> bool:
    return False


def _any(uid: int) -> bool:
    return True


@dataclass(slots=True)
class BoxNames:
    """The written names of one mailbox.

    ``unusual``: the names that differ from ``<uid>.eml``, by uid, if no child mailbox has one of them.
    ``waiting``: the line that counts when a message is gone, by its uid.  ``announced``: lines about
    messages that may never come, by uid.  ``lines``: how many the file has.  ``lives``: whether the process
    that has written a line runs still.  ``has``: whether the mailbox shows a message.  ``heirs``: what has
    replaced a message since this mount was made, by its uid; not what was renamed over it.
    """

    validity: int
    by_name: dict[bytes, int] = field(default_factory=dict)
    by_uid: dict[int, bytes] = field(default_factory=dict)
    unusual: dict[int, bytes] = field(default_factory=dict)
    waiting: dict[int, Line] = field(default_factory=dict)
    announced: dict[int, Line] = field(default_factory=dict)
    lines: int = 0
    lives: Callable[[str], bool] = _nobody
    has: Callable[[int], bool] = _any
    heirs: dict[int, int] = field(default_factory=dict)

    @property
    def has_grown(self) -> bool:
        """Whether most lines of the file mean nothing any more."""
        return self.lines > 2 * len(self.by_uid) + _FEW

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
        """The message that has *name* as its written name, or will have once it is known what is gone.

        :param there: the state of the mailbox that counts, which may be newer than what was heard of it.
        """
        uid = self.by_name.get(name)
        for _ in range(len(self.waiting) + 1):
            if uid is None or there([uid]):
                return uid
            heir = self.waiting.get(uid)
            uid = heir.uid if heir is not None and heir.name == name else None
        return None

    # -- changing ------------------------------------------------------------------------------

    def take(self, line: Line) -> set[bytes]:
        """A line of the file.  Gives the names that stand for something else than before."""
        waiting = self.waiting.items()
        self.waiting = {
            old: other
            for old, other in waiting
            if line.uid != other.uid and line.name != other.name and line.after != old
        }
        self.announced.pop(line.uid, None)
        if line.kind is Kind.ANNOUNCED:
            if not self.lives(line.writer):
                return self._drop(line.uid) if self.by_uid.get(line.uid) == line.name else set()
            self.announced[line.uid] = line
        if line.after:
            self.waiting[line.after] = line
            return set()
        return self._set(line.uid, line.name)

    def _set(self, uid: int, name: bytes) -> set[bytes]:
        old_name, old_uid = self.by_uid.get(uid), self.by_name.get(name)
        if old_name == name:
            return set()
        before = self._before(uid, old_uid, number_of(name), number_of(old_name))
        if old_uid is not None:
            del self.by_uid[old_uid]
        if old_name is not None:
            del self.by_name[old_name]
        self.by_name[name], self.by_uid[uid] = uid, name
        return self._look_again(before)

    def drop(self, uid: int) -> set[bytes]:
        """The message is gone.  Gives the names that stand for something else than before."""
        heir = self.waiting.get(uid)
        self.waiting = {old: line for old, line in self.waiting.items() if uid not in (old, line.uid)}
        self.announced.pop(uid, None)
        changed = {self.name(uid)} | self._drop(uid)
        if heir is None or (heir.kind is Kind.ANNOUNCED and not self.lives(heir.writer)):
            return changed
        if heir.kind is Kind.ANNOUNCED:
            self.heirs[uid] = heir.uid
            if len(self.heirs) > _FEW:
                del self.heirs[next(iter(self.heirs))]
        return changed | self._set(heir.uid, heir.name)

    def arrived(self, uid: int) -> set[bytes]:
        """The message is there: it has the name that was said to be its own while it was not.

        One that was announced is only its own if the writer lives.
        """
        line = self.announced.get(uid)
        if line is not None:
            return set() if self.lives(line.writer) else self.withdraw(line)
        said = [some for some in self.waiting.values() if some.uid == uid and some.kind is Kind.SAID]
        if not said:
            return set()
        self.waiting = {old: some for old, some in self.waiting.items() if some.uid != uid}
        return self._set(uid, said[0].name)

    def withdraw(self, line: Line) -> set[bytes]:
        """What was announced will not come."""
        if self.announced.get(line.uid) != line:
            return set()
        del self.announced[line.uid]
        self.waiting = {old: other for old, other in self.waiting.items() if other.uid != line.uid}
        return self._drop(line.uid)

    def mend(self, uid_next: int) -> bool:
        """Take out what the dead have left; whether there was anything.

        Lines about a rename that was not carried out, and about messages that are not there though everything
        up to *uid_next* was looked at after these lines.
        """
        size = len(self.waiting) + len(self.announced) + len(self.by_uid)
        self.waiting = {old: line for old, line in self.waiting.items() if self.lives(line.writer)}
        for line in list(self.announced.values()):
            if not self.lives(line.writer):
                self.withdraw(line)
        for uid in [uid for uid in self.by_uid if uid >= uid_next and uid not in self.announced]:
            self._drop(uid)
        return len(self.waiting) + len(self.announced) + len(self.by_uid) < size

    def all_lines(self) -> list[Line]:
        """Everything that is known, for a new file."""
        waiting = {line.uid for line in self.waiting.values()}
        said = [
            self.announced.get(uid) or Line(self.validity, uid, name)
            for uid, name in sorted(self.by_uid.items())
            if uid not in waiting
        ]
        # One that waits may have another name until then.
        said += [Line(self.validity, uid, self.by_uid[uid]) for uid in sorted(waiting & self.by_uid.keys())]
        return said + [line for _, line in sorted(self.waiting.items())]

    def _drop(self, uid: int) -> set[bytes]:
        name = self.by_uid.get(uid)
        if name is None:
            self.unusual.pop(uid, None)
            return set()
        before = self._before(uid, number_of(name))
        del self.by_uid[uid], self.by_name[name]
        changed = self._look_again(before)
        self.unusual.pop(uid, None)
        return changed

    def _before(self, *uids: int | None) -> dict[int, bytes]:
        return {uid: self.name(uid) for uid in uids if uid is not None}

    def _look_again(self, before: Mapping[int, bytes]) -> set[bytes]:
        """The written names have changed; *before*: what messages were called whose names may have, too.

        Gives those names of messages that are shown, and are not what they were.
        """
        changed: set[bytes] = set()
        for uid, old in before.items():
            new = self.name(uid)
            if new == b"%d.eml" % uid:
                self.unusual.pop(uid, None)
            else:
                self.unusual[uid] = new
            if new != old and self.has(uid):
                changed |= {old, new}
        return changed


def number_of(name: bytes | None) -> int | None:
    """The uid of the message that is called so if nobody has written its name; None: none is."""
    match = _FORM.fullmatch(name) if name is not None else None
    number = int(match[1]) if match is not None else 0
    return number if 0 < number <= HIGHEST else None


class WrittenNames:
    """The names of all mailboxes of a mounted store.

    :param lives: whether the process that has written a line runs still.
    """

    def __init__(self, lives: Callable[[str], bool] = _nobody) -> None:
        self._boxes: dict[bytes, BoxNames] = {}
        self._lives = lives

    # -- asking --------------------------------------------------------------------------------

    def _of(self, box: Mailbox | None) -> BoxNames | None:
        if not self._boxes or box is None or box.guid is None:
            return None
        found = self._boxes.get(box.guid)
        return found if found is not None and found.validity == box.uid_validity else None

    def resolve(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the message that is called *name* in *folder*; None: there is none."""
        box = folder.mailbox
        if box is None:
            return None
        names = self._of(box)
        uid = names.by_name.get(name) if names is not None else None
        if uid is None:
            uid = number_of(name)
        if uid is None or uid not in box or self.name(folder, uid) != name:
            return None
        return uid

    def name(self, folder: Folder, uid: int) -> bytes:
        """The name of a message."""
        names = self._of(folder.mailbox)
        return names.name(uid, folder.children) if names is not None else b"%d.eml" % uid

    def unusual(self, folder: Folder) -> Mapping[int, bytes]:
        """The names that differ from ``<uid>.eml``, by uid."""
        names = self._of(folder.mailbox)
        if names is None:
            return {}
        taken = [encode(child) for child in folder.children]
        uids = {uid for name in taken for uid in (names.by_name.get(name), number_of(name))} - {None}
        if not uids:
            return names.unusual
        return names.unusual | {uid: names.name(uid, folder.children) for uid in uids if uid is not None}

    def holder(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the message that was written under this name, and may only be about to come."""
        names = self._of(folder.mailbox)
        return names.by_name.get(name) if names is not None else None

    def heir(self, folder: Folder, uid: int) -> int | None:
        """The message that has replaced one which is gone, by whatever mount; None: that is not known."""
        names = self._of(folder.mailbox)
        for _ in range(_FEW):
            if names is None or folder.mailbox is None or uid in folder.mailbox:
                break
            uid = names.heirs.get(uid, 0)
        return uid if folder.mailbox is not None and uid in folder.mailbox else None

    def are_waiting(self, box: Mailbox) -> bool:
        """Whether there are names that wait for a message to go, or to come."""
        names = self._of(box)
        if names is None:
            return False
        return bool(names.waiting or names.announced) or max(names.by_uid, default=0) >= box.uid_next

    # -- changing ------------------------------------------------------------------------------

    def of(self, box: Mailbox) -> BoxNames:
        """The names of a mailbox, for changing; made if there are none."""
        assert box.guid is not None
        names = self._boxes.get(box.guid)
        if names is None or names.validity != box.uid_validity:
            names = self._boxes[box.guid] = BoxNames(box.uid_validity, lives=self._lives)
        names.has = box.__contains__
        return names

    def clear(self, box: Mailbox) -> set[bytes]:
        """Forget the names of a mailbox, which will be read again; gives those that stand for others now."""
        names = self._boxes.pop(box.guid or b"", None)
        if names is None:
            return set()
        return {*names.by_name, *names.unusual.values(), *(b"%d.eml" % uid for uid in names.unusual)}

    def take(self, box: Mailbox, lines: Iterable[Line | None]) -> set[bytes]:
        """Take over what a file says, in its order; gives the names that stand for others now."""
        names, changed = self.of(box), set()
        for line in lines:
            names.lines += 1
            if line is None or line.validity != box.uid_validity:
                continue
            has_it = names.by_name.get(line.name, line.uid)
            if not line.after and line.uid >= box.uid_next and has_it != line.uid and has_it in box:
                line = replace(line, after=has_it)  # the file was read before the index
            changed |= names.take(line)
            for uid in (line.after, line.uid):
                if _is_gone(box, uid):
                    changed |= names.drop(uid)
        return changed

    def forget(self, folder: Folder, uids: Iterable[int]) -> set[bytes]:
        """These messages are gone; gives their names, and those that stand for others now."""
        names = self._of(folder.mailbox)
        if names is None:
            return {b"%d.eml" % uid for uid in uids}
        changed: set[bytes] = set()
        for uid in uids:
            if folder.children:
                changed.add(names.name(uid, folder.children))
            changed |= names.drop(uid)
        return changed

    def arrived(self, folder: Folder, uids: Sequence[int]) -> set[bytes]:
        """These messages are there; gives the names that stand for others now."""
        names = self._of(folder.mailbox)
        if names is None or not (names.announced or names.waiting):
            return set()
        return set().union(*(names.arrived(uid) for uid in uids))

    def are_told(self, folder: Folder, came: Sequence[int], went: Sequence[int]) -> bool:
        """Whether no name of these messages is to be expected that we have not heard of.

        :param went: of messages that are gone, before :meth:`forget`.
        """
        names = self._of(folder.mailbox)
        if names is None:
            return not came
        return all(uid in names.by_uid for uid in came) and all(
            uid in names.waiting for uid in went if uid in names.by_uid
        )


def _is_gone(box: Mailbox, uid: int) -> bool:
    """Not those that the mailbox has and we have not heard of."""
    return 0 < uid < box.uid_next and uid not in box


def encode(name: str) -> bytes:
    """A file name as the kernel has it."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """A file name as text."""
    return name.decode("utf-8", "surrogateescape")
