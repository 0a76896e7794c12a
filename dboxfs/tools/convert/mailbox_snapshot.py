"""A mailbox at one moment, as far as a conversion keeps it: copied columns of its index.

A :class:`MailboxSnapshot` is taken once for each mailbox and doesn't change when the source does.  Two
snapshots with the same :attr:`~MailboxSnapshot.fingerprint` show the same mailbox: messages, flags, keywords,
dates and numbers count; the cache, modseqs and ``\\Recent`` don't, because a client that looks at a mailbox
changes them.

Messages whose expunge was requested are left out: Dovecot executes such a request before it shows the
mailbox again.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.index.columns import ByteArray, UidArray
from dboxfs.index.extensions import KEYWORDS, MODSEQ
from dboxfs.index.log import USER_FLAGS
from dboxfs.index.mailbox import POP3_UIDL, guids, mailbox_header, map_uids, save_dates
from dboxfs.index.state import IndexState

_DAYS = slice(84, 120)


class MailboxSnapshot(Struct, frozen=True, eq=False):
    """One mailbox.  Columns have one row a message, ascending by uid.

    ``days``: day_stamp and day_first_uid of the base header.  ``header_flags``: whether messages have P and
    O lines.  ``pop3_uidl``: data of that extension's header.  ``keyword_names``: all of the index, in their
    order; ``keywords``: bitmasks, uint8[n, width].  ``modseqs``: uint64[n] as stored (0: not set), None: not
    tracked. ``map_uids``, ``save_dates`` (seconds), ``guids`` (uint8[n, 16]): of an mdbox, else None.
    """

    name: str
    guid: bytes
    uid_validity: int
    next_uid: int
    first_recent_uid: int
    highest_modseq: int
    days: bytes
    header_flags: int
    pop3_uidl: bytes | None
    uids: UidArray
    flags: ByteArray
    keyword_names: tuple[bytes, ...]
    keywords: ByteArray | None
    modseqs: npt.NDArray[np.uint64] | None
    map_uids: npt.NDArray[np.uint32] | None
    save_dates: npt.NDArray[np.uint32] | None
    guids: ByteArray | None

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def fingerprint(self) -> str:
        """Hex digits that are equal for equal mailboxes."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(struct.pack("<16sIIB", self.guid, self.uid_validity, self.next_uid, self.header_flags))
        words, bits = self._used_keywords()
        for text in (self.name.encode("utf-8", "surrogateescape"), *words):
            digest.update(struct.pack("<I", len(text)) + text)
        for column in (self.uids, self.flags, bits, self.save_dates, self.guids):
            data = b"" if column is None else np.ascontiguousarray(column).tobytes()
            digest.update(struct.pack("<Q", len(data)) + data)
        return digest.hexdigest()

    def _used_keywords(self) -> tuple[list[bytes], ByteArray | None]:
        """The keywords that some message has, and a column for each."""
        if self.keywords is None or not len(self.keywords):
            return [], None
        bits = np.unpackbits(self.keywords, axis=1, bitorder="little")[:, : len(self.keyword_names)]
        used = np.flatnonzero(bits.any(axis=0))
        return [self.keyword_names[column] for column in used.tolist()], bits[:, used]


def take_portrait(name: str, state: IndexState) -> MailboxSnapshot:
    """Copy the parts of *state* that a conversion needs."""
    header = mailbox_header(state)
    pending = state.pending_expunges
    rows = np.arange(len(state))
    if len(pending):
        rows = rows[~np.isin(state.uids, pending)]

    def column(name: str) -> ByteArray | None:
        found = state.column(name)
        return None if found is None else found[rows].copy()

    modseqs = column(MODSEQ)
    numbers, dates = map_uids(state), save_dates(state)
    names = guids(state)
    return MailboxSnapshot(
        name=name,
        guid=header.guid if header is not None else bytes(16),
        uid_validity=state.uid_validity,
        next_uid=state.next_uid,
        first_recent_uid=state.first_recent_uid,
        highest_modseq=state.highest_modseq,
        days=state.base_header[_DAYS],
        header_flags=header.flags if header is not None else 0,
        pop3_uidl=state.header_data(POP3_UIDL),
        uids=state.uids[rows].copy(),
        flags=state.flags[rows] & np.uint8(USER_FLAGS),
        keyword_names=tuple(word.encode("utf-8", "surrogateescape") for word in state.keyword_names()),
        keywords=column(KEYWORDS),
        modseqs=modseqs.view("<u8").reshape(-1) if modseqs is not None and modseqs.shape[1] == 8 else None,
        map_uids=numbers[rows].copy() if numbers is not None else None,
        save_dates=dates[rows].copy() if dates is not None else None,
        guids=names[rows].copy() if names is not None else None,
    )
