"""mbox files as Dovecot has them; :mod:`dboxfs.tools.formats.mbox` is the format.

A mailbox is a file.  A mailbox with children would have to be a directory at the same time: if the store has
one, every mailbox but INBOX is a directory with a file ``mBoX-MeSsAgEs`` in it (``DIRNAME=``).  An mbox can't
hold guids, saved dates, the UIDVALIDITY of an empty mailbox, POP3 uidls, modseqs, header lines of a message
that have the names of the mbox's own, a message without an empty line behind its header.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from msgspec import Struct

from dboxfs.errors import DboxfsError
from dboxfs.store import Folder, Store
from dboxfs.store.disk import Disk
from dboxfs.store.mailbox_names import NameCoding
from dboxfs.tools.buffered_file import BufferedFile
from dboxfs.tools.exporting.errors import NoPlace
from dboxfs.tools.exporting.formats import BoxFacts, MailboxWriter, mutf7_parts
from dboxfs.tools.exporting.maildir import write_subscriptions
from dboxfs.tools.exporting.message import Outgoing
from dboxfs.tools.formats.mbox import FROM, OWN, encode_from_line, encode_own, header_name, parse_from_line
from dboxfs.tools.importing.mbox import DIRNAME

_LONGEST_HEADER = 16 << 20
_HEADER_PIECE = 64 << 10


def needs_directories(store: Store) -> bool:
    """Whether a mailbox of *store* has children, so that it can't be a file."""
    folders = store.folders.values()
    return any(
        folder.mailbox is not None and folder.children and folder.name != "INBOX" for folder in folders
    )


class MboxFormat(Struct, frozen=True):
    """Writes mbox files.  ``nested``: mailboxes are directories.  ``coding``: of the store's names."""

    nested: bool
    coding: NameCoding

    def place(self, folder: Folder) -> str:
        """The path of a mailbox (:class:`~dboxfs.tools.exporting.formats.Format`); INBOX: ``inbox``."""
        if folder.name == "INBOX":
            return "inbox"
        parts = mutf7_parts(folder, coding=self.coding)
        if any(part.startswith(b".") or part == DIRNAME.encode("ascii") for part in parts):
            raise NoPlace(f"{folder.name}: a directory of mboxes can't have such a name; rename it first")
        name = os.fsdecode(b"/".join(parts))
        if name.lower() == "inbox" or name.startswith("inbox/"):
            raise NoPlace(f"{folder.name}: INBOX is the file {name} there; rename the mailbox first")
        return os.path.join(name, DIRNAME) if self.nested else name

    async def begin(self, disk: Disk, path: str, box: BoxFacts) -> MailboxWriter:
        """Make an empty mbox file."""
        return _Mbox(box, BufferedFile(await disk.create(path), b""))

    async def finish(
        self, disk: Disk, root: str, boxes: Sequence[BoxFacts], subscriptions: Iterable[str]
    ) -> None:
        """Write the subscriptions."""
        await write_subscriptions(
            disk, os.path.join(root, ".subscriptions"), subscriptions, coding=self.coding
        )

    def advice(self, root: str) -> list[str]:
        """The mail location for a Dovecot."""
        more = f":DIRNAME={DIRNAME}:INDEX={root}.indexes" if self.nested else ""
        return [f"for Dovecot 2.3: mail_location = mbox:{root}:INBOX={root}/inbox{more}"]


class _Mbox(Struct):
    box: BoxFacts
    out: BufferedFile
    first: bool = True

    async def put(self, message: Outgoing) -> str:
        header, empty, body, trouble = await _header(message)
        base = (self.box.uid_validity, self.box.next_uid - 1, self.box.keywords) if self.first else None
        own = encode_own(message.uid, message.flags, message.keywords, message.size - body, base)
        start = self.out.end
        await self.out.append(encode_from_line(message.received) + header + own + empty)
        try:
            await message.write_to(self.out.append, body)
        except DboxfsError:
            await self.out.cut(start)
            raise
        await self.out.append(b"\n")
        self.first = False
        return trouble

    async def close(self, *, done: bool) -> None:
        try:
            if done:
                await self.out.flush()
        finally:
            await self.out.file.close()


class _NoHeader(DboxfsError):
    """The end of a message's header can't be found."""


async def _header(message: Outgoing) -> tuple[bytes, bytes, int, str]:
    """The header lines that an mbox can hold; the empty line; the offset of the body; a line about the lost
    or changed header lines, or an empty string.
    """
    kept: list[bytes] = []
    dropped: set[bytes] = set()
    trouble, dropping, offset = [], False, 0
    data = await message.read(_HEADER_PIECE, 0)
    while True:
        end = data.find(b"\n", offset)
        while end < 0 and len(data) < message.size:
            if len(data) >= _LONGEST_HEADER:
                raise _NoHeader(f"its header has more than {_LONGEST_HEADER} bytes")
            data += await message.read(len(data), len(data))
            end = data.find(b"\n", offset)
        line = data[offset : end + 1] if end >= 0 else data[offset:]
        offset += len(line)
        if line in (b"\n", b"\r\n", b""):
            if not line:
                trouble.append("its header had no empty line behind it: it has one now")
            break
        if line[:1] not in b" \t":
            dropping = header_name(line) in OWN and b":" in line
            if dropping:
                dropped.add(header_name(line))
        if not dropping:
            if line.startswith(FROM) and parse_from_line(line.rstrip(b"\n")) is not None:
                line = b">" + line
                trouble.append("a header line began like a message: it has a > before it")
            kept.append(line if line.endswith(b"\n") else line + b"\n")
    if dropped:
        words = ", ".join(sorted(name.decode("ascii") for name in dropped))
        trouble.append(f"an mbox has these header lines for itself, they were left out: {words}")
    return b"".join(kept), line or b"\n", offset, "; ".join(trouble)
