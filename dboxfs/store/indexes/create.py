"""Make missing indexes, of a mailbox or the map, and the UIDVALIDITY that a mailbox needs.

A log gets its name when it is whole (mail-index-log section 8), so no process sees an incomplete index.  A
process takes a UIDVALIDITY by renaming ``dovecot-uidvalidity.<old>`` to ``.<new>`` (mailbox-layout section
6): the rename is the lock, so no number is given out twice.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Sequence

from msgspec.structs import replace

from dboxfs.errors import CorruptFile
from dboxfs.fsapi import ops
from dboxfs.index import payload
from dboxfs.index.log import LogHeader, RecordType, encode_record, encode_transaction
from dboxfs.index.mailbox import MDBOX_HEADER, SDBOX_HEADER, MailboxHeader, encode_mailbox_header
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.indexes.log import IndexLog, new_log
from dboxfs.store.location import Kind, Location
from dboxfs.store.write_errors import WHERE_INDEX, IndexMissing

_NUMBERED = re.compile(r"dovecot-uidvalidity\.([0-9a-f]{8})")
_STORAGE_FILE = re.compile(r"m\.[0-9]+")
_ATTEMPTS = 10
_FIRST_SEQ = 2


async def make_map(disk: Disk, location: Location, index: IndexLog, *, contended: bool = True) -> None:
    """Make ``storage/`` and an empty map, unless there is one.

    :param contended: other processes may make it at the same time.
    :raises IndexMissing: there are messages, so the map is lost, or is elsewhere.
    """
    await _refuse_lost_map(disk, location, index)
    await disk.make_dirs(location.storage)
    await disk.make_dirs(index.directory)
    now = int(time.time())
    body = payload.header_update(24, struct.pack("<I", now))
    header = _log_header(now)
    records = encode_record(RecordType.HEADER_UPDATE, body, external=True)
    # a tail behind the head would mean for Dovecot that a writer died (mdbox-map, the tail rule)
    tail = payload.tail_update(header.hdr_size + len(records))
    records += encode_record(RecordType.HEADER_UPDATE, tail, external=True)
    await new_log(disk, index, header, records, contended=contended)


async def _refuse_lost_map(disk: Disk, location: Location, index: IndexLog) -> None:
    """Refuse to replace a lost map: a new one would reuse file ids and map uids that the mailboxes' records
    have.
    """
    if await disk.exists(index.log_path):
        return
    await refuse_lost_log(disk, index)
    for directory in (location.storage, location.alt_storage):
        entries = await disk.listdir(directory) if directory is not None else []
        count = sum(_STORAGE_FILE.fullmatch(entry.name) is not None for entry in entries)
        if count:
            raise IndexMissing(
                f"{directory}: {count} files with messages and no map in {index.directory}, not written; "
                f"{WHERE_INDEX}"
            )


async def refuse_lost_log(disk: Disk, index: IndexLog) -> None:
    """Refuse to make a log beside an existing snapshot: the new log is empty, and the snapshot would be
    ignored.

    :raises IndexMissing: there is a snapshot without its log.
    """
    if await disk.exists(index.base_path):
        raise IndexMissing(
            f"{index.log_path} is missing and {os.path.basename(index.base_path)} is there, not written; "
            "restore it, let a Dovecot open the mailbox, or make a new store: dboxfs rescue STORE DST"
        )


async def map_uid_validity(disk: Disk, location: Location, view: IndexFiles) -> int:
    """uid_validity of the map, which is made if there is none.

    :param view: the reader of the map, not locked: only a rebuild of the whole storage changes that number.
    """
    await view.look()
    if view.state is None:
        await make_map(disk, location, IndexLog(disk, location.map_dir, "dovecot.map.index", "the map"))
        await view.look()
    if view.state is None or view.state.uid_validity == 0:
        raise CorruptFile(view.log_path, 0, "the map of the storage has no uid_validity")
    return view.state.uid_validity


async def make_mailbox_index(
    disk: Disk,
    location: Location,
    index: IndexLog,
    map_view: IndexFiles,
    *,
    contended: bool,
    guid: bytes | None = None,
    own_name: Sequence[bytes] = (),
) -> bool:
    """Make the log of a mailbox whose directories exist; False: there is one already.

    :param guid: of the mailbox; None: a new one.
    :param own_name: further records, with the mailbox's name (LAYOUT=index).
    :param map_view: the reader of the map (mdbox).
    :param contended: other processes may make it at the same time.
    """
    mdbox = location.kind is Kind.MDBOX
    map_validity = await map_uid_validity(disk, location, map_view) if mdbox else 0
    uid_validity = await next_uid_validity(disk, location)
    name = MDBOX_HEADER if mdbox else SDBOX_HEADER
    header = MailboxHeader(name, guid or os.urandom(16), 0, map_uid_validity=map_validity)
    intro = payload.ext_intro(name, hdr_size=24)
    update = payload.ext_hdr_update(0, encode_mailbox_header(header))
    validity = payload.header_update(24, struct.pack("<I", uid_validity))
    records = encode_transaction(
        [
            encode_record(RecordType.EXT_INTRO, intro, external=True),
            encode_record(RecordType.EXT_HDR_UPDATE, update, external=True),
            encode_record(RecordType.HEADER_UPDATE, validity, external=True),
            *own_name,
        ]
    )
    return await new_log(disk, index, _log_header(int(time.time())), records, contended=contended)


def _log_header(now: int) -> LogHeader:
    return LogHeader(indexid=now, file_seq=_FIRST_SEQ, create_stamp=now)


async def next_uid_validity(disk: Disk, location: Location) -> int:
    """A UIDVALIDITY that no mailbox of this store has had.  Several operations."""
    main = os.path.join(location.control_dir, "dovecot-uidvalidity")
    await disk.make_dirs(location.control_dir)
    for _ in range(_ATTEMPTS):
        old = await last_uid_validity(disk, location)
        if old == 0:
            value = await _first_uid_validity(disk, main)
        else:
            value = await _take_next(disk, main, old)
        if value:
            await disk.replace(main, b"%08x" % value)
            return value
    raise CorruptFile(main, 0, "no UIDVALIDITY can be had: other programs take them all")


async def last_uid_validity(disk: Disk, location: Location) -> int:
    """The UIDVALIDITY that was given out last; 0: none."""
    main = os.path.join(location.control_dir, "dovecot-uidvalidity")
    text = await disk.read_whole(main)
    if text is not None and re.fullmatch(rb"[0-9a-fA-F]{8}", text[:8]) and int(text[:8], 16):
        value = int(text[:8], 16)
        if await disk.exists(f"{main}.{value:08x}"):
            return value
    entries = await disk.listdir(location.control_dir)
    return max((int(m[1], 16) for e in entries if (m := _NUMBERED.fullmatch(e.name))), default=0)


async def set_uid_validity(disk: Disk, location: Location, value: int) -> None:
    """Set the last UIDVALIDITY of a new store to *value*; no other process may use it.  Several
    operations.
    """
    main = os.path.join(location.control_dir, "dovecot-uidvalidity")
    await _make_numbered(disk, main, value)
    await disk.replace(main, b"%08x" % value)


async def _first_uid_validity(disk: Disk, main: str) -> int:
    value = int(time.time())
    return value if await _make_numbered(disk, main, value) else 0


async def _make_numbered(disk: Disk, main: str, value: int) -> bool:
    """Make the empty file that has *value* in its name; False: it exists."""
    try:
        permissions = replace(disk.file_permissions, mode=0o444)
        file = await disk.create(f"{main}.{value:08x}", permissions)
    except FileExistsError:
        return False
    await file.close()
    return True


async def _take_next(disk: Disk, main: str, old: int) -> int:
    """The value behind *old*; 0: another process was faster."""
    value = old % 0xFFFFFFFF + 1
    try:
        await disk.run(ops.Rename(f"{main}.{old:08x}", f"{main}.{value:08x}"))
    except FileNotFoundError:
        return 0
    return value
