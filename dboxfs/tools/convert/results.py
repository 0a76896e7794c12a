"""Progress and result of a conversion, and the list of messages that it has on disk of one mailbox."""

from __future__ import annotations

from array import array

import numpy as np
from msgspec import Struct, field

from dboxfs.tools.convert.journal import Batch
from dboxfs.tools.convert.newindexes import NewRows


class ConvertProgress(Struct, frozen=True):
    """The progress of a conversion.  ``verifying``: it compares the destination with the source.

    ``messages``: of this run and of the earlier runs that it continues, out of ``of``; ``bytes``: stored
    bytes of this run.
    """

    messages: int
    of: int
    bytes: int
    verifying: bool = False


class Converted(Struct):
    """The result of a conversion.

    ``failed``: a line for each message or mailbox that was left out; ``told``: a line for each that was
    carried over in spite of a problem.  ``finished``: an earlier run had finished the conversion.
    ``verified``: number of compared messages; None: not compared.  ``encrypted``: uids of messages whose
    ciphertext was kept, by mailbox.  ``hidden``: a line for each reason why the source may have mail that it
    doesn't show.
    """

    mailboxes: int = 0
    messages: int = 0
    bytes: int = 0
    resumed: bool = False
    finished: bool = False
    verified: int | None = None
    failed: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    encrypted: dict[str, list[int]] = field(default_factory=dict)


class Collected(Struct):
    """The messages on disk of the mailbox that is being converted; columns with one entry a message."""

    uids: array[int] = field(default_factory=lambda: array("I"))
    refs: array[int] = field(default_factory=lambda: array("I"))
    saved: array[int] = field(default_factory=lambda: array("I"))
    guids: bytearray = field(default_factory=bytearray)
    last_uid: int = 0

    def add(self, batch: Batch) -> None:
        """Add the messages of a batch; those that were left out only count for ``last_uid``."""
        for row in batch.rows:
            self.uids.append(row.uid)
            self.refs.append(row.ref)
            self.saved.append(min(max(row.saved, 0), 0xFFFFFFFF))
            self.guids += bytes.fromhex(row.guid)
        self.last_uid = max([self.last_uid, *(row.uid for row in batch.rows), *(u for u, _ in batch.failed)])

    def rows(self) -> NewRows:
        """The columns from which the index is made."""
        guids = np.frombuffer(bytes(self.guids), np.uint8).reshape(-1, 16)
        uids, saved, refs = (np.array(column, np.uint32) for column in (self.uids, self.saved, self.refs))
        return NewRows(uids, saved, refs, guids)
