"""The protocol of a format, and functions with which all formats write.

A format writes each mailbox to a new path; the mailbox counts when the exporter has renamed it to its place.
A format writes through a :class:`~dboxfs.store.disk.Disk` without syncs: the journal makes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from dboxfs.fsapi import ops
from dboxfs.fsapi.chain import Steps
from dboxfs.store import Folder
from dboxfs.store.disk import Disk, check_appended
from dboxfs.store.mailbox_names import NameCoding, encode_mutf7
from dboxfs.tools.exporting.errors import NoPlace
from dboxfs.tools.exporting.message import Outgoing


class BoxFacts(Struct, frozen=True):
    """A mailbox to be written.  ``guid``: 16 bytes.  ``keywords``: those that messages have."""

    folder: Folder
    shown: str
    guid: bytes
    uid_validity: int
    next_uid: int
    keywords: Sequence[str]
    subscribed: bool


class MailboxWriter(Protocol):
    """One mailbox that is being written."""

    async def put(self, message: Outgoing) -> str:
        """Write a message; returns a line about the parts that the format can't hold, or an empty string.

        :raises DboxfsError: the message can't be read; nothing of it was written.
        :raises OSError: the target can't be written.
        """

    async def close(self, *, done: bool) -> None:
        """End the mailbox: all messages were put (*done*), or the caller gives up."""


class Format(Protocol):
    """One of the formats.  Its methods are called one at a time."""

    def place(self, folder: Folder) -> str:
        """The path of a mailbox below the target's root; empty: its files lie in the root itself.

        :raises NoPlace: the format can't hold its name.
        """

    async def begin(self, disk: Disk, path: str, box: BoxFacts) -> MailboxWriter:
        """Begin a mailbox at *path*, which does not exist yet; the directory above does."""

    async def finish(
        self, disk: Disk, root: str, boxes: Sequence[BoxFacts], subscriptions: Iterable[str]
    ) -> None:
        """Write everything else that belongs into *root*, after all mailboxes.

        :param subscriptions: storage names.
        """

    def advice(self, root: str) -> list[str]:
        """Lines for the user: how to set up a Dovecot for *root*."""


def mutf7_parts(folder: Folder, *, coding: NameCoding) -> list[bytes]:
    """The parts of a storage name in modified UTF-7, as Dovecot has them in every format.

    :raises NoPlace: a part can't be written so.
    """
    return [mutf7_part(part, coding=coding) for part in folder.name.split("/")]


def mutf7_part(part: str, *, coding: NameCoding) -> bytes:
    """One part of a storage name in modified UTF-7.

    :raises NoPlace: the part can't be written so.
    """
    raw = coding.plain(os.fsencode(part))
    if raw is not None and not coding.utf8:
        return raw
    try:
        return encode_mutf7((raw or b"\xff").decode("utf-8"))
    except ValueError:
        raise NoPlace(f"{coding.display(part)}: no name in modified UTF-7; rename it first") from None


async def write_file(
    disk: Disk, path: str, message: Outgoing, mtime: int, xattrs: Mapping[str, bytes] | None = None
) -> None:
    """Write a new file with the text of a message; a small one in one hop.

    :param mtime: seconds since the epoch.
    :raises DboxfsError: the text can't be read; the file was removed again.
    :raises OSError: the file can't be written.
    """
    attributes = [ops.SetXattr(path, name, value) for name, value in (xattrs or {}).items()]
    data = message.data
    if data is not None:

        def program() -> Steps[None]:
            opened = yield ops.Create(path, disk.file_permissions)
            try:
                if data:
                    check_appended((yield ops.Append(opened.fd, (data,))), len(data), path)
                yield ops.SetTimes(opened.fd, mtime * 10**9)
            finally:
                yield ops.Close(opened.fd)
            yield from attributes

        await disk.chain(program)
        return
    file = await disk.create(path)
    try:
        await message.write_to(file.append)
        await disk.run(ops.SetTimes(file.fd, mtime * 10**9))
    except BaseException:
        await file.close()
        await disk.discard([path])
        raise
    await file.close()
    for op in attributes:
        await disk.run(op)
