"""The names that messages were written under: kept across mounts, in files that Dovecot doesn't look at.

``<control directory>/dboxfs-names/<mailbox guid, 32 hex digits>``, one file a mailbox, lines that are only
ever appended::

    <CRC-32 of the rest of the line, 8 hex digits> <uidvalidity> <uid> <name>LF

*name* has ``%XX`` for ``%``, white space, control and 8-bit bytes.  A later line about the same uid or the
same name supersedes an earlier one.  Reading ends at the first line that is torn or whose checksum is wrong
(a crash); the next name then rewrites the file.  Lines about uids that are gone mean nothing (uids are never
given out twice), so an expunge by anybody needs no line, and a mailbox that Dovecot renames keeps its guid
and with it its names.

A written name goes before ``<uid>.eml``.  A message without a written name whose ``<uid>.eml`` is the written
name of another one is shown as ``uid-<uid>.eml``.

A name is recorded after its message: a crash between the two leaves the message as ``<uid>.eml``.

Limits: where mailboxes lie directly in the control directory (``MAILBOXDIR=`` empty) a directory of ours
would be taken for a mailbox, so names last as long as the mount there.  A mount learns the names that
another mount writes when it is made.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dboxfs.fsapi import CreateMode, FileSystem, Peek
from dboxfs.store import Folder, Mailbox, Store
from dboxfs.store.writing.disk import Disk
from dboxfs.store.writing.group import GroupCommit, Request
from dboxfs.store.writing.options import WriteOptions

DIRECTORY = "dboxfs-names"
_MOST = 1 << 30
_FEW = 1000
_DEFAULT = re.compile(rb"([1-9][0-9]{0,9})\.eml")
_SECOND = re.compile(rb"uid-([1-9][0-9]{0,9})\.eml")
_GUID = re.compile("[0-9a-f]{32}")
_UID_MASK = 0xFFFFFFFF


@dataclass(slots=True)
class _Names:
    """The names of one mailbox.  ``shown``: those that differ from ``<uid>.eml``, by uid."""

    validity: int
    by_name: dict[bytes, int] = field(default_factory=dict)
    by_uid: dict[int, bytes] = field(default_factory=dict)
    shown: dict[int, bytes] = field(default_factory=dict)
    lines: int = 0
    rewrite: bool = True

    @property
    def has_grown(self) -> bool:
        """Whether most lines of the file mean nothing any more."""
        return self.lines > 2 * len(self.by_uid) + _FEW

    def set(self, uid: int, name: bytes) -> None:
        old_name, old_uid = self.by_uid.get(uid), self.by_name.get(name)
        if old_uid is not None:
            self.by_uid.pop(old_uid, None)
        if old_name is not None:
            self.by_name.pop(old_name, None)
        self.by_name[name], self.by_uid[uid] = uid, name
        self._look_again(uid, old_uid, _default_of(name), _default_of(old_name))

    def drop(self, uid: int) -> None:
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
            if name is None or name == b"%d.eml" % uid:
                self.shown.pop(uid, None)
            else:
                self.shown[uid] = name


def _default_of(name: bytes | None) -> int | None:
    """The uid that *name* would stand for if nobody had written it."""
    match = _DEFAULT.fullmatch(name) if name is not None else None
    return int(match[1]) if match is not None else None


def encode_line(validity: int, uid: int, name: bytes) -> bytes:
    """One line of the file."""
    text = b"%d %d %s" % (validity, uid, quote_from_bytes(name, safe=_PLAIN).encode("ascii"))
    return b"%08x %s\n" % (zlib.crc32(text), text)


_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) != "%")


def decode_lines(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(end of the line, uidvalidity, uid, name) of each line up to the first that is damaged."""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        crc, _, text = data[at:end].partition(b" ")
        parts = text.split(b" ")
        if crc != b"%08x" % zlib.crc32(text) or len(parts) != 3:
            return
        at = end + 1
        yield at, int(parts[0]), int(parts[1]), unquote_to_bytes(parts[2])


class WrittenNames:
    """The names of all mailboxes of a mounted store, in memory; :class:`NameFiles` writes them."""

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory
        self._boxes: dict[bytes, _Names] = {}

    # -- asking --------------------------------------------------------------------------------

    def _of(self, box: Mailbox | None) -> _Names | None:
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
        return uid if uid is not None and self.written(folder, uid) in (None, name) else None

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

    def put(self, box: Mailbox, uid: int, name: bytes) -> _Names:
        """Remember a name."""
        assert box.guid is not None
        names = self._boxes.get(box.guid)
        if names is None or names.validity != box.uid_validity:
            names = self._boxes[box.guid] = _Names(box.uid_validity)
        names.set(uid, name)
        return names

    def forget(self, folder: Folder, uids: Iterable[int]) -> None:
        """These messages are gone."""
        names = self._of(folder.mailbox)
        if names is not None:
            for uid in uids:
                names.drop(uid)

    def take(self, box: Mailbox, data: bytes) -> None:
        """Take over what the file of a mailbox says."""
        names = _Names(box.uid_validity)
        whole = 0
        for end, validity, uid, name in decode_lines(data):
            whole = end
            names.lines += 1
            if validity == box.uid_validity:
                names.set(uid, name)
        for uid in [uid for uid in names.by_uid if uid not in box]:
            names.drop(uid)
        names.rewrite = whole != len(data) or not data or names.has_grown
        if box.guid is not None and (names.by_uid or not names.rewrite):
            self._boxes[box.guid] = names


async def load_names(store: Store) -> WrittenNames:
    """The names of all mailboxes of *store*, as the files have them.

    :raises OSError: the directory or a file is there, but can't be read.
    """
    location = store.location
    if not location.mailbox_dir and location.control is None:
        return WrittenNames(None)
    names = WrittenNames(os.path.join(location.control_dir, DIRECTORY))
    assert names.directory is not None
    try:
        entries = await store.fs.listdir(names.directory)
    except FileNotFoundError:
        return names
    there = {entry.name for entry in entries if _GUID.fullmatch(entry.name)}
    boxes = [folder.mailbox for folder in store.folders.values() if folder.mailbox is not None]
    wanted = [box for box in boxes if box.guid is not None and box.guid.hex() in there]
    paths = [os.path.join(names.directory, (box.guid or b"").hex()) for box in wanted]
    peeks = [Peek(path, ((0, None),), limit=_MOST, nofollow=True) for path in paths]
    for box, found in zip(wanted, await store.fs.peek(peeks), strict=True):
        if isinstance(found, OSError):
            raise found
        names.take(box, found.chunks[0])
    return names


_Line = Request[tuple[Mailbox, _Names, bytes], bool]


class NameFiles:
    """Records names; those that come together are one write.  ``record`` returns when they are durable."""

    def __init__(
        self, fs: FileSystem, names: WrittenNames, owner: os.stat_result, options: WriteOptions
    ) -> None:
        self._fs = fs
        self._names = names
        self._disk = Disk(fs, owner, options)
        self._queues: dict[bytes, GroupCommit[tuple[Mailbox, _Names, bytes], bool]] = {}

    async def record(self, box: Mailbox, uid: int, name: bytes) -> None:
        """From now on *uid* has this name (which another message may have had until now).

        :raises OSError: it can't be written; the name holds as long as the mount.
        """
        if box.guid is None:
            return
        names = self._names.put(box, uid, name)
        if self._names.directory is None:
            return
        queue = self._queues.get(box.guid)
        if queue is None:
            queue = self._queues[box.guid] = GroupCommit(self._commit)
        await queue.run(Request((box, names, encode_line(box.uid_validity, uid, name))))

    async def _commit(self, group: Sequence[_Line]) -> None:
        box, names, _ = group[-1].what
        assert box.guid is not None
        assert self._names.directory is not None
        lines = b"".join(request.what[2] for request in group)
        path = os.path.join(self._names.directory, box.guid.hex())
        names.lines += len(group)
        if names.rewrite or names.has_grown or not await self._append(path, names, lines):
            await self._rewrite(path, names)
        for request in group:
            request.result = True

    async def _append(self, path: str, names: _Names, lines: bytes) -> bool:
        """Append to the file; False: there is none."""
        names.rewrite = True  # if this fails, there may be a torn line
        try:
            await self._disk.append_to(path, lines)
        except FileNotFoundError:
            return False
        names.rewrite = False
        return True

    async def _rewrite(self, path: str, names: _Names) -> None:
        await self._disk.make_dirs(os.path.dirname(path))
        lines = [encode_line(names.validity, uid, name) for uid, name in sorted(names.by_uid.items())]
        permissions = self._disk.file_permissions
        async with self._fs.create(path, CreateMode.REPLACE_IF_EXISTS, permissions) as handle:
            await handle.write_all(b"".join(lines))
            await handle.commit_async()
        names.lines, names.rewrite = len(lines), False
