"""Typed views of a mailbox's index: the extensions that dbox keeps in it (mail-index section 5).

Each function reads one extension of an :class:`~dboxfs.index.state.IndexState`; arrays are read-only views
that hold until the state's next ``apply_log``.  Missing data gives None, never an error: old stores lack some
extensions.  Writers of these extensions: ``payload``.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.index.state import IndexState

SDBOX_HEADER = "dbox-hdr"
MDBOX_HEADER = "mdbox-hdr"

#: Flag of the header: some message has a P (POP3 UIDL) metadata line.  (0x02: an O line, POP3 order.)
HAVE_POP3_UIDLS = 0x01

POP3_UIDL = "hdr-pop3-uidl"
"""Extension whose header has the highest uid with a P line (4 bytes)."""

HEADER_FLAGS = 20
"""Offset of the flags in the header data (bytes)."""

_HEADER = struct.Struct("<I16sB")
_MDBOX_LAYOUT = struct.Struct("<II")
_MDBOX_RECORD = np.dtype([("map_uid", "<u4"), ("save_date", "<u4")])


class MailboxHeader(Struct, frozen=True):
    """Header of ``dbox-hdr`` or ``mdbox-hdr``.  ``guid``: 16 bytes of mailbox GUID (zeros: none yet).

    ``map_uid_validity``: mdbox; uid_validity of the map index that the map_uids belong to.
    ``rebuild_count``: sdbox.  The other one is 0.
    """

    kind: str
    guid: bytes
    flags: int
    map_uid_validity: int = 0
    rebuild_count: int = 0


def mailbox_header(state: IndexState) -> MailboxHeader | None:
    """The dbox header of a mailbox index, sdbox or mdbox; None if it has neither (or an old, short one)."""
    for kind in (MDBOX_HEADER, SDBOX_HEADER):
        hdr = state.header_data(kind)
        if hdr is None or len(hdr) < _HEADER.size:
            continue
        number, guid, flags = _HEADER.unpack_from(hdr)
        if kind == MDBOX_HEADER:
            return MailboxHeader(kind, guid, flags, map_uid_validity=number)
        return MailboxHeader(kind, guid, flags, rebuild_count=number)
    return None


def encode_mailbox_header(header: MailboxHeader) -> bytes:
    """The 24 bytes of extension header data."""
    number = header.map_uid_validity if header.kind == MDBOX_HEADER else header.rebuild_count
    return _HEADER.pack(number, header.guid, header.flags) + bytes(3)


def map_uids(state: IndexState) -> npt.NDArray[np.uint32] | None:
    """mdbox: map_uid of each row (0 = damaged)."""
    column = state.column("mdbox", _MDBOX_RECORD)
    return None if column is None else column["map_uid"]


def map_uid(state: IndexState, row: int) -> int:
    """mdbox: map_uid of one row; 0 = damaged, or no mdbox."""
    record = state.unpack("mdbox", row, _MDBOX_LAYOUT)
    return 0 if record is None else int(record[0])


def save_dates(state: IndexState) -> npt.NDArray[np.uint32] | None:
    """mdbox: the saved date of each row's message (saved or copied here), seconds since the epoch."""
    column = state.column("mdbox", _MDBOX_RECORD)
    return None if column is None else column["save_date"]


def guids(state: IndexState) -> npt.NDArray[np.uint8] | None:
    """mdbox: GUID of each row's message, uint8[n, 16]; all zero = unknown."""
    column = state.column("guid")
    return column if column is not None and column.shape[1] == 16 else None


def virtual_sizes(state: IndexState) -> npt.NDArray[np.uint32] | None:
    """Size with CRLF line ends plus 1 of each row, 0 = unknown (extension ``vsize``)."""
    return state.column("vsize", "<u4")


def cache_offsets(state: IndexState, cache_file_seq: int) -> npt.NDArray[np.uint32] | None:
    """Offset of each row's newest cache record, 0 = none; None unless the cache has that file_seq."""
    for ext in state.extensions:
        if ext.name == "cache" and ext.reset_id == cache_file_seq:
            return state.column("cache", "<u4")
    return None
