"""The names that messages were written under, in memory, and the lines that say them in a file.

:mod:`dboxfs.fuse.namefiles` says where the files are, reads and writes them.  Lines are only ever appended::

    <CRC-32 of the rest of the line, 8 hex digits> <uidvalidity> <uid> <name>[ <old uid>]LF

*name* has ``%XX`` for ``%``, white space, control and 8-bit bytes.  A later line about the same uid or the
same name supersedes an earlier one.  With an *old uid* the line means nothing as long as that message is
there: it is written before a message takes the place of another one, so that the name stands for the one or
the other at any time.  Lines about uids that are gone mean nothing (uids are never given out twice), so an
expunge by anybody needs no line, and a mailbox that Dovecot renames keeps its names.

A written name goes before ``<uid>.eml``.  A message without a written name whose ``<uid>.eml`` is the written
name of another one is shown as ``uid-<uid>.eml`` (or ``uid-uid-<uid>.eml``, if that is taken too).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dboxfs.store import Folder, Mailbox

_FEW = 1000
_DEFAULT = re.compile(rb"([1-9][0-9]{0,9})\.eml")
_SECOND = re.compile(rb"(?:uid-)+([1-9][0-9]{0,9})\.eml")
_UID_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Line:
    """*uid* has this name, from when message ``after`` is gone on (0: now)."""

    validity: int
    uid: int
    name: bytes
    after: int = 0


@dataclass(slots=True)
class BoxNames:
    """The names of one mailbox.

    ``shown``: those that differ from ``<uid>.eml``, by uid.  ``waiting``: (uid, name) by the uid that has to
    go before.  ``lines``: how many the file has.
    """

    validity: int
    by_name: dict[bytes, int] = field(default_factory=dict)
    by_uid: dict[int, bytes] = field(default_factory=dict)
    shown: dict[int, bytes] = field(default_factory=dict)
    waiting: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    lines: int = 0

    @property
    def has_grown(self) -> bool:
        """Whether most lines of the file mean nothing any more."""
        return self.lines > 2 * len(self.by_uid) + _FEW

    def set(self, uid: int, name: bytes, after: int = 0) -> None:
        """A line: see :class:`Line`."""
        waiting = self.waiting.items()
        self.waiting = {old: (u, n) for old, (u, n) in waiting if u != uid and n != name and old != after}
        if after:
            self.waiting[after] = uid, name
        else:
            self._set(uid, name)

    def _set(self, uid: int, name: bytes) -> None:
        old_name, old_uid = self.by_uid.get(uid), self.by_name.get(name)
        if old_uid is not None:
            self.by_uid.pop(old_uid, None)
        if old_name is not None:
            self.by_name.pop(old_name, None)
        self.by_name[name], self.by_uid[uid] = uid, name
        self._look_again(uid, old_uid, _default_of(name), _default_of(old_name))

    def drop(self, uid: int) -> None:
        """The message is gone."""
        waiting = self.waiting.items()
        heir = self.waiting.get(uid)
        self.waiting = {old: (u, n) for old, (u, n) in waiting if uid not in (old, u)}
        self._drop(uid)
        if heir is not None:
            self._set(*heir)

    def _drop(self, uid: int) -> None:
        name = self.by_uid.pop(uid, None)
        if name is not None:
            self.by_name.pop(name, None)
        self.shown.pop(uid, None)
        self._look_again(_default_of(name))

    def _look_again(self, *uids: int | None) -> None:
        for uid in uids:
            if uid is None:
                continue
            name = self.by_uid.get(uid)
            if name is None and self.by_name.get(b"%d.eml" % uid, uid) != uid:
                name = b"uid-%d.eml" % uid
                while name in self.by_name:
                    name = b"uid-" + name
            if name is None or name == b"%d.eml" % uid:
                self.shown.pop(uid, None)
            else:
                self.shown[uid] = name


def _default_of(name: bytes | None) -> int | None:
    """The uid that *name* would stand for if nobody had written it."""
    match = (_DEFAULT.fullmatch(name) or _SECOND.fullmatch(name)) if name is not None else None
    return int(match[1]) if match is not None else None


def encode_line(line: Line) -> bytes:
    """One line of the file."""
    name = quote_from_bytes(line.name, safe=_PLAIN).encode("ascii")
    text = b"%d %d %s" % (line.validity, line.uid, name) + (b" %d" % line.after if line.after else b"")
    return b"%08x %s\n" % (zlib.crc32(text), text)


_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) != "%")


def decode_lines(data: bytes) -> Iterator[tuple[int, Line]]:
    """(end of the line, line) of each line up to the first that is torn or whose checksum is wrong."""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        crc, _, text = data[at:end].partition(b" ")
        parts = text.split(b" ")
        if crc != b"%08x" % zlib.crc32(text) or len(parts) not in (3, 4):
            return
        at = end + 1
        after = int(parts[3]) if len(parts) == 4 else 0
        yield at, Line(int(parts[0]), int(parts[1]), unquote_to_bytes(parts[2]), after)


class WrittenNames:
    """The names of all mailboxes of a mounted store."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, BoxNames] = {}

    # -- asking --------------------------------------------------------------------------------

    def _of(self, box: Mailbox | None) -> BoxNames | None:
        if not self._boxes or box is None or box.guid is None:
            return None
        found = self._boxes.get(box.guid)
        return found if found is not None and found.validity == box.uid_validity else None

    def resolve(self, folder: Folder, name: bytes) -> int | None:
        """The uid of the message that *name* stands for in *folder*; None: there is none."""
        box = folder.mailbox
        if box is None:
            return None
        names = self._of(box)
        if names is not None:
            uid = names.by_name.get(name)
            if uid is not None and uid in box:
                return None if name.decode("utf-8", "surrogateescape") in folder.children else uid
            second = _SECOND.fullmatch(name)
            if second is not None and names.shown.get(int(second[1])) == name and int(second[1]) in box:
                return int(second[1])
        match = _DEFAULT.fullmatch(name)
        if match is None:
            return None
        uid = int(match[1])
        return uid if uid <= _UID_MASK and uid in box else None

    def own(self, folder: Folder, name: bytes) -> int | None:
        """As :meth:`resolve`, but not a message that has a written name and only answers to this one too."""
        uid = self.resolve(folder, name)
        return uid if uid is not None and self.is_first(folder, uid, name) else None

    def is_first(self, folder: Folder, uid: int, name: bytes) -> bool:
        """Whether *name*, which stands for *uid*, is the name that a listing shows."""
        written = self.written(folder, uid)
        if written is None or written == name:
            return True
        return decode(written) in folder.children and name == self.name(folder, uid)

    def is_written(self, folder: Folder, name: bytes) -> bool:
        """Whether a message was written under this name."""
        names = self._of(folder.mailbox)
        return names is not None and name in names.by_name

    def shown(self, folder: Folder) -> Mapping[int, bytes]:
        """The names that a listing shows instead of ``<uid>.eml``, by uid."""
        names = self._of(folder.mailbox)
        if names is None:
            return {}
        hidden = [child.encode("utf-8", "surrogateescape") for child in folder.children]
        if not any(name in names.by_name for name in hidden):
            return names.shown
        return {uid: name for uid, name in names.shown.items() if name not in hidden}

    def name(self, folder: Folder, uid: int) -> bytes:
        """The name that a listing shows for a message."""
        return self.shown(folder).get(uid) or b"%d.eml" % uid

    def written(self, folder: Folder, uid: int) -> bytes | None:
        """The name that a message was written under, if that is known."""
        names = self._of(folder.mailbox)
        return names.by_uid.get(uid) if names is not None else None

    # -- changing ------------------------------------------------------------------------------

    def of(self, box: Mailbox) -> BoxNames:
        """The names of a mailbox, for changing; made if there are none."""
        assert box.guid is not None
        names = self._boxes.get(box.guid)
        if names is None or names.validity != box.uid_validity:
            names = self._boxes[box.guid] = BoxNames(box.uid_validity)
        return names

    def are_waiting(self, box: Mailbox) -> bool:
        """Whether there are names that wait for a message to go."""
        names = self._of(box)
        return names is not None and bool(names.waiting)

    def clear(self, box: Mailbox) -> set[bytes]:
        """Forget the names of a mailbox, which will be read again; gives them."""
        names = self._boxes.pop(box.guid or b"", None)
        return set(names.by_name) if names is not None else set()

    def take(self, box: Mailbox, lines: Iterable[Line]) -> set[bytes]:
        """Take over what a file says, in its order; gives the names that may mean something else now."""
        names, changed = self.of(box), set()
        for line in lines:
            names.lines += 1
            if line.validity != box.uid_validity:
                continue
            changed |= {line.name, names.by_uid.get(line.uid, line.name), b"%d.eml" % line.uid}
            names.set(line.uid, line.name, 0 if _is_gone(box, line.after) else line.after)
            if _is_gone(box, line.uid):
                names.drop(line.uid)
        return changed

    def forget(self, folder: Folder, uids: Iterable[int]) -> None:
        """These messages are gone."""
        names = self._of(folder.mailbox)
        if names is not None:
            for uid in uids:
                names.drop(uid)


def _is_gone(box: Mailbox, uid: int) -> bool:
    """Not those that the mailbox has and we have not heard of."""
    return uid < box.uid_next and uid not in box


def encode(name: str) -> bytes:
    """A file name as the kernel has it."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """A file name as text."""
    return name.decode("utf-8", "surrogateescape")
