"""Makes whole index files of a mailbox or a map from columns.  Pure: values in, bytes out.

A converted mailbox gets a snapshot (``dovecot.index``) that holds everything, and a log with nothing but its
header, which begins where the snapshot ends.  So uids, next_uid, uidvalidity and modseqs stay the same,
without the log records that once led to them::

    dovecot.index      log_file_seq 2, head = tail = 40
    dovecot.index.log  file_seq 2, prev_file_seq 1, initial_modseq = highest modseq

The log looks like one that was rotated long ago.  (With prev_file_seq 0 Dovecot takes a log that is read from
its beginning for a new one, and drops the snapshot.)

The map is made in the same way.  In an sdbox a mailbox also gets a ``dovecot.index.cache`` with one field,
``date.save``: it is the only place besides the ctime of ``u.N``, which can't be set, where Dovecot keeps when
a message was saved (mail-cache).
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.index.base import encode_index
from dboxfs.index.cachefile import encode_saved_dates
from dboxfs.index.columns import ByteArray, UidArray
from dboxfs.index.extensions import CACHE, KEYWORDS, MODSEQ, Extension, encode_keywords, place_records
from dboxfs.index.log import HEADER_SIZE, LogHeader, encode_log_header
from dboxfs.index.mailbox import (
    MDBOX_HEADER,
    POP3_UIDL,
    SDBOX_HEADER,
    MailboxHeader,
    encode_mailbox_header,
)
from dboxfs.index.state import IndexState
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot

_FILE_SEQ = 2


class NewIndexFiles(Struct, frozen=True):
    """The files of one index: snapshot, log, and cache (None: it has none)."""

    snapshot: bytes
    log: bytes
    cache: bytes | None = None


class NewRows(Struct, frozen=True, eq=False):
    """The new columns of the messages that the destination has of a mailbox; one row a message.

    ``uids``: all of the portrait's, or some of them.  ``saved``: seconds since the epoch.  ``map_uids`` and
    ``guids`` (uint8[n, 16]): mdbox.
    """

    uids: UidArray
    saved: npt.NDArray[np.uint32]
    map_uids: npt.NDArray[np.uint32]
    guids: ByteArray


def mailbox_files(
    portrait: MailboxSnapshot, rows: NewRows, *, map_uid_validity: int | None, now: int
) -> NewIndexFiles:
    """The index of a mailbox.

    :param map_uid_validity: of the map of an mdbox; None: an sdbox.
    :param now: seconds since the epoch; indexid of the new index.
    """
    kept = np.isin(portrait.uids, rows.uids)
    parts = _Parts()
    if map_uid_validity is None:
        header = MailboxHeader(SDBOX_HEADER, portrait.guid, portrait.header_flags)
    else:
        header = MailboxHeader(
            MDBOX_HEADER, portrait.guid, portrait.header_flags, map_uid_validity=map_uid_validity
        )
    parts.add(header.kind, encode_mailbox_header(header))
    if map_uid_validity is not None:
        places = np.stack([rows.map_uids, rows.saved], axis=1).astype("<u4")
        parts.add("mdbox", b"", _bytes(places, 8), 4)
        parts.add("guid", b"", rows.guids, 1)
    if portrait.keyword_names and portrait.keywords is not None:
        parts.add(KEYWORDS, encode_keywords(portrait.keyword_names, 0), portrait.keywords[kept], 1)
    if portrait.pop3_uidl:
        parts.add(POP3_UIDL, portrait.pop3_uidl)
    if portrait.modseqs is not None:
        parts.add(MODSEQ, bytes(16), _bytes(portrait.modseqs[kept].astype("<u8"), 8), 8)
    cache: bytes | None = None
    if map_uid_validity is None and len(rows.uids):
        cache, offsets = encode_saved_dates(rows.saved, indexid=now, file_seq=now)
        parts.add(CACHE, b"", _bytes(offsets, 4), 4, reset_id=now)
    log = _log(now, portrait.highest_modseq)
    base = bytearray(IndexState.empty(log).base_header)
    struct.pack_into("<II", base, 24, portrait.uid_validity, portrait.next_uid)
    struct.pack_into("<I", base, 48, portrait.first_recent_uid)
    base[84:120] = portrait.days
    snapshot = parts.encode(base, rows.uids, portrait.flags[kept], portrait.highest_modseq)
    return NewIndexFiles(snapshot, encode_log_header(log), cache)


class MapRows(Struct, frozen=True, eq=False):
    """The stored messages of an mdbox: place (bytes) and reference count of each.

    ``map_uids``: ascending; None: 1, 2, 3 ...  ``next_map_uid``: above all that were ever given.
    """

    file_ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.uint32]
    refcounts: npt.NDArray[np.uint16]
    map_uids: npt.NDArray[np.uint32] | None = None
    next_map_uid: int = 0


def map_files(rows: MapRows, *, uid_validity: int, highest_file_id: int) -> NewIndexFiles:
    """The map of a storage."""
    parts = _Parts()
    places = np.stack([rows.file_ids, rows.offsets, rows.sizes], axis=1).astype("<u4")
    parts.add("map", struct.pack("<II", highest_file_id, 0), _bytes(places, 12), 4)
    parts.add("ref", b"", _bytes(rows.refcounts.astype("<u2"), 2), 2)
    log = _log(uid_validity, 1)
    base = bytearray(IndexState.empty(log).base_header)
    count = len(rows.file_ids)
    struct.pack_into("<II", base, 24, uid_validity, rows.next_map_uid or count + 1)
    uids = np.arange(1, count + 1, dtype=np.uint32) if rows.map_uids is None else rows.map_uids
    return NewIndexFiles(parts.encode(base, uids, np.zeros(count, np.uint8), 1), encode_log_header(log))


def _log(now: int, modseq: int) -> LogHeader:
    """The header of a log that continues one which is gone."""
    return LogHeader(now, _FILE_SEQ, _FILE_SEQ - 1, HEADER_SIZE, create_stamp=now, initial_modseq=modseq)


def _bytes(column: npt.NDArray[np.generic], width: int) -> ByteArray:
    return np.ascontiguousarray(column).view(np.uint8).reshape(-1, width)


class _Parts:
    """The extensions of an index that is being made, in order."""

    def __init__(self) -> None:
        self._extensions: list[Extension] = []
        self._columns: list[ByteArray | None] = []

    def add(
        self, name: str, hdr: bytes, column: ByteArray | None = None, align: int = 0, *, reset_id: int = 0
    ) -> None:
        width = column.shape[1] if column is not None else 0
        self._extensions.append(Extension(name, hdr, reset_id, 0, width, align))
        self._columns.append(np.ascontiguousarray(column) if column is not None else None)

    def encode(self, base: bytearray, uids: UidArray, flags: ByteArray, highest_modseq: int) -> bytes:
        placed, size = place_records(self._extensions)
        return encode_index(IndexState(base, uids, flags, placed, self._columns, size, highest_modseq))
