"""The size tables: a file for each mailbox keeps the facts of its messages, so that headers are read once.

A listing needs the exact sizes of all messages, which only the message files have.  The daemon writes the
sizes that it has read into a cache directory of the user (never into the store), and reads them from there
after the next mount.  ``size_format.py`` describes the file, and why a row can be too old but never wrong.

A file may be deleted at any time.  A new one is written by rename, with mode 0600 in a directory 0700.  A
file that is damaged or belongs to another user is ignored, with one line in the log.  The directory stays
below :data:`DIRECTORY_BYTES`: the files that were written longest ago are removed first.

**Why not ``dovecot.index.cache``?**  It may have ``size.physical`` and ``date.received``, but only of
messages that a client asked Dovecot about.  It doesn't say which messages are compressed or have attachments.
Dovecot changes it in place without a checksum, and notices a wrong size in it ("cached message size smaller
than expected") only when it reads the message.  A wrong ``st_size`` cuts a backup short, so that file isn't
used for sizes.  But it decides which saved date of an sdbox message Dovecot shows, so it is used for that
(``saved_dates``): ``cached_at`` and ``cache_seq`` say which cached date a row already has.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable

from dboxfs.errors import FormatError
from dboxfs.fsapi import CreateMode, FileSystem, Handle, Peek, PeekResult, Permissions
from dboxfs.fsapi.temporary import is_temporary
from dboxfs.store.size_format import (
    BLOCK_START_BYTES,
    HEADER_BYTES,
    NO_ROWS,
    Key,
    Remembered,
    block_size,
    decode_block,
    decode_header,
    encode_block,
    encode_header,
)

log = logging.getLogger(__name__)

SUFFIX = ".sizes"

DIRECTORY_BYTES = 1 << 30
"""Bytes that the files of the cache directory take at most, about."""

_TRIM_EVERY = DIRECTORY_BYTES // 16
_OLD_TEMPORARY = 36 * 3600.0


class SizeTables:
    """The tables in *directory*, for one store.  If the directory can't be used, no table is read or written.

    :param root: path of the store's root.
    :param identity: its attributes.

    Counters (``stats``): ``hits`` rows that spared a read, ``misses`` rows that were out of date, ``loaded``
    and ``saved`` files, ``rejected`` files that were damaged or for something else, ``failed`` writes.
    """

    def __init__(self, fs: FileSystem, directory: str, root: str, identity: os.stat_result) -> None:
        self._fs = fs
        self._root = "" if fs.capabilities.frozen else root  # such tables lie beside their store
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
        """Whether tables can be read and written."""
        return self._directory is not None

    def key(self, guid: bytes, uid_validity: int) -> Key:
        """The key of the table of a mailbox of this store."""
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

    async def prepare(self, *, tidy: bool = True) -> None:
        """Make the directory if there is none, and check that it can be trusted; if not, that is logged.

        :param tidy: remove tables that are too many.
        """
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
            log.warning("%s: sizes are not kept: others can write there, or it is another user's", path)
        else:
            self._directory = path
            if tidy:
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
        """The table for *key*, to be read block by block and closed; None: there is none to use."""
        if self._directory is None:
            return None
        digest = key.digest()
        path = self._path(digest)
        handle = self._fs.open(path, nofollow=True)
        try:
            status = await handle.wait_open()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise FormatError(0, "size table: another user's, or others can write it")
            header = await handle.read(HEADER_BYTES, 0)
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

        :param blocks: gives the next rows, :data:`BLOCK_ROWS` at most; None: there are no more.
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
                await self._write_block(handle, encode_block(NO_ROWS, header, number))
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
        return os.path.join(self._directory, table_name(digest))

    async def _trim(self, directory: str) -> None:
        """If there are too many tables, remove those written longest ago; also remove old temporary files."""
        try:
            names = [entry.name for entry in await self._fs.listdir(directory)]
            ours = [name for name in names if name.endswith(SUFFIX) or is_temporary(name)]
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


def table_name(digest: bytes) -> str:
    """The file of the table for a :class:`Key`."""
    return digest.hex()[:40] + SUFFIX


def _too_many(files: list[tuple[os.stat_result, str]]) -> list[str]:
    """The paths of the files to remove."""
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

    :param reject: called if the file turns out to be damaged.
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
        """The rows of the next block; None: the end of the file, or damage from here on."""
        if self._done:
            return None
        self._done = True  # unless this block is good
        try:
            start = await self._handle.read(BLOCK_START_BYTES, self._offset)
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
