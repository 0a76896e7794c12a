"""Header fields of messages: from Dovecot's cache file if it has them, else from the messages themselves.

The cache file only makes it faster: a file that is damaged, too large or of another index counts as empty
(mail-cache), and so does a field with an unexpected form.

A field is decoded for readers (RFC 2047) and unfolded; of several fields of one name the first one counts.

Concurrency: at most :data:`READ_AT_ONCE` messages are read at the same time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from email.errors import HeaderParseError
from email.header import decode_header

import trio

from dboxfs.errors import DboxfsError, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.mailbox import cache_offsets
from dboxfs.store.location import Location
from dboxfs.store.mailbox import Mailbox

log = logging.getLogger(__name__)

READ_AT_ONCE = 16
"""Messages that are read at the same time."""

CACHE_MOST = 1 << 30
"""A larger cache file (bytes) is not read."""

_PIECE_OF_HEADER = 16 << 10
_HEADER_MOST = 1 << 20
"""The largest header of a message, in bytes."""

_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(r"\r?\n[ \t]+")

Fields = Mapping[str, str]
"""Values by name in lower case; a missing field has no entry."""


def parse_fields(header: bytes, names: Sequence[str]) -> dict[str, str]:
    """The fields *names* (in lower case) of a header."""
    text = header.decode("utf-8", "surrogateescape")
    found: dict[str, str] = {}
    for line in re.split(r"\r?\n(?![ \t])", text):
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() in names:
            found.setdefault(name.strip().lower(), _readable(value))
    return found


def _readable(value: str) -> str:
    plain = _FOLD.sub(" ", value).strip()
    if "=?" in plain:
        try:
            return "".join(_text(part, charset) for part, charset in decode_header(plain))
        except (HeaderParseError, ValueError):
            pass  # the undecoded text is shown
    return _text(plain, None)


def _text(part: bytes | str, charset: str | None) -> str:
    data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
    try:
        return data.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # an unknown charset
        return data.decode("utf-8", "replace")


class HeaderReader:
    """Reads header fields of the messages of one store.

    :ivar from_cache: messages with all fields in the cache file.  :ivar from_messages: others.
    """

    def __init__(self, fs: FileSystem, location: Location) -> None:
        self._fs = fs
        self._location = location
        self.from_cache = 0
        self.from_messages = 0

    async def read(self, box: Mailbox, uids: Sequence[int], names: Sequence[str]) -> dict[int, Fields]:
        """The fields *names* (in lower case) of messages; a message that can't be read is logged and left
        out.
        """
        found = dict(await self._cached(box, uids, names)) if uids and names else {}
        self.from_cache += len(found)
        limit = trio.CapacityLimiter(READ_AT_ONCE)

        async def one(uid: int) -> None:
            async with limit:
                try:
                    found[uid] = parse_fields(await _header(box, uid), names)
                    self.from_messages += 1
                except (DboxfsError, OSError) as exc:
                    log.error("%s: uid %d: %s", box.display_name, uid, exc)

        async with trio.open_nursery() as nursery:
            for uid in uids:
                if uid not in found:
                    nursery.start_soon(one, uid)
        return found

    async def _cached(self, box: Mailbox, uids: Sequence[int], names: Sequence[str]) -> dict[int, Fields]:
        state = box.state
        if state is None or state.column("cache", "<u4") is None:
            return {}
        path = self._location.cache_path(box.name)
        (peeked,) = await self._fs.peek([Peek(path, ((0, None),), limit=CACHE_MOST + 1)])
        if not isinstance(peeked, PeekResult) or len(peeked.chunks[0]) > CACHE_MOST:
            return {}
        try:
            file = CacheFile(peeked.chunks[0])
        except FormatError as exc:
            log.info("%s: not used: %s", path, exc)
            return {}
        offsets = cache_offsets(state, file.header.file_seq)
        if offsets is None or file.header.indexid != state.indexid:
            return {}
        found = {}
        for uid in uids:
            row = state.row_of(uid)
            fields = _from_cache(file, int(offsets[row]), names) if row >= 0 and offsets[row] else None
            if fields is not None:
                found[uid] = fields
        return found


def _from_cache(file: CacheFile, offset: int, names: Sequence[str]) -> Fields | None:
    """The fields of a message; None: not all are cached."""
    values = file.lookup(offset)
    found: dict[str, str] = {}
    for name in names:
        value = values.get(f"hdr.{name}")
        lines = _lines(value) if isinstance(value, bytes) else None
        if lines is None:
            return None
        found |= parse_fields(lines, (name,))
    return found


def _lines(value: bytes) -> bytes | None:
    """The header lines behind the line numbers (u32 each, ended by 0); empty: there is no such field."""
    for at in range(0, len(value) - 3, 4):
        if value[at : at + 4] == b"\0\0\0\0":
            return value[at + 4 :]
    return b"" if not value else None


async def fields_of(box: Mailbox, uid: int, names: Sequence[str]) -> Fields:
    """The fields *names* (in lower case) of one message, from the message itself.

    :raises NoSuchMessage, CorruptFile, EncryptedMessage, OSError: as :meth:`Mailbox.open`.
    """
    return parse_fields(await _header(box, uid), names)


async def _header(box: Mailbox, uid: int) -> bytes:
    """The header of a message, or the part of it in the first MiB."""
    body = await box.open(uid)
    try:
        data = b""
        while len(data) < min(_HEADER_MOST, body.size):
            piece = await body.read(_PIECE_OF_HEADER, len(data))
            if not piece:
                break
            data += piece
            end = _END.search(data)
            if end is not None or data.startswith((b"\n", b"\r\n")):
                return data[: end.start()] if end is not None else b""
        return data
    finally:
        body.close()
