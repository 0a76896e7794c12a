"""A reference model of a writable mount: what SEMANTICS.md says, without files and awaits.

One process uses it.  Each method does what the operation of its name promises, or raises :class:`Wrong` with
an errno and changes nothing.  Names of files are no names of directories, and none is a part of another one,
so that no rename looks like an editor's backup.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field, replace


class Wrong(Exception):
    """An operation is refused."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.number = number


@dataclass(frozen=True)
class Message:
    """``name``: that a program gave it; None: none did.  ``fresh``: its bytes came through this mount."""

    name: str | None
    data: bytes
    date: int
    flags: str = ""
    keywords: str = ""
    fresh: bool = True


@dataclass(eq=False)
class Writing:
    """A file that is open for writing.

    ``uid``: the message whose place it takes.  ``nameless``: another file was given its name.  ``behind``:
    what was only appended, behind the message that it is opened on, or that has its name by then.
    """

    box: Box
    name: str
    data: bytes
    uid: int | None = None
    behind: bytes | None = None
    date: int | None = None
    dirty: bool = False
    takes_place: bool = False
    nameless: bool = False
    removed: bool = False

    @property
    def temporary(self) -> bool:
        return self.name.startswith(".") and self.uid is None


@dataclass(eq=False)
class Box:
    """A mailbox.  ``dates``: those that temporaries were given before they were closed."""

    messages: dict[int, Message] = field(default_factory=dict)
    temporaries: dict[str, bytes] = field(default_factory=dict)
    dates: dict[str, int | None] = field(default_factory=dict)
    children: dict[str, Box] = field(default_factory=dict)
    next_uid: int = 1

    def names(self) -> dict[str, int]:
        """The messages by the names that a listing shows."""
        written = {message.name for message in self.messages.values()} - {None}
        found = {}
        for uid, message in self.messages.items():
            name = message.name or f"{uid}.eml"
            while message.name is None and name in written:
                name = f"uid-{name}"
            found[name] = uid
        return found

    def named(self, name: str) -> int | None:
        """The message that a program has given this name."""
        return next((uid for uid, message in self.messages.items() if message.name == name), None)

    def add(self, message: Message) -> int:
        uid, self.next_uid = self.next_uid, self.next_uid + 1
        self.messages[uid] = message
        return uid


class Model:
    """See the module.  ``now``: the date of messages that are given none; only whether it is that counts."""

    NOW = -1

    def __init__(self) -> None:
        self.root = Box()
        self.writings: list[Writing] = []

    # -- finding -------------------------------------------------------------------------------

    def box(self, path: str) -> Box:
        found = self.root
        for part in path.split("/"):
            if part not in found.children:
                raise Wrong(errno.ENOENT)
            found = found.children[part]
        return found

    def boxes(self, path: str = "", box: Box | None = None) -> Iterator[tuple[str, Box]]:
        """Every mailbox, by its path."""
        for name, child in (box or self.root).children.items():
            below = f"{path}/{name}" if path else name
            yield below, child
            yield from self.boxes(below, child)

    def path(self, box: Box) -> str:
        """The path of a mailbox."""
        return next(path for path, some in self.boxes() if some is box)

    def _uid(self, box: Box, name: str) -> int:
        found = box.names().get(name)
        if found is None:
            raise Wrong(errno.ENOENT)
        return found

    def writing(self, box: Box, name: str) -> Writing | None:
        """The file of this name that is open, and is no message."""
        return next((w for w in self.writings if self.is_new(w) and (w.box, w.name) == (box, name)), None)

    @staticmethod
    def is_new(writing: Writing) -> bool:
        """Whether it is found by its name, and is no message."""
        return writing.uid is None and not writing.nameless and not writing.removed

    def _lose(self, box: Box, name: str, over: int | None, heir: Writing | None = None) -> None:
        """Another file gets this name, and takes the place of message *over*."""
        for writing in self.writings:
            mine = writing.box is box and (
                (over is not None and writing.uid == over) or (self.is_new(writing) and writing.name == name)
            )
            if mine and writing is not heir and not writing.removed:
                writing.uid, writing.nameless = None, True

    # -- files that are written ----------------------------------------------------------------

    def open(self, path: str, name: str, *, append: bool) -> Writing:
        """Open a file that nobody has open, to write it anew or to append to it."""
        box = self.box(path)
        uid = None if name.startswith(".") else box.names().get(name)
        if name.startswith("."):
            data = box.temporaries.get(name, b"") if append else b""
            date = box.dates.get(name) if append and name in box.temporaries else None
            writing = Writing(box, name, data, dirty=bool(data), date=date)
            box.temporaries[name] = data
        elif append:
            data = box.messages[uid].data if uid is not None else b""
            writing = Writing(box, name, data, uid, behind=b"")
        else:
            writing = Writing(box, name, b"", uid)
        self.writings.append(writing)
        return writing

    def write(self, writing: Writing, data: bytes) -> None:
        writing.data += data
        writing.dirty = True
        if writing.behind is not None:
            writing.behind += data
        if writing.temporary and not writing.removed:
            writing.box.temporaries[writing.name] = writing.data

    def close(self, writing: Writing) -> None:
        self.writings.remove(writing)
        if writing.temporary:
            writing.box.dates[writing.name] = writing.date
        else:
            self._commit(writing)

    def _commit(self, writing: Writing) -> None:
        if not writing.dirty or writing.removed:
            return
        box, uid = writing.box, writing.uid
        if uid is None and not writing.nameless:
            uid = box.named(writing.name)
            if uid is not None:
                fresh = box.messages[uid].fresh
                uid = uid if fresh or writing.takes_place or writing.behind is not None else None
                writing.nameless = uid is None
        date = self.NOW if writing.date is None else writing.date
        data = writing.data
        if uid is None:
            name = None if writing.nameless else writing.name
            box.add(Message(name, data, date))
            return
        old = box.messages.pop(uid)
        if writing.behind is not None:
            data = old.data + writing.behind
        name = old.name or self._shown(box, uid)
        new = box.add(replace(old, name=name, data=data, date=date, fresh=True))
        self._follow(box, uid, box, new)

    @staticmethod
    def _shown(box: Box, uid: int) -> str:
        """The name under which a message that is gone by now was shown."""
        name = f"{uid}.eml"
        while box.named(name) is not None:
            name = f"uid-{name}"
        return name

    def _follow(self, box: Box, uid: int, target: Box, new: int) -> None:
        """Message *uid* has become message *new* of *target*."""
        for writing in self.writings:
            if writing.box is box and writing.uid == uid and not writing.removed:
                writing.box, writing.uid = target, new

    # -- names ---------------------------------------------------------------------------------

    def rename(self, path: str, name: str, new_path: str, new: str, *, noreplace: bool = False) -> None:
        box, target = self.box(path), self.box(new_path)
        writing, other = self.writing(box, name), self.writing(target, new)
        there = new in target.names() or new in target.temporaries or other is not None
        if name not in box.names() and name not in box.temporaries and writing is None:
            raise Wrong(errno.ENOENT)
        if noreplace and there and (path, name) != (new_path, new):
            raise Wrong(errno.EEXIST)
        if noreplace and new in target.names():
            raise Wrong(errno.EEXIST)
        if name in box.temporaries or writing is not None:
            self._rename_file(box, name, target, new, writing)
        else:
            self._rename_message(box, name, target, new)

    def _rename_file(self, box: Box, name: str, target: Box, new: str, writing: Writing | None) -> None:
        over = target.names().get(new)
        data, date = box.temporaries.pop(name, None), box.dates.pop(name, None)
        if writing is None:
            assert data is not None
            writing = Writing(box, name, data, dirty=bool(data), date=date)
        was_temporary = writing.temporary
        writing.box, writing.name, writing.uid, writing.takes_place = target, new, over, True
        if over is not None:
            writing.behind = None  # all of the file takes the place of that message
        if writing.temporary:
            target.temporaries[new], target.dates[new] = writing.data, writing.date
        elif was_temporary and writing.dirty:
            self._commit(writing)
            self._settled(writing, target, new)
        self._lose(target, new, over, writing)

    def _settled(self, writing: Writing, target: Box, new: str) -> None:
        """A file was committed, and is open still."""
        uid = target.named(new)
        assert uid is not None
        writing.uid, writing.dirty, writing.takes_place = uid, False, False

    def _rename_message(self, box: Box, name: str, target: Box, new: str) -> None:
        uid, over = self._uid(box, name), target.names().get(new)
        over = None if (target, over) == (box, uid) else over
        message = box.messages[uid]
        if over is not None:
            message = replace(
                message, flags=target.messages[over].flags, keywords=target.messages[over].keywords
            )
        followers = [w for w in self.writings if w.box is box and w.uid == uid and not w.removed]
        target.temporaries.pop(new, None)
        if target is box:
            if over is not None:
                del target.messages[over]
            now = uid
            box.messages[uid] = replace(message, name=new)
        else:
            del box.messages[uid]
            if over is not None:
                del target.messages[over]
            now = target.add(replace(message, name=new, fresh=False))
        self._lose(target, new, over)
        for writing in followers:
            writing.box, writing.uid, writing.nameless = target, now, False

    def link(self, path: str, name: str, new_path: str, new: str) -> None:
        box, target = self.box(path), self.box(new_path)
        uid = self._uid(box, name)
        if new in target.names() or new in target.temporaries or self.writing(target, new) is not None:
            raise Wrong(errno.EEXIST)
        target.add(replace(box.messages[uid], name=new, fresh=False))

    def unlink(self, path: str, name: str) -> None:
        box = self.box(path)
        writing = self.writing(box, name)
        if name in box.temporaries or writing is not None:
            box.temporaries.pop(name, None)
            if writing is not None:
                writing.removed = True
            return
        uid = self._uid(box, name)
        del box.messages[uid]
        for some in self.writings:
            if some.box is box and some.uid == uid:
                some.removed = True

    # -- attributes ----------------------------------------------------------------------------

    def set_date(self, path: str, name: str, date: int) -> None:
        box = self.box(path)
        uid = self._uid(box, name)
        old = box.messages[uid]
        if old.date == date:
            return
        del box.messages[uid]
        name = old.name or self._shown(box, uid)
        new = box.add(replace(old, name=name, date=date, fresh=True))
        self._follow(box, uid, box, new)

    def set_words(self, path: str, name: str, attribute: str, words: str) -> None:
        box = self.box(path)
        uid = self._uid(box, name)
        box.messages[uid] = replace(box.messages[uid], **{attribute: words})  # type: ignore[arg-type]

    # -- mailboxes -----------------------------------------------------------------------------

    def mkdir(self, path: str, name: str) -> None:
        above = self.box(path) if path else self.root
        if name in above.children:
            raise Wrong(errno.EEXIST)
        above.children[name] = Box()

    def rmdir(self, path: str, name: str) -> None:
        above = self.box(path) if path else self.root
        if name not in above.children:
            raise Wrong(errno.ENOENT)
        box = above.children[name]
        if box.children or box.messages or any(w.box is box for w in self.writings):
            raise Wrong(errno.ENOTEMPTY)
        del above.children[name]

    def rename_box(self, path: str, name: str, new_path: str, new: str) -> None:
        above, target = (self.box(some) if some else self.root for some in (path, new_path))
        if name not in above.children:
            raise Wrong(errno.ENOENT)
        if new in target.children:
            raise Wrong(errno.EEXIST)
        target.children[new] = above.children.pop(name)

    def remount(self) -> None:
        """What is no message is gone."""
        self.writings.clear()
        for _, box in self.boxes():
            box.temporaries.clear()
            box.dates.clear()
            box.messages = {uid: replace(message, fresh=False) for uid, message in box.messages.items()}
