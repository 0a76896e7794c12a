"""The size table: facts of messages, kept in a file for each mailbox, so that headers are read only once.

Exact sizes stand in the message files; a listing needs them all.  What was read is written into a cache
directory of the user's own (never into the store) and taken from there after the next mount.

::

    file    = header, columns, checksum;  everything little-endian, each column padded to 8 bytes
    header  = "dboxsize", version u32, cache_seq u32, rows u64, widths u8[4], 4 unused, generation 16 bytes,
              key 32 bytes
    columns = mark u64, size, received, saved (u32 or i64: widths[0:3]), uid u32 ascending, cached_at u32,
              state u8
    checksum = BLAKE2b (32 bytes) of all before it

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
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from dboxfs.errors import FormatError
from dboxfs.fsapi import CreateMode, FileSystem, Peek, PeekResult, Permissions
from dboxfs.store.facts import DAMAGED, KNOWN, FactColumns, Marks, Uids

log = logging.getLogger(__name__)

VERSION = 1
SUFFIX = ".sizes"

DIRECTORY_BYTES = 1 << 30
"""The files of the cache directory take at most about so many bytes."""

NOT_CACHED = 0xFFFFFFFF
"""``cached_at`` of a row whose saved date has to be looked up again."""

_MAGIC = b"dboxsize"
_HEADER = struct.Struct("<8sIIQ4B4x16s32s")
_CHECKSUM = 32
_FILE_LIMIT = 1 << 30
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


def encode(rows: Remembered, key: bytes, generation: bytes) -> list[bytes]:
    """The file that holds *rows*, in pieces."""
    narrow = [_narrowest(column) for column in (rows.facts.size, rows.facts.received, rows.facts.saved)]
    widths = [column.dtype.itemsize for column in narrow]
    header = _HEADER.pack(_MAGIC, VERSION, rows.cache_seq, len(rows), *widths, 0, generation, key)
    columns = [
        rows.marks.astype("<u8"), *narrow, rows.uids.astype("<u4"), rows.cached_at.astype("<u4"),
        rows.facts.state.astype("u1"),
    ]  # fmt: skip
    checksum = hashlib.blake2b(header, digest_size=_CHECKSUM)
    pieces = [header]
    for column in columns:
        piece = column.tobytes() + bytes(-column.nbytes % 8)
        checksum.update(piece)
        pieces.append(piece)
    return [*pieces, checksum.digest()]


def _narrowest(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if column.dtype.itemsize <= 4 or not len(column):
        return column.astype("<u4")
    fits = int(column.min()) >= 0 and int(column.max()) <= 0xFFFFFFFF
    return column.astype("<u4" if fits else "<i8")


def decode(data: bytes, key: bytes, generation: bytes) -> Remembered | None:
    """The rows in a file; None: it is whole, but was written for another version, mailbox or generation.

    :raises FormatError: it is damaged.
    """
    if len(data) < _HEADER.size + _CHECKSUM:
        raise FormatError(len(data), "size table: too short")
    view = memoryview(data)
    magic, version, cache_seq, count, *widths, _, found_generation, found_key = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise FormatError(0, "size table: it doesn't begin like one")
    checksum = hashlib.blake2b(view[:-_CHECKSUM], digest_size=_CHECKSUM).digest()
    if checksum != view[-_CHECKSUM:]:
        raise FormatError(len(data) - _CHECKSUM, "size table: wrong checksum")
    if (version, found_key, found_generation) != (VERSION, key, generation):
        return None
    types = ["<u8", *("<i8" if width == 8 else "<u4" for width in widths), "<u4", "<u4", "u1"]
    sizes = [np.dtype(kind).itemsize * count for kind in types]
    if _HEADER.size + sum(size + -size % 8 for size in sizes) + _CHECKSUM != len(data):
        raise FormatError(16, f"size table: {len(data)} bytes are not {count} rows")
    offset, columns = _HEADER.size, []
    for kind, size in zip(types, sizes, strict=True):
        columns.append(np.frombuffer(view, kind, count, offset))
        offset += size + -size % 8
    marks, plain, received, saved, uids, cached_at, state = columns
    if count > 1 and not bool((uids[1:] > uids[:-1]).all()):
        raise FormatError(_HEADER.size, "size table: uids out of order")
    return Remembered(uids, marks, FactColumns(state, plain, received, saved), cached_at, cache_seq)


def merged(fresh: Remembered, old: Remembered | None, keep: Uids) -> Remembered:
    """*fresh*, and those rows of *old* that it doesn't have and whose uid is in *keep*; all ascending."""
    if old is None or not len(old):
        return fresh
    known = np.isin(old.uids, fresh.uids, assume_unique=True)
    wanted = old[np.isin(old.uids, keep, assume_unique=True) & ~known]
    cached_at = wanted.cached_at
    if old.cache_seq != fresh.cache_seq:
        cached_at = np.full(len(wanted), NOT_CACHED, np.uint32)
    uids = np.concatenate((fresh.uids, wanted.uids))
    order = np.argsort(uids, kind="stable")
    return Remembered(
        uids[order],
        np.concatenate((fresh.marks, wanted.marks))[order],
        FactColumns(
            np.concatenate((fresh.facts.state, wanted.facts.state))[order],
            np.concatenate((fresh.facts.size, wanted.facts.size))[order],
            np.concatenate((fresh.facts.received, wanted.facts.received))[order],
            np.concatenate((fresh.facts.saved, wanted.facts.saved))[order],
        ),
        np.concatenate((fresh.cached_at, cached_at))[order],
        fresh.cache_seq,
    )


def usable(state: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows may be in a table: known ones that are whole."""
    found: npt.NDArray[np.bool_] = (state & np.uint8(KNOWN | DAMAGED)) == KNOWN
    return found


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

    async def load(self, key: Key, generation: bytes) -> Remembered | None:
        """What is remembered for *key*; None: nothing that can be used."""
        if self._directory is None:
            return None
        digest = key.digest()
        path = self._path(digest)
        (found,) = await self._fs.peek([Peek(path, ((0, None),), limit=_FILE_LIMIT, nofollow=True)])
        try:
            if not isinstance(found, PeekResult):
                raise found
            if found.stat.st_uid != os.geteuid() or found.stat.st_mode & 0o022:
                raise FormatError(0, "size table: somebody else's, or others can write it")
            rows = await trio.to_thread.run_sync(decode, found.chunks[0], digest, generation)
        except FileNotFoundError:
            return None
        except (OSError, FormatError) as exc:
            log.warning("%s: ignored: %s", path, exc)
            self._rejected += 1
            return None
        if rows is None:
            self._rejected += 1
            return None
        self._loaded += 1
        return rows

    async def save(self, key: Key, generation: bytes, rows: Remembered) -> bool:
        """Replace the table for *key*.  False: it couldn't be written; that is logged once.

        Cancelled: the old one stays.
        """
        if self._directory is None:
            return False
        digest = key.digest()
        pieces = await trio.to_thread.run_sync(encode, rows, digest, generation)
        handle = self._fs.create(self._path(digest), CreateMode.REPLACE_IF_EXISTS, Permissions(0o600))
        try:
            async with handle:
                for piece in pieces:
                    await handle.write_all(piece)
                await handle.commit_async()
        except OSError as exc:
            if not self._failed:
                log.warning("%s: sizes can't be kept: %s", self._directory, exc.strerror)
            self._failed += 1
            return False
        self._saved += 1
        self._written += sum(map(len, pieces))
        if self._written >= _TRIM_EVERY:
            self._written = 0
            await self._trim(self._directory)
        return True

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
