"""Notes of intent: a writer's changes that are not acknowledged yet (PROTOCOL section 13).

A save leaves a ``u.N``, or a record in ``m.N`` and in the map, before the index record that makes it a
message; a move leaves the message in two mailboxes for a moment.  If the writer dies there, the note tells
the next writable mount that these files or records were that writer's and were never acknowledged.  Only then
may the mount remove them, or finish the move.

Other notes are promises: they name removals that were answered, but are only requests in the log until they
are executed (``promises``).  Dovecot forgets a request when it rebuilds the mailbox.

On disk a note is a file in the control directory.  Its name is ``dboxfs-note`` and the name of a temporary
file, which identifies the process.  Each line is the CRC-32 of the rest as 8 hex digits, a blank, the rest,
LF.  The rest of the first line is JSON.  Each further line is a promise: 40 hex digits, the bytes of the
request (uid as uint32, little endian, and guid; without a guid: zeros).  A change begins only after its note
is whole, so a torn note means nothing; a promise is answered only after its line, so a torn line means
nothing.  Notes are not synced: they are for the death of a process, not for a power failure.

A note is resolved only if its process is surely gone (``fsapi/temporary``), and only for the exact things
that it names: a mailbox with its guid, a file with its inode number, a record with the guid of its message.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import zlib
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict

from dboxfs.fsapi import Permissions, ops
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.temporary import Process, booted, is_left_over
from dboxfs.store.disk import Disk, check_appended
from dboxfs.store.evidence import NOTE

log = logging.getLogger(__name__)

_REQUEST = struct.Struct("<I16s")
"""An entry of an EXPUNGE_GUID record: uid and guid (mail-index-log section 3)."""


class Note(Struct, frozen=True):
    """A change that has begun.

    :param mailbox: storage name of the mailbox that gets messages; ``guid``: its guid, hex.
    :param files: sdbox: uid and inode number of each ``u.N`` that has no record yet.
    :param messages: mdbox: guids (hex) of messages whose records no mailbox has yet.
    :param source: a move: storage name of the mailbox that loses the messages; ``source_guid``: its guid.
    :param moved: a move: uid in the source, and the key that the copy shares: inode number (sdbox) or map uid
        (mdbox).
    :param first_uid: a move: uids of the copies are not below this.
    :param uid_validity: promises: the mailbox's.
    :param promised: uid and guid (16 bytes; zeros: not known) of each promised removal.
    """

    mailbox: str
    guid: str = ""
    files: tuple[tuple[int, int], ...] = ()
    messages: tuple[str, ...] = ()
    source: str = ""
    source_guid: str = ""
    moved: tuple[tuple[int, int], ...] = ()
    first_uid: int = 0
    uid_validity: int = 0
    promised: tuple[tuple[int, bytes], ...] = ()

    def encode(self) -> bytes:
        """The lines on disk."""
        values = asdict(self)
        del values["promised"]
        return _line(json.dumps(values, separators=(",", ":")).encode()) + self.promises()

    def promises(self) -> bytes:
        """The lines of the promised removals."""
        return b"".join(promise(_REQUEST.pack(uid, guid)) for uid, guid in self.promised)


def _line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def promise(request: bytes) -> bytes:
    """The line of a promised removal.

    :param request: its entry in an EXPUNGE_GUID record, 20 bytes.
    """
    return _line(request.hex().encode())


def parse_request(data: bytes) -> tuple[int, bytes]:
    """uid and guid of an entry of an EXPUNGE_GUID record, 20 bytes.

    :raises struct.error: another size.
    """
    uid, guid = _REQUEST.unpack(data)
    return uid, guid


def _checked(line: bytes) -> bytes | None:
    """The text of a line; None: it is damaged."""
    head, _, text = line.partition(b" ")
    return text if head == b"%08x" % zlib.crc32(text) else None


def parse_note(data: bytes) -> Note | None:
    """The note in *data*; None: it is torn."""
    first, *lines = data.split(b"\n")[:-1] or [b""]  # behind the last LF: nothing, or a torn line
    text = _checked(first)
    if text is None:
        return None
    requests = [found for found in map(_checked, lines) if found is not None]
    try:
        promised = tuple(parse_request(bytes.fromhex(found.decode("ascii"))) for found in requests)
        values = json.loads(text)
        pairs = {key: tuple((int(a), int(b)) for a, b in values[key]) for key in ("files", "moved")}
        messages = tuple(values["messages"])
        return Note(**{**values, **pairs, "messages": messages, "promised": promised})
    except (ValueError, KeyError, TypeError, struct.error):
        return None


def writing(path: str, note: Note, permissions: Permissions) -> Steps[None]:
    """Steps that write a note: the first part of the steps of the change.

    :raises OSError: the note could not be written.
    """
    data = note.encode()
    opened = yield ops.Create(path, permissions)
    try:
        check_appended((yield ops.Append(opened.fd, (data,))), len(data), path)
    finally:
        yield ops.Close(opened.fd)


class Notes:
    """The notes of one store.

    :param directory: the control directory.
    """

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._prepared = False

    def path(self) -> str:
        """A path for a new note, which :func:`writing` makes."""
        name = NOTE + os.path.basename(self._disk.temporary(self._directory))
        return os.path.join(self._directory, name)

    async def put(self, note: Note) -> str:
        """Write a note; gives its path for :meth:`drop`.

        :raises OSError: it could not be written; no note is left.
        """
        path = self.path()
        try:
            await self.prepare()
            await self._disk.chain(lambda: writing(path, note, self._disk.file_permissions))
        except OSError:
            await self.drop([path])
            raise
        return path

    async def prepare(self) -> None:
        """Make the control directory, unless this writer has done so already.

        :raises OSError: it can't be made.
        """
        if not self._prepared:
            await self._disk.make_dirs(self._directory)
            self._prepared = True

    async def drop(self, paths: Sequence[str]) -> None:
        """Remove notes whose change has ended or was taken back.  Never fails."""
        await self._disk.discard(paths)

    async def left(self) -> dict[str, Note | None]:
        """The notes of processes that are gone, by path; None: a torn one."""
        found: dict[str, Note | None] = {}
        here, since = Process.this(), booted()
        try:
            entries = await self._disk.run(ops.Listdir(self._directory, NOTE))
        except (FileNotFoundError, NotADirectoryError):
            return found
        for entry in entries:
            path = os.path.join(self._directory, entry.name)
            status = await self._disk.stat(path)
            if status is not None and is_left_over(entry.name.removeprefix(NOTE), status, here, since):
                data = await self._disk.read_whole(path)
                found[path] = parse_note(data) if data is not None else None
        return found
