"""Message files that stay open because a program may be about to read them: an expunge unlinks them.

A mount whose kernel sends no OPEN learns from the first READ that a message is open.  The message may be
expunged, replaced or moved before that.  The mount sees an open(2) only if the kernel asks for the name
(LOOKUP).  So the files of the last :data:`MOST_HELD` messages of the store that were looked up stay open
until the kernel forgets the inode.  A name that the kernel has from a listing is opened without a request:
such a message is lost if it is expunged before its first READ.

Files are held only if the caller requests it (``HeldFiles.wanted``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from dboxfs.errors import CorruptFile, FormatError, NoSuchMessage
from dboxfs.fsapi import FileSystem, Handle
from dboxfs.store.attrs import Uids
from dboxfs.store.backend import OpenRecord, Places
from dboxfs.store.stored_record import HEAD, TAIL, Record, file_header, parse_record

MOST_HELD = 256
"""Files that are held open, of all mailboxes together."""

MOST_HELD_BYTES = 256 << 20
"""The bytes of the files that are held open: a deleted file takes disk space as long as it is held."""


class _Held:
    """An open file of *size* bytes, and the number of its users."""

    __slots__ = ("handle", "path", "size", "users")

    def __init__(self, path: str, handle: Handle, size: int) -> None:
        self.path = path
        self.handle = handle
        self.size = size
        self.users = 1

    def release(self) -> None:
        """One user less; the last one closes the file."""
        self.users -= 1
        if not self.users:
            self.handle.close()


_Key = tuple[object, int]


class HeldFiles:
    """The held files of a whole store, the one that was not looked up for the longest time first.

    :ivar wanted: whether files are to be held.
    """

    def __init__(self, fs: FileSystem) -> None:
        self.wanted = False
        self._fs = fs
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: _Key) -> _Held | None:
        """The file held for *key*."""
        return self._held.get(key)

    async def hold(self, key: _Key, paths: list[str]) -> None:
        """Hold the first of *paths* that is there.

        :raises FileNotFoundError: none of them is.
        :raises OSError: it can't be opened.
        """
        if key in self._held:
            self._held.move_to_end(key)
            return
        opened = await self._opened(paths)
        if key in self._held:  # meanwhile
            opened.release()
            return
        self._held[key] = opened
        self._bytes += opened.size
        while len(self._held) > MOST_HELD or (self._bytes > MOST_HELD_BYTES and len(self._held) > 1):
            self.forget(next(iter(self._held)))

    async def _opened(self, paths: list[str]) -> _Held:
        for path in paths:
            handle = self._fs.open(path, nofollow=True)
            try:
                size = (await handle.wait_open()).st_size
            except BaseException as exc:
                handle.close()
                if path is paths[-1] or not isinstance(exc, FileNotFoundError):
                    raise
            else:
                return _Held(path, handle, size)
        raise AssertionError("unreachable")

    def forget(self, key: _Key) -> None:
        """Stop holding the file of *key*."""
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held.size
            held.release()

    def forget_all(self, owner: object) -> None:
        """Stop holding all files of a mailbox."""
        for key in [key for key in self._held if key[0] is owner]:
            self.forget(key)

    def close(self) -> None:
        """Stop holding all files."""
        for key in list(self._held):
            self.forget(key)


class DepartedHeldFiles:
    """The held files of one mailbox.

    :param paths: where the file of a message may be.
    """

    def __init__(self, held: HeldFiles, paths: Callable[[int], list[str]]) -> None:
        self._files = held
        self._paths = paths

    @property
    def wanted(self) -> bool:
        """Whether expunged messages are to stay readable."""
        return self._files.wanted

    async def hold(self, uid: int) -> None:
        """Hold the file of a message that a program is about to open: the message stays readable after an
        expunge.

        :raises NoSuchMessage: its file is gone.
        """
        if not self.wanted:
            return
        try:
            await self._files.hold((self, uid), self._paths(uid))
        except FileNotFoundError as exc:
            raise NoSuchMessage(f"{self._paths(uid)[0]}: no such file") from exc
        except OSError:
            return  # its READ tells

    def note(self) -> Places | None:
        """None: an expunged message has no place in an sdbox."""
        return None

    async def keep(self, expunged: Uids, places: Places) -> None:
        """Do nothing: the files that are held stay held."""

    async def open(self, uid: int) -> OpenRecord | None:
        """The record of a message that is gone; None: its file is not held.

        :raises CorruptFile, OSError: it can't be read.
        """
        held = self._files.get((self, uid))
        if held is None:
            return None
        held.users += 1
        try:
            record = await read_record(held.handle, held.path)
        except BaseException:
            held.release()
            raise
        return OpenRecord(held.handle, held.path, record, held.release)

    def forget(self, uid: int) -> None:
        """Stop holding the file of a message that no program has open."""
        self._files.forget((self, uid))

    def close(self) -> None:
        """Stop holding the files of this mailbox."""
        self._files.forget_all(self)


async def read_record(handle: Handle, path: str) -> Record:
    """The record in an open message file.

    :raises CorruptFile: it is damaged.
    :raises OSError: it can't be opened or read.
    """
    size = (await handle.wait_open()).st_size
    try:
        head = await handle.read(HEAD, 0)
        header = file_header(head)
        if len(head) < header.size + HEAD - 50:
            head = await handle.read(header.size + HEAD, 0)
        tail_offset = max(0, size - TAIL)
        while True:
            tail = await handle.read(size - tail_offset, tail_offset)
            found = parse_record(
                memoryview(head)[header.size :], memoryview(tail), tail_offset, header.size, size,
                header=header, whole=False,
            )  # fmt: skip
            if isinstance(found, Record):
                return found
            tail_offset = found.offset
    except FormatError as exc:
        raise CorruptFile(path, exc.offset, exc.reason) from exc
