"""The control directory ``.dboxfs``: files about the mount itself, made when they are opened.

It is found by name and never listed, so that no backup, ``find`` or ``grep -r`` walks into it.  Its files
have no size (like those in /proc): they are read to their end, past the kernel's cache.  In a mount without
OPEN (:mod:`dboxfs.vfs.unopened`) they have a size: each lookup makes a snapshot with an inode of its own.

* ``stats.json``: health first, then counters since the mount was made, and current values.
* ``metrics``: the same in the text format of Prometheus (:mod:`dboxfs.vfs.metrics`).
* ``locks``: the file locks that the daemon holds, each a line: kind, how, path.
* ``store.json``: the location, every folder with its mailbox's identity and counts, and damage.
* ``events``: a stream with a line for each change (:mod:`dboxfs.vfs.events`).
* ``restore.json``, ``commit`` (``-o restore``): the report of a restore; a write to ``commit`` commits all.
* ``unseen/``, ``flagged/``, ``keyword/``, ``since/``: links (:mod:`dboxfs.vfs.searches`).
* ``parts/``: the decoded parts of messages (:mod:`dboxfs.vfs.parts`).
* ``raw/``: the files of the store as they are on disk (:mod:`dboxfs.vfs.raw`).
* ``deleted/``: messages that are expunged and not purged (:mod:`dboxfs.vfs.deleted`, mdbox).
"""

from __future__ import annotations

import errno
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

from dboxfs.vfs.attrs import Attributes, Attrs
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.listing import ListingRow
from dboxfs.vfs.node import CONTROL, FIRST_CONTROL_FILE, UID_MASK
from dboxfs.vfs.waiting import Wake

NAME = b".dboxfs"

_FIRST_SNAPSHOT = 1 << 16

Maker = Callable[[], Mapping[str, object] | str]
"""Makes the content of a file: text, or a mapping for JSON."""

SNAPSHOTS = 64
"""Snapshots of control files that are kept, for programs that read them piece by piece."""


class OpenControlFile:
    """An open control file: its content at the time of the open."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, size: int, offset: int) -> bytes:
        return self._content[offset : offset + size]

    async def write(self, data: bytes, offset: int) -> int:
        raise Refused(errno.EBADF)

    async def flush(self) -> None:
        """Does nothing: nothing was written."""

    async def fsync(self) -> None:
        """Does nothing: nothing was written."""

    async def release(self) -> None:
        """Does nothing: it holds no resources."""


class OpenCommand(OpenControlFile):
    """A control file whose write carries a command out.

    write(2) reports its error, not close(2): a shell (``echo > file``) doesn't look at the error of close.
    """

    __slots__ = ("_command",)

    def __init__(self, command: Callable[[], Awaitable[object]]) -> None:
        super().__init__(b"")
        self._command = command

    async def write(self, data: bytes, offset: int) -> int:
        await self._command()
        return len(data)


class ControlStream(Protocol):
    """A control file that grows at its end; each of its inode numbers is a beginning of it."""

    def inode(self) -> int:
        """The inode number of the file that begins with its oldest line now."""

    def knows(self, inode: int) -> bool:
        """Whether a number is one of its own."""

    def size(self, inode: int) -> int:
        """Bytes from the beginning of *inode* on."""

    def read(self, inode: int, size: int, offset: int) -> bytes:
        """Bytes at an offset from the beginning of *inode*."""

    def has_more(self, inode: int, offset: int) -> bool:
        """Whether there are bytes from an offset on."""

    def read_to(self, inode: int) -> int:
        """The highest offset up to which any process has read."""

    def wake_later(self, wake: Wake) -> None:
        """Call *wake* when there is more."""


class OpenStream(OpenControlFile):
    """An open stream; new lines can be read from it as they come."""

    __slots__ = ("_inode", "_read_to", "_stream")

    def __init__(self, stream: ControlStream, inode: int) -> None:
        super().__init__(b"")
        self._stream = stream
        self._inode = inode
        self._read_to = 0

    async def read(self, size: int, offset: int) -> bytes:
        data = self._stream.read(self._inode, size, offset)
        self._read_to = offset + len(data)
        return data

    def is_ready(self, wake: Wake | None) -> bool:
        """Whether the stream has bytes behind those that were read last."""
        return is_ready(self._stream, self._inode, self._read_to, wake)


def is_ready(stream: ControlStream, inode: int, offset: int, wake: Wake | None) -> bool:
    """Whether a stream has bytes from an offset on; else *wake* is called when it has."""
    if stream.has_more(inode, offset):
        return True
    if wake is not None:
        stream.wake_later(wake)
    return False


class OpenControlDirectory:
    """The control directory, opened.

    :param directories: name -> attributes of its directories.
    """

    def __init__(
        self, files: Mapping[bytes, int], attributes: Attributes, directories: Mapping[bytes, Attrs]
    ) -> None:
        self._entries = [(name, attributes.control_file(inode)) for name, inode in files.items()]
        self._entries += directories.items()
        self._attributes = attributes

    async def prepare(self, start: int) -> None:
        """Does nothing: the entries never change."""

    def above(self, start: int) -> Iterator[tuple[int, bytes, Attrs]]:
        for position, (name, attrs) in enumerate(self._entries[start:], start + 1):
            yield position, name, attrs

    async def sizes(self, start: int) -> None:
        """Does nothing: its files have no size."""

    def attributes(self) -> Attrs:
        return self._attributes.control_dir(CONTROL)

    def messages(self, start: int) -> Iterator[ListingRow]:
        return iter(())


class Control:
    """The files of the control directory, by name and by inode.

    :param makers: name of a file -> the maker of its content.
    :ivar makes_snapshots: each lookup makes a snapshot: a file of its own, with a size.
    """

    def __init__(self, makers: Mapping[bytes, Maker]) -> None:
        self.files = {name: FIRST_CONTROL_FILE + i for i, name in enumerate(makers)}
        self._makers: dict[int, Maker]
        self._makers = dict(zip(self.files.values(), makers.values(), strict=True))
        self.makes_snapshots = False
        self._snapshots: OrderedDict[int, bytes] = OrderedDict()
        self._next_snapshot = _FIRST_SNAPSHOT
        self._commands: dict[int, Callable[[], Awaitable[object]]] = {}
        self._streams: dict[bytes, ControlStream] = {}

    def streams(self, name: bytes, stream: ControlStream) -> None:
        """Add a file that grows."""
        self.files[name] = FIRST_CONTROL_FILE + len(self.files)
        self._streams[name] = stream

    def listed(self) -> Mapping[bytes, int]:
        """The inode of each file, for a listing; of a stream the one that begins with its oldest line now."""
        return {name: self._streams[name].inode() if name in self._streams else inode
                for name, inode in self.files.items()}  # fmt: skip

    def stream_of(self, inode: int) -> ControlStream | None:
        """The stream that an inode number belongs to; None: it belongs to another file."""
        return next((stream for stream in self._streams.values() if stream.knows(inode)), None)

    def serve(self, name: bytes, maker: Maker) -> None:
        """Add a file with the content that *maker* gives."""
        self.files[name] = inode = FIRST_CONTROL_FILE + len(self.files)
        self._makers[inode] = maker

    def commands(self, name: bytes, command: Callable[[], Awaitable[object]]) -> None:
        """Add a file; a write to it carries *command* out."""
        self.serve(name, dict)
        self._commands[self.files[name]] = command

    def command(self, inode: int) -> OpenCommand | None:
        """The file *inode*, opened for writing; None: it can't be written to."""
        command = self._commands.get(inode)
        return OpenCommand(command) if command is not None else None

    def is_command(self, inode: int) -> bool:
        """Whether a program may write to the file."""
        return inode in self._commands

    def lookup(self, name: bytes) -> int:
        """The inode of the file called *name*.

        :raises Refused: ENOENT: there is no such file.
        """
        if name in self._streams:
            return self._streams[name].inode()
        inode = self.files.get(name)
        if inode is None:
            raise Refused(errno.ENOENT)
        if not self.makes_snapshots:
            return inode
        snapshot = self._next_snapshot
        self._next_snapshot = snapshot + 1 if snapshot < UID_MASK else _FIRST_SNAPSHOT
        self._snapshots[snapshot] = self._content(inode)
        if len(self._snapshots) > SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return snapshot

    def size(self, inode: int) -> int:
        """Bytes of a snapshot, or of a stream; 0 of any other file."""
        stream = self.stream_of(inode)
        return stream.size(inode) if stream is not None else len(self._snapshots.get(inode, b""))

    def read(self, inode: int, size: int, offset: int) -> bytes:
        """Bytes of a snapshot.

        :raises Refused: ESTALE: it was made too long ago.
        """
        stream = self.stream_of(inode)
        if stream is not None:
            return stream.read(inode, size, offset)
        content = self._snapshots.get(inode)
        if content is None:
            raise Refused(errno.ESTALE)
        return content[offset : offset + size]

    def open(self, inode: int) -> OpenControlFile:
        """Open the file *inode* with its current content.

        :raises Refused: ENOENT: there is no such file.
        """
        stream = self.stream_of(inode)
        return OpenControlFile(self._content(inode)) if stream is None else OpenStream(stream, inode)

    def _content(self, inode: int) -> bytes:
        maker = self._makers.get(inode)
        if maker is None:
            raise Refused(errno.ENOENT)
        content = maker()
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        return text.encode("utf-8", "backslashreplace")
