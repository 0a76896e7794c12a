"""The size table: facts of messages, kept in a file for each mailbox, so that headers are read only once.

Exact sizes stand in the message files; a listing needs them all.  What was read is written into a cache
directory of the user's own (never into the store) and taken from there after the next mount.

::

    file   = header, block*, end;  everything little-endian
    header = "dboxsize", version u32, cache_seq u32, generation 16 bytes, key 32 bytes
    block  = rows u32 (16384 at most), widths u8[3], unused u8, columns, checksum;  uids rise through the file
    columns = mark u64, size, received, saved (u32 or i64: widths), uid u32, cached_at u32, state u8;
              each one padded to 8 bytes
    end    = a block of 0 rows
    checksum = BLAKE2b (32 bytes) of the header, the block's number u64, and the block before its checksum

It is read and written a block at a time: a million rows need no more memory than a thousand.

**Why it can't go wrong.**  A row says: "the bytes that bear this mark have these facts".  Nothing of a row is
used before the mark of the bytes that are there *now* was found to be the same, so a row can be too old, but
not wrong, and rows of several daemons may be mixed.  A mark is a 64 bit hash of

* sdbox: inode number, size, mtime and ctime of the message's file.  Repair, restore and uids that are used
  again all make another file or another ctime, and nobody can set a ctime back.  To know it each file is
  opened and stat'ed, not read: the reads are what is slow.
* mdbox: the message's GUID and map uid, which the mailbox's index has, and the size of the record, which
  the map has, all in memory.  A message that is altmoved or purged into another file keeps all three.  What
  was read is believed only if the message's own metadata have that GUID, so an index and a map that don't
  belong together (one was rebuilt, the other is not read yet) leave nothing behind.

The whole file counts only for the store (path, device and inode of its root), the mailbox (GUID, UIDVALIDITY)
and the ``generation`` that it was written for: the rebuild counts of mailbox and map, indexid and
uidvalidity of the map.  Every repair by Dovecot changes one of them, and then everything is read again.
Messages that are damaged, or without GUID (mdbox), are never in it.

It may be deleted at any time.  It appears by rename, with mode 0600 in a directory 0700.  One that is
damaged or somebody else's is ignored, with one line in the log.  The directory is kept below
:data:`DIRECTORY_BYTES`: the files that were written longest ago go first.

**Why not ``dovecot.index.cache``?**  It may have ``size.physical`` and ``date.received``, but only of
messages that somebody asked Dovecot about, it doesn't say what is compressed or has attachments, Dovecot
changes it in place without a checksum, and a wrong size in it ("cached message size smaller than expected")
is a fault that Dovecot itself notices only when it reads the message.  A wrong ``st_size`` cuts a backup
short, so it isn't used for sizes.  For the saved date of an sdbox message it decides what Dovecot shows, and
is asked (``saveddates``): ``cached_at`` and ``cache_seq`` tell which answer of it a row already contains.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dboxfs.errors import FormatError
from dboxfs.fsapi import CreateMode, FileSystem, Handle, Peek, PeekResult, Permissions
from dboxfs.store.attrs import DAMAGED, KNOWN, FactColumns, Marks, Uids

log = logging.getLogger(__name__)

VERSION = 2
SUFFIX = ".sizes"

DIRECTORY_BYTES = 1 << 30
"""The files of the cache directory take at most about so many bytes."""

BLOCK_ROWS = 1 << 14
"""Rows of a block, at most."""

NOT_CACHED = 0xFFFFFFFF
"""``cached_at`` of a row whose saved date has to be looked up again."""

_MAGIC = b"dboxsize"
_HEADER = struct.Struct("<8sII16s32s")
_BLOCK = struct.Struct("<I3Bx")
_NUMBER = struct.Struct("<Q")
_CHECKSUM = 32
_TRIM_EVERY = DIRECTORY_BYTES // 16
_OLD_TEMPORARY = 36 * 3600.0
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Key:
    """What a table is for.  ``root``: path of the store's root; ``guid``: the mailbox's, 16 bytes."""

    root: str
    dev: int
    ino: int
    guid: bytes
    uid_validity: int

    def digest(self) -> bytes:
        """32 bytes that stand for it."""
        numbers = struct.pack("<IQQQ", VERSION, self.dev & _MASK, self.ino & _MASK, self.uid_validity)
        return hashlib.blake2b(numbers + self.guid + os.fsencode(self.root), digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class Remembered:
    """The rows of a table, ascending by uid.

    ``cache_seq``: file_seq of the ``dovecot.index.cache`` that ``cached_at`` is an offset of; 0: of none.
    """

    uids: Uids
    marks: Marks
    facts: FactColumns
    cached_at: Uids
    cache_seq: int = 0

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, rows: Any) -> Remembered:
        """Those of some rows: a slice, row numbers, or a mask."""
        return Remembered(
            self.uids[rows], self.marks[rows], self.facts[rows], self.cached_at[rows], self.cache_seq
        )


def marks_of(*columns: npt.NDArray[np.uint64]) -> Marks:
    """One mark for each row: a 64 bit hash of the columns, never 0."""
    mark = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:  # the finalizer of splitmix64, once for each column
        mark ^= column
        mark ^= mark >> np.uint64(30)
        mark *= np.uint64(0xBF58476D1CE4E5B9)
        mark ^= mark >> np.uint64(27)
        mark *= np.uint64(0x94D049BB133111EB)
        mark ^= mark >> np.uint64(31)
    mark[mark == 0] = 1
    return mark


def marks_of_files(stats: list[os.stat_result]) -> Marks:
    """The marks of sdbox files."""
    fields = [
        [one.st_ino & _MASK for one in stats],
        [one.st_size for one in stats],
        [one.st_mtime_ns & _MASK for one in stats],
        [one.st_ctime_ns & _MASK for one in stats],
    ]
    return marks_of(*(np.array(field, np.uint64) for field in fields))


def generation_of(*numbers: int) -> bytes:
    """16 bytes that change when one of *numbers* does."""
    packed = b"".join((number & _MASK).to_bytes(8, "little") for number in numbers)
    return hashlib.blake2b(packed, digest_size=16).digest()


# -- the format --------------------------------------------------------------------------------


def encode_header(key: bytes, generation: bytes, cache_seq: int) -> bytes:
    """The beginning of a file."""
    return _HEADER.pack(_MAGIC, VERSION, cache_seq, generation, key)


def encode_block(rows: Remembered, header: bytes, number: int) -> bytes:
    """Block *number* of the file that begins with *header*."""
    facts = rows.facts
    narrow = [_narrowest(column) for column in (facts.size, facts.received, facts.saved)]
    columns = [
        rows.marks.astype("<u8"), *narrow, rows.uids.astype("<u4"), rows.cached_at.astype("<u4"),
        facts.state.astype("u1"),
    ]  # fmt: skip
    pieces = [_BLOCK.pack(len(rows), *(column.dtype.itemsize for column in narrow))]
    for column in columns:
        pieces.append(column.tobytes() + bytes(-column.nbytes % 8))
    block = b"".join(pieces)
    return block + _checksum(header, number, block)


def _checksum(header: bytes, number: int, block: bytes | memoryview) -> bytes:
    checksum = hashlib.blake2b(header + _NUMBER.pack(number), digest_size=_CHECKSUM)
    checksum.update(block)
    return checksum.digest()


def _narrowest(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if column.dtype.itemsize <= 4 or not len(column):
        return column.astype("<u4")
    fits = int(column.min()) >= 0 and int(column.max()) <= 0xFFFFFFFF
    return column.astype("<u4" if fits else "<i8")


def decode_header(header: bytes, key: bytes, generation: bytes) -> int | None:
    """cache_seq; None: the file is of another version, or for another mailbox or generation.

    :raises FormatError: it is no size table.
    """
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise FormatError(0, "size table: it doesn't begin like one")
    _, version, cache_seq, found_generation, found_key = _HEADER.unpack(header)
    if (version, found_key, found_generation) != (VERSION, key, generation):
        return None
    return int(cache_seq)


def block_size(start: bytes) -> int:
    """Bytes of a block, with its checksum, that begins with *start* (8 bytes or more).

    :raises FormatError: no block begins like that.
    """
    types, count = _block_types(start)
    return _BLOCK.size + sum(_padded(kind, count) for kind in types) + _CHECKSUM


def _block_types(start: bytes) -> tuple[list[str], int]:
    if len(start) < _BLOCK.size:
        raise FormatError(0, "size table: it ends too early")
    count, *widths = _BLOCK.unpack_from(start)
    if count > BLOCK_ROWS or not set(widths) <= {4, 8}:
        raise FormatError(0, f"size table: a block of {count} rows, {widths} bytes wide")
    return ["<u8", *("<i8" if width == 8 else "<u4" for width in widths), "<u4", "<u4", "u1"], count


def _padded(kind: str, count: int) -> int:
    size = np.dtype(kind).itemsize * count
    return size + -size % 8


def decode_block(block: bytes, header: bytes, number: int, cache_seq: int) -> Remembered:
    """The rows of a whole block; none: the file ends here.

    :raises FormatError: it is damaged.
    """
    types, count = _block_types(block)
    view = memoryview(block)
    if len(block) != block_size(block) or _checksum(header, number, view[:-_CHECKSUM]) != view[-_CHECKSUM:]:
        raise FormatError(0, f"size table: block {number} is damaged")
    offset, columns = _BLOCK.size, []
    for kind in types:
        columns.append(np.frombuffer(view, kind, count, offset))
        offset += _padded(kind, count)
    marks, plain, received, saved, uids, cached_at, state = columns
    return Remembered(uids, marks, FactColumns(state, plain, received, saved), cached_at, cache_seq)


def merged(fresh: Remembered, old: list[Remembered], keep: Uids) -> Remembered:
    """*fresh*, and the rows of *old* that it doesn't have and whose uid is in *keep*; all ascending."""
    parts = [fresh]
    for rows in old:
        wanted = rows[np.isin(rows.uids, keep) & ~np.isin(rows.uids, fresh.uids)]
        if rows.cache_seq != fresh.cache_seq:
            cached_at = np.full(len(wanted), NOT_CACHED, np.uint32)
            wanted = Remembered(wanted.uids, wanted.marks, wanted.facts, cached_at)
        if len(wanted):
            parts.append(wanted)
    if len(parts) == 1:
        return fresh
    uids = np.concatenate([part.uids for part in parts])
    order = np.argsort(uids, kind="stable")
    return Remembered(
        uids[order],
        np.concatenate([part.marks for part in parts])[order],
        FactColumns(
            np.concatenate([part.facts.state for part in parts])[order],
            np.concatenate([part.facts.size for part in parts])[order],
            np.concatenate([part.facts.received for part in parts])[order],
            np.concatenate([part.facts.saved for part in parts])[order],
        ),
        np.concatenate([part.cached_at for part in parts])[order],
        fresh.cache_seq,
    )


def usable(state: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows may be in a table: known ones that are whole."""
    found: npt.NDArray[np.bool_] = (state & np.uint8(KNOWN | DAMAGED)) == KNOWN
    return found


_NO_ROWS = Remembered(
    np.empty(0, np.uint32),
    np.empty(0, np.uint64),
    FactColumns(*(np.empty(0, np.uint32) for _ in range(4))),
    np.empty(0, np.uint32),
)


# -- the directory -----------------------------------------------------------------------------


class SizeTables:
    """The tables in *directory*, for one store.  If that can't be used, it knows and keeps nothing.

    :param root: path of the store's root.
    :param identity: its attributes.

    Counters (``stats``): ``hits`` rows that spared a read, ``misses`` rows that were out of date, ``loaded``
    and ``saved`` files, ``rejected`` files that were damaged or for something else, ``failed`` writes.
    """

    def __init__(self, fs: FileSystem, directory: str, root: str, identity: os.stat_result) -> None:
        self._fs = fs
        self._root = root
        self._identity = identity
        self._directory: str | None = None
        self._wanted = directory
        self._written = 0
        self.hits = 0
        self.misses = 0
        self._loaded = 0
        self._saved = 0
        self._rejected = 0
        self._failed = 0

    @property
    def usable(self) -> bool:
        """Tables can be read and written."""
        return self._directory is not None

    def key(self, guid: bytes, uid_validity: int) -> Key:
        """What the table of a mailbox of this store is for."""
        return Key(self._root, self._identity.st_dev, self._identity.st_ino, guid, uid_validity)

    def stats(self) -> dict[str, int]:
        """The counters."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "loaded": self._loaded,
            "saved": self._saved,
            "rejected": self._rejected,
            "failed": self._failed,
        }

    async def prepare(self) -> None:
        """Make the directory if there is none, and see whether it can be trusted; the log tells if not."""
        path = self._wanted
        try:
            await self._make(path)
            found = await self._fs.stat(path)
        except OSError as exc:
            log.warning("%s: sizes are not kept: %s", path, exc.strerror)
            return
        if not stat.S_ISDIR(found.st_mode):
            log.warning("%s: sizes are not kept: not a directory", path)
        elif found.st_uid != os.geteuid() or found.st_mode & 0o022:
            log.warning("%s: sizes are not kept: others can write there, or it is somebody else's", path)
        else:
            self._directory = path
            await self._trim(path)

    async def _make(self, path: str) -> None:
        missing: list[str] = []
        while path not in ("", "/"):
            try:
                await self._fs.stat(path)
                break
            except FileNotFoundError:
                missing.append(path)
                path = os.path.dirname(path)
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another daemon was quicker
                await self._fs.mkdir(path, Permissions(0o700))

    async def open(self, key: Key, generation: bytes) -> TableFile | None:
        """What is remembered for *key*, to be read by the block and closed; None: nothing of use."""
        if self._directory is None:
            return None
        digest = key.digest()
        path = self._path(digest)
        handle = self._fs.open(path, nofollow=True)
        try:
            status = await handle.wait_open()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise FormatError(0, "size table: somebody else's, or others can write it")
            header = await handle.read(_HEADER.size, 0)
            cache_seq = decode_header(header, digest, generation)
            if cache_seq is not None:
                self._loaded += 1
                return TableFile(handle, path, header, cache_seq, self._reject)
            self._rejected += 1
        except FileNotFoundError:
            pass
        except (OSError, FormatError) as exc:
            self._reject(path, exc)
        except BaseException:
            handle.close()
            raise
        handle.close()
        return None

    def _reject(self, path: str, error: Exception) -> None:
        log.warning("%s: ignored: %s", path, error)
        self._rejected += 1

    async def save(
        self,
        key: Key,
        generation: bytes,
        cache_seq: int,
        blocks: Callable[[], Awaitable[Remembered | None]],
    ) -> bool:
        """Replace the table for *key*.  False: it couldn't be written; that is logged once.

        Cancelled: the old one stays.

        :param blocks: gives the next rows, :data:`BLOCK_ROWS` at most; None: these were all.
        """
        if self._directory is None:
            return False
        digest = key.digest()
        header = encode_header(digest, generation, cache_seq)
        handle = self._fs.create(self._path(digest), CreateMode.REPLACE_IF_EXISTS, Permissions(0o600))
        try:
            async with handle:
                await handle.write_all(header)
                number = 0
                while (rows := await blocks()) is not None:
                    await self._write_block(handle, encode_block(rows, header, number))
                    number += 1
                await self._write_block(handle, encode_block(_NO_ROWS, header, number))
                await handle.commit_async()
        except OSError as exc:
            if not self._failed:
                log.warning("%s: sizes can't be kept: %s", self._directory, exc.strerror)
            self._failed += 1
            return False
        self._saved += 1
        if self._written >= _TRIM_EVERY:
            self._written = 0
            await self._trim(self._directory)
        return True

    async def _write_block(self, handle: Handle, block: bytes) -> None:
        await handle.write_all(block)
        self._written += len(block)

    def _path(self, digest: bytes) -> str:
        assert self._directory is not None
        return os.path.join(self._directory, digest.hex()[:40] + SUFFIX)

    async def _trim(self, directory: str) -> None:
        """Where there are too many tables, remove those written longest ago; and forgotten temporaries."""
        try:
            names = [entry.name for entry in await self._fs.listdir(directory)]
            ours = [name for name in names if name.endswith(SUFFIX) or name.startswith(".temp.")]
            paths = [os.path.join(directory, name) for name in ours]
            found = await self._fs.peek([Peek(path, (), nofollow=True) for path in paths])
            pairs = zip(found, paths, strict=True)
            files = [(one.stat, path) for one, path in pairs if isinstance(one, PeekResult)]
            for path in _too_many(files):
                await self._fs.unlink(path)
        except FileNotFoundError:
            pass  # another daemon tidies up as well
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise


def _too_many(files: list[tuple[os.stat_result, str]]) -> list[str]:
    """What to remove of the directory's files."""
    newest = max((status.st_mtime for status, _ in files), default=0.0)
    total, gone = 0, []
    for status, path in sorted(files, key=lambda file: file[0].st_mtime, reverse=True):
        temporary = not path.endswith(SUFFIX)
        if temporary and status.st_mtime > newest - _OLD_TEMPORARY:
            continue
        total += status.st_size
        if temporary or total > DIRECTORY_BYTES:
            gone.append(path)
    return gone


class TableFile:
    """A size table that is being read.  Close it.

    :param reject: told when the file turns out to be damaged.
    """

    def __init__(
        self,
        handle: Handle,
        path: str,
        header: bytes,
        cache_seq: int,
        reject: Callable[[str, Exception], None],
    ) -> None:
        self.cache_seq = cache_seq
        self._handle = handle
        self._path = path
        self._header = header
        self._reject = reject
        self._offset = len(header)
        self._number = 0
        self._last_uid = 0
        self._done = False

    async def next(self) -> Remembered | None:
        """The rows of the next block; None: the file ends here, or is damaged from here on."""
        if self._done:
            return None
        self._done = True  # unless this block is good
        try:
            start = await self._handle.read(_BLOCK.size, self._offset)
            block = await self._handle.read(block_size(start), self._offset)
            rows = decode_block(block, self._header, self._number, self.cache_seq)
            uids = rows.uids
            if not len(rows):
                return None
            if int(uids[0]) <= self._last_uid or not bool((uids[1:] > uids[:-1]).all()):
                raise FormatError(0, "size table: uids out of order")
        except (OSError, FormatError) as exc:
            self._reject(self._path, exc)
            return None
        self._done = False
        self._number += 1
        self._offset += len(block)
        self._last_uid = int(uids[-1])
        return rows

    def close(self) -> None:
        """Give the file back."""
        self._handle.close()
