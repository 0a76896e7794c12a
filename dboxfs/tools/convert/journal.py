"""The journal of a conversion: it names the data that are on disk, so that an interrupted one can go on.

A file of lines, one JSON object each, at the destination's root.  While it is there the destination is not
a store (or not known to be whole)::

    {"convert": 1, "source": ROOT, "format": KIND, "version": N, "began": SECONDS,
     "fingerprints": {NAME: HEX}}
    {"mailbox": NAME, "rows": [[uid, ref, saved, guid]], "stored": [[file_id, offset, size]],
     "shared": {KEY: [place, ref, guid, TROUBLE]}, "failed": [[uid, REASON]], "told": [[uid, TROUBLE]],
     "encrypted": [uid]}
    {"done": NAME}
    {"publish": true}

A ``mailbox`` line is written when the messages that it names are on disk (one sync of the whole file system
for many of them).  ``ref`` is the map uid in an mdbox, 0 in an sdbox; ``stored`` are the next map records.
``shared``: messages that the source has in several places.  ``told``: messages that were carried over in
spite of a problem.  ``done``: the mailbox's index is on disk.  ``publish``: everything is on disk; only the
renames are left.

A line without a line end was being written when the writer died.  It doesn't count and is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, field

from dboxfs.store.disk import AppendFile
from dboxfs.store.location import UNFINISHED
from dboxfs.tools.line_journal import LineJournal


class DestinationRow(NamedTuple):
    """A message that the destination has.  ``guid``: 32 hex digits.  ``saved``: seconds since the epoch."""

    uid: int
    ref: int
    saved: int
    guid: str


class StoredPlace(NamedTuple):
    """Where an mdbox has a message: bytes; size 0: 4 GiB or more."""

    file_id: int
    offset: int
    size: int


class SharedMessage(NamedTuple):
    """A message that other places refer to: its mailbox (sdbox) and uid or map uid, and its guid.

    ``trouble``: the problem of its text, one line; empty: none.
    """

    mailbox: str
    ref: int
    guid: str
    trouble: str = ""


class Batch(Struct):
    """The contents of one ``mailbox`` line."""

    mailbox: str
    rows: list[DestinationRow] = field(default_factory=list)
    stored: list[StoredPlace] = field(default_factory=list)
    shared: dict[str, SharedMessage] = field(default_factory=dict)
    failed: list[tuple[int, str]] = field(default_factory=list)
    told: list[tuple[int, str]] = field(default_factory=list)
    encrypted: list[int] = field(default_factory=list)

    def encode(self) -> dict[str, object]:
        return {
            "mailbox": self.mailbox,
            "rows": self.rows,
            "stored": self.stored,
            "shared": self.shared,
            "failed": self.failed,
            "told": self.told,
            "encrypted": self.encrypted,
        }

    @classmethod
    def decode(cls, line: Mapping[str, Any]) -> Batch:
        return cls(
            line["mailbox"],
            [DestinationRow(*row) for row in line["rows"]],
            [StoredPlace(*place) for place in line["stored"]],
            {key: SharedMessage(*value) for key, value in line["shared"].items()},
            [(uid, reason) for uid, reason in line["failed"]],
            [(uid, trouble) for uid, trouble in line.get("told", ())],
            list(line.get("encrypted", ())),
        )


class Head(Struct, frozen=True):
    """Source and format of a conversion.  ``fingerprints``: of each mailbox when the conversion began."""

    source: str
    kind: str
    version: int
    began: int
    fingerprints: Mapping[str, str]

    def encode(self) -> dict[str, object]:
        return {
            "convert": 1,
            "source": self.source,
            "format": self.kind,
            "version": self.version,
            "began": self.began,
            "fingerprints": dict(self.fingerprints),
        }

    @classmethod
    def decode(cls, line: Mapping[str, Any]) -> Head:
        return cls(line["source"], line["format"], line["version"], line["began"], line["fingerprints"])


class Journal:
    """The open and locked journal.  Call :meth:`load` first, then the others.

    :param durable: a commit waits for the disk.
    :ivar head: None until :meth:`begin`; :meth:`load` sets it to that of an interrupted conversion.
    """

    def __init__(self, file: AppendFile, *, durable: bool) -> None:
        self.head: Head | None = None
        self.publishing = False
        self._lines = LineJournal(file, durable=durable)

    async def load(self, batch: Callable[[Batch], None], done: Callable[[str], None]) -> None:
        """Read the lines, and cut off one that was not finished.

        :param batch: called with the contents of each ``mailbox`` line.
        :param done: called with the name of each mailbox that is finished.
        :raises CorruptFile: a line that no conversion has written.
        """
        await self._lines.load(lambda line: self._take(line, batch, done), "conversion")

    def _take(
        self, line: Mapping[str, Any], batch: Callable[[Batch], None], done: Callable[[str], None]
    ) -> None:
        if "convert" in line:
            self.head = Head.decode(line)
        elif "mailbox" in line:
            batch(Batch.decode(line))
        elif "done" in line:
            done(line["done"])
        else:
            self.publishing = bool(line["publish"])

    async def begin(self, head: Head) -> None:
        """Write the first line."""
        self.head = head
        self._lines.add(head.encode())
        await self.commit()

    def add(self, batch: Batch) -> None:
        """Note that messages were written; it counts from the next :meth:`commit` on."""
        self._lines.add(batch.encode())

    def finish(self, mailbox: str) -> None:
        """Note that a mailbox and its index were written; it counts from the next :meth:`commit` on."""
        self._lines.add({"done": mailbox})

    async def publish(self) -> None:
        """Write the line that everything is on disk, and commit."""
        self.publishing = True
        self._lines.add({"publish": True})
        await self.commit()

    async def commit(self) -> None:
        """Sync all written data, then the lines about them: both are on disk when this returns."""
        await self._lines.commit()

    async def close(self) -> None:
        """Close the file, which releases its lock."""
        await self._lines.close()


def journal_path(root: str) -> str:
    """The path of the journal of the destination *root*."""
    return os.path.join(root, UNFINISHED)
