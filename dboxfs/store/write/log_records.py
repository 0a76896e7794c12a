"""The log records of the write protocol, for the state that was read under the lock.

Pure functions: state and values in, encoded records out (one transaction's worth, in the order that
mail-index-log section 3 requires).  ``EXT_INTRO`` is always by name, with the generation that the index has.
All records are EXTERNAL ("has happened") but flag and keyword changes, expunge requests, and the records that
the map gets before the mailboxes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct

from dboxfs.index import payload
from dboxfs.index.log import USER_FLAGS, RecordType, encode_record
from dboxfs.index.mailbox import HAVE_POP3_UIDLS, HEADER_FLAGS, POP3_UIDL, guids, mailbox_header
from dboxfs.index.state import IndexState

NO_GUID = bytes(16)
_KEYWORD = re.compile(r"[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]{1,255}")
_LATEST = 0xFFFFFFFF  # saved dates have 32 bits in an index
_MAP = (8, 12, 4)
_REF = (0, 2, 2)
_MDBOX = (0, 8, 4)
_GUID = (0, 16, 1)
_GUID_RECORD = struct.Struct("16s")


class AppendedRow(Struct, frozen=True):
    """A new message of a mailbox.  ``map_uid`` and ``save_date`` (seconds): mdbox only.  ``has_pop3_uidl``:
    its metadata have a POP3 UIDL.
    """

    uid: int
    flags: int
    keywords: tuple[str, ...]
    guid: bytes
    map_uid: int = 0
    save_date: int = 0
    has_pop3_uidl: bool = False


class MapEntry(Struct, frozen=True):
    """A new stored message of the map: its place in ``m.<file_id>`` (bytes; size 0: 4 GiB or more)."""

    map_uid: int
    file_id: int
    offset: int
    size: int
    refcount: int = 1

    def encode(self) -> bytes:
        """The record of extension ``map``."""
        size = self.size if self.size < 1 << 32 else 0
        return struct.pack("<III", self.file_id, self.offset, size)


def check_keywords(words: Iterable[str]) -> None:
    """Refuse words that no IMAP client could send: keywords are atoms (RFC 3501), here of at most 255
    characters.

    :raises ValueError: one of *words* can't be a keyword.
    """
    for word in words:
        if not _KEYWORD.fullmatch(word):
            raise ValueError(f"{word!r} can't be a keyword")


def uid_ranges(uids: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending uids as inclusive ranges of consecutive ones."""
    numbers = np.unique(np.fromiter(uids, np.int64))
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts = numbers[np.concatenate(([0], breaks + 1))]
    ends = numbers[np.concatenate((breaks, [len(numbers) - 1]))]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def intro(state: IndexState, name: str, sizes: tuple[int, int, int], *, external: bool = True) -> bytes:
    """Select extension *name*; sizes are (hdr_size, record_size, record_align) if it is new."""
    found = next((ext for ext in state.extensions if ext.name == name), None)
    hdr_size, record_size, align = sizes
    if found is not None:
        hdr_size, record_size, align = len(found.hdr), found.record_size, found.record_align
    body = payload.ext_intro(
        name,
        reset_id=found.reset_id if found is not None else 0,
        hdr_size=hdr_size,
        record_size=record_size,
        record_align=align,
    )
    return encode_record(RecordType.EXT_INTRO, body, external)


def append_messages(state: IndexState, messages: Sequence[AppendedRow], *, mdbox: bool) -> list[bytes]:
    """New messages of a mailbox, uids ascending from ``state.next_uid`` on."""
    append = payload.append((m.uid, m.flags & USER_FLAGS) for m in messages)
    records = [encode_record(RecordType.APPEND, append, external=True)]
    records += pop3_uidls(state, max((m.uid for m in messages if m.has_pop3_uidl), default=0))
    if mdbox:
        places = [(m.uid, struct.pack("<II", m.map_uid, min(max(m.save_date, 0), _LATEST))) for m in messages]
        records += [intro(state, "mdbox", _MDBOX), _external(RecordType.EXT_REC_UPDATE, places)]
        names = [(m.uid, m.guid) for m in messages]
        records += [intro(state, "guid", _GUID), _external(RecordType.EXT_REC_UPDATE, names)]
    with_keyword: dict[str, list[int]] = {}
    for message in messages:
        for keyword in message.keywords:
            with_keyword.setdefault(keyword, []).append(message.uid)
    for keyword, uids in with_keyword.items():
        body = payload.keyword_update(keyword, uid_ranges(uids))
        records.append(encode_record(RecordType.KEYWORD_UPDATE, body, external=True))
    return records


def pop3_uidls(state: IndexState, highest: int) -> list[bytes]:
    """Records that say that messages up to uid *highest* may have a POP3 UIDL (0: no message has one).

    Dovecot looks for one only where the flag in the dbox header is set, and ``hdr-pop3-uidl``, if it is
    there, has no smaller uid (dbox-files section 1.4).
    """
    if not highest:
        return []
    header, updates = mailbox_header(state), list[tuple[str, bytes]]()
    if header is not None and not header.flags & HAVE_POP3_UIDLS:
        flags = bytes([header.flags | HAVE_POP3_UIDLS])
        updates.append((header.kind, payload.ext_hdr_update(HEADER_FLAGS, flags)))
    known = state.header_data(POP3_UIDL) or b""
    if len(known) >= 4 and int.from_bytes(known[:4], "little") < highest:
        updates.append((POP3_UIDL, payload.ext_hdr_update(0, struct.pack("<I", highest))))
    batch = []
    for name, update in updates:
        batch.append(intro(state, name, (len(state.header_data(name) or b""), 0, 0)))
        batch.append(encode_record(RecordType.EXT_HDR_UPDATE, update, external=True))
    return batch


def _external(kind: RecordType, rows: Sequence[tuple[int, bytes]]) -> bytes:
    return encode_record(kind, payload.ext_rec_update(rows), external=True)


def identity(state: IndexState, kind: str, guid: bytes, uid_validity: int, next_uid: int) -> list[bytes]:
    """Give a mailbox the guid, UIDVALIDITY and (if it is higher) next uid of another one.

    :param kind: name of the extension with the dbox header.
    """
    fields = [(24, uid_validity)]
    if next_uid > state.next_uid:
        fields.append((28, next_uid))
    updates = [payload.header_update(offset, struct.pack("<I", value)) for offset, value in fields]
    batch = [encode_record(RecordType.HEADER_UPDATE, update, external=True) for update in updates]
    name = encode_record(RecordType.EXT_HDR_UPDATE, payload.ext_hdr_update(4, guid), external=True)
    return [*batch, intro(state, kind, (24, 0, 0)), name]


def expunge(state: IndexState, uids: Sequence[int], *, external: bool) -> list[bytes]:
    """Expunge messages (external), or request it (internal); with the guids of the index, which readers
    check.
    """
    column = guids(state)
    rows = state.rows_of(uids)
    entries = [
        (uid, column[row].tobytes() if column is not None and row >= 0 else NO_GUID)
        for uid, row in zip(uids, rows.tolist(), strict=True)
    ]
    return [encode_record(RecordType.EXPUNGE_GUID, payload.expunge_guid(entries), external=external)]


def request(state: IndexState, uid: int) -> bytes:
    """The entry of an expunge of one message that is there, with the guid of the index."""
    found = state.unpack("guid", state.row_of(uid), _GUID_RECORD)
    return payload.expunge_guid([(uid, NO_GUID if found is None else found[0])])


def ask_for_expunge(entry: bytes) -> bytes:
    """Request one expunge; like :func:`expunge`, but quicker.

    :param entry: :func:`request`.
    """
    return encode_record(RecordType.EXPUNGE_GUID, entry)


def change_flags(uids: Iterable[int], add: int, remove: int) -> list[bytes]:
    """Set and clear flags (bits of :data:`USER_FLAGS`)."""
    ranges = uid_ranges(uids)
    if not ranges or not (add | remove) & USER_FLAGS:
        return []
    body = payload.flag_update(ranges, add & USER_FLAGS, remove & USER_FLAGS)
    return [encode_record(RecordType.FLAG_UPDATE, body)]


def change_keyword(uids: Iterable[int], keyword: str, *, add: bool) -> list[bytes]:
    """Add or remove one keyword."""
    ranges = uid_ranges(uids)
    if not ranges:
        return []
    modify = payload.KEYWORD_ADD if add else payload.KEYWORD_REMOVE
    return [encode_record(RecordType.KEYWORD_UPDATE, payload.keyword_update(keyword, ranges, modify))]


def exactly(state: IndexState, uid: int, flags: int | None, keywords: Iterable[str] | None) -> list[bytes]:
    """Give a message that is there these flags, and these keywords (None: those that it has)."""
    row = state.row_of(uid)
    old = int(state.flags[row])
    batch = change_flags([uid], flags & ~old, old & ~flags) if flags is not None else []
    if keywords is not None:
        had = {word.lower(): word for word in state.keywords(row)}
        wanted = {word.lower(): word for word in keywords}
        for word in (wanted[key] for key in wanted if key not in had):
            batch += change_keyword([uid], word, add=True)
        for word in (had[key] for key in had if key not in wanted):
            batch += change_keyword([uid], word, add=False)
    return batch


def marks(state: IndexState, uid: int) -> tuple[int, tuple[str, ...]]:
    """Flags (bits of :data:`USER_FLAGS`) and keywords of a message that is there."""
    row = state.row_of(uid)
    return int(state.flags[row]) & USER_FLAGS, state.keywords(row)


def inherit(state: IndexState, uid: int, old: int) -> list[bytes]:
    """Give a message the flags and keywords of another one; both are there."""
    return exactly(state, uid, *marks(state, old))


def index_deleted() -> list[bytes]:
    """Mark the mailbox as deleted."""
    return [encode_record(RecordType.INDEX_DELETED, payload.index_deleted(), external=True)]


# -- the map ------------------------------------------------------------------------------------------------


def highest_file_id(state: IndexState, file_id: int, *, external: bool = False) -> list[bytes]:
    """The map's header data: the highest file_id that was ever used."""
    update = payload.ext_hdr_update(0, struct.pack("<I", file_id))
    return [
        intro(state, "map", _MAP, external=external),
        encode_record(RecordType.EXT_HDR_UPDATE, update, external),
    ]


def append_to_map(state: IndexState, entries: Sequence[MapEntry]) -> list[bytes]:
    """New stored messages.  Internal: the tail moves when all is done."""
    append = payload.append((entry.map_uid, 0) for entry in entries)
    places = payload.ext_rec_update((entry.map_uid, entry.encode()) for entry in entries)
    refs = payload.ext_rec_update((entry.map_uid, struct.pack("<H", entry.refcount)) for entry in entries)
    return [
        encode_record(RecordType.APPEND, append),
        intro(state, "map", _MAP, external=False),
        encode_record(RecordType.EXT_REC_UPDATE, places),
        intro(state, "ref", _REF, external=False),
        encode_record(RecordType.EXT_REC_UPDATE, refs),
    ]


def references_of(rows: Sequence[AppendedRow], each: int) -> list[tuple[int, int]]:
    """(map uid, difference) for *rows*, ascending."""
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.map_uid] = counts.get(row.map_uid, 0) + each
    return sorted(counts.items())


def change_refcounts(state: IndexState, diffs: Iterable[tuple[int, int]]) -> list[bytes]:
    """Add to refcounts: (map_uid, difference), map uids ascending."""
    changes = [(map_uid, diff) for map_uid, diff in diffs if diff]
    if not changes:
        return []
    body = payload.ext_atomic_inc(changes)
    return [intro(state, "ref", _REF, external=False), encode_record(RecordType.EXT_ATOMIC_INC, body)]


def set_refcounts(state: IndexState, counts: Iterable[tuple[int, int]]) -> list[bytes]:
    """Set refcounts: (map_uid, count)."""
    rows = [(map_uid, struct.pack("<H", count)) for map_uid, count in counts]
    if not rows:
        return []
    body = payload.ext_rec_update(rows)
    return [intro(state, "ref", _REF, external=False), encode_record(RecordType.EXT_REC_UPDATE, body)]


def move_in_map(
    state: IndexState, entries: Sequence[MapEntry], dead: Sequence[int], highest: int | None
) -> list[bytes]:
    """The records of a purge: new places (same map uids), and the expunge of dead map uids.  All EXTERNAL."""
    records: list[bytes] = []
    if highest is not None:
        records += highest_file_id(state, highest, external=True)
    if entries:
        places = [(entry.map_uid, entry.encode()) for entry in entries]
        records += [intro(state, "map", _MAP), _external(RecordType.EXT_REC_UPDATE, places)]
    if dead:
        body = payload.expunge_guid((map_uid, NO_GUID) for map_uid in dead)
        records.append(encode_record(RecordType.EXPUNGE_GUID, body, external=True))
    return records


# -- requests -----------------------------------------------------------------------------------------------


def only_expunges_pending(state: IndexState) -> bool:
    """Whether the tail may pass all that is pending once the expunges are carried out."""
    return all(r.type in (RecordType.EXPUNGE, RecordType.EXPUNGE_GUID) for r in state.pending_requests)
