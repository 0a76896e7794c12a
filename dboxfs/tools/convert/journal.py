"""The journal of a conversion: what is on disk already, so that an interrupted one goes on from there.

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
``shared``: messages that the source has in several places.  ``told``: messages that are carried over, and
what is wrong with them.  ``done``: the mailbox's index is on disk.  ``publish``: all is, and what is left is
renaming.

A line without its end was being written when the writer died, and doesn't count; it is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
    """A message that others will refer to: its mailbox (sdbox) and uid or map uid, and its guid.

    ``trouble``: what is wrong with its text, one line; empty: nothing.
    """

    mailbox: str
    ref: int
    guid: str
    trouble: str = ""


@dataclass(slots=True)
class Batch:
    """What one ``mailbox`` line says."""

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


@dataclass(frozen=True, slots=True)
class Head:
    """What is converted into what.  ``fingerprints``: of each mailbox when the conversion began."""

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
    """The open and locked journal.  :meth:`load` first; then the others.

    :param durable: wait for the disk.
    :ivar head: None until :meth:`begin`, or what an interrupted conversion wrote.
    """

    def __init__(self, file: AppendFile, *, durable: bool) -> None:
        self.head: Head | None = None
        self.publishing = False
        self._lines = LineJournal(file, durable=durable)

    async def load(self, batch: Callable[[Batch], None], done: Callable[[str], None]) -> None:
        """Read what is there, and cut off a line that was not finished.

        :param batch: called with what each ``mailbox`` line says.
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
        """Messages are written; :meth:`commit` makes that count."""
        self._lines.add(batch.encode())

    def finish(self, mailbox: str) -> None:
        """A mailbox is written, with its index; :meth:`commit` makes that count."""
        self._lines.add({"done": mailbox})

    async def publish(self) -> None:
        """Everything is on disk."""
        self.publishing = True
        self._lines.add({"publish": True})
        await self.commit()

    async def commit(self) -> None:
        """First all that was written, then the lines that say so: both on disk when this returns."""
        await self._lines.commit()

    async def close(self) -> None:
        """Give the file and its lock back."""
        await self._lines.close()


def journal_path(root: str) -> str:
    """Where the journal of the destination *root* is."""
    return os.path.join(root, UNFINISHED)
