"""The plain bytes of a message in any stored form.

Bodies are stacked in the order of storing: the bytes of the record (:class:`PlainBody`); decompressed and
decrypted (:class:`CompressedBody`, with pages in the daemon's cache); and with the attachments that Dovecot
keeps in separate files (:class:`AssembledBody`).  Each has a ``size`` in bytes that is known before the first
read.  ``pread`` answers at once or raises BlockingIOError; ``read`` waits.  Both give exactly the requested
bytes, fewer only at the end of the message.  A body that is shorter or longer than its record says raises
CorruptFile.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.dbox import (
    Compression,
    Decompressor,
    Doubt,
    ExtRef,
    Segment,
    encode_base64_range,
    parse_ext_refs,
    plan,
    raw_range,
)
from dboxfs.errors import CorruptFile, DboxfsError, EncryptedMessage, FormatError
from dboxfs.fsapi import FileSystem, Handle, PageCache
from dboxfs.store.backend import OpenRecord
from dboxfs.store.body_plain import PlainBody

TEXT_PAGE = 64 << 10
"""Bytes of plain text in one page of the cache."""

_TEXT_CHUNK = 64 << 10
# These take milliseconds for a page; the others a fraction of one.
_SLOW = frozenset({Compression.BZIP2, Compression.XZ})


class BodyDecoder(Protocol):
    """Makes plain bytes of stored ones, like :class:`~dboxfs.dbox.compression.Decompressor`."""

    @property
    def eof(self) -> bool:
        """Whether all output was read."""

    def feed(self, data: bytes) -> None:
        """Take the next stored bytes."""

    def finish(self) -> None:
        """Mark the end of the stored bytes.

        :raises FormatError: they end too early, or are damaged.
        """

    def read(self, max_bytes: int) -> bytes:
        """The next plain bytes, at most *max_bytes*; empty: the decoder needs input, or is at its end.

        :raises FormatError: damage.
        """


class Decoding(Struct, frozen=True):
    """The decoding of one message's stored bytes.

    ``decoder``: makes a new decoder, for the beginning of the message.  ``compression``: of the text.
    ``size``: plain bytes; None: only the metadata have it.
    """

    decoder: Callable[[], BodyDecoder]
    compression: Compression | None
    size: int | None


class Body(Protocol):
    """A message's bytes."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def pread(self, size: int, offset: int) -> bytes:
        """The bytes at *offset*, if they can be had without waiting.

        :raises BlockingIOError: they can't; ``read`` waits.
        """

    async def read(self, size: int, offset: int) -> bytes:
        """The bytes at *offset*.  A cancellation at any time loses nothing."""

    def handed(self) -> None:
        """Note that the kernel has all bytes in its cache: the daemon's own pages of them may go first."""

    def close(self) -> None:
        """Release the files behind the body."""


class CompressedBody:
    """A decompressed or decrypted body with pages in the daemon's cache.

    Reading forward decompresses once; going back to a page that the cache has dropped begins again.  The key
    of the pages is the message and its place, so a later reader of the message uses them, too.
    """

    def __init__(
        self, cache: PageCache, inner: PlainBody, opened: OpenRecord, size: int, decoding: Decoding
    ) -> None:
        record = opened.record
        self._cache = cache
        self._key = (opened.path, record.offset, record.metadata.guid, record.stored_size, size)
        self._inner = inner
        self._path = opened.path
        self._base = opened.record.body_offset
        self.size = size
        self._new_decoder = decoding.decoder
        self._slow = decoding.compression in _SLOW
        self._decoder = self._new_decoder()
        self._taken = 0
        self._next_page = 0
        self._lock = trio.Lock()

    def pread(self, size: int, offset: int) -> bytes:
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        pages = []
        for number in range(offset // TEXT_PAGE, (end - 1) // TEXT_PAGE + 1):
            page = self._cache.get(self._key, number)
            if page is None:
                raise BlockingIOError
            pages.append(page)
        return _cut(pages, offset, end)

    async def read(self, size: int, offset: int) -> bytes:
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        async with self._lock:
            pages = [
                await self._page(number) for number in range(offset // TEXT_PAGE, (end - 1) // TEXT_PAGE + 1)
            ]
        return _cut(pages, offset, end)

    async def _page(self, number: int) -> bytes:
        page = self._cache.get(self._key, number)
        if page is not None:
            return page
        if number < self._next_page:
            self._restart()
        while True:
            try:
                page = await self._decode_page()
            except BaseException:
                self._restart()  # a cancelled or failed step leaves the decoder somewhere in the middle
                raise
            self._cache.put(self._key, self._next_page, page, used=self._next_page == number)
            if self._next_page:
                self._cache.passed(self._key, self._next_page - 1)
            self._next_page += 1
            if self._next_page > number:
                return page

    def _restart(self) -> None:
        self._decoder = self._new_decoder()
        self._taken = self._next_page = 0

    async def _decode_page(self) -> bytes:
        wanted = min(TEXT_PAGE, self.size - self._next_page * TEXT_PAGE)
        out: list[bytes] = []
        try:
            while wanted:
                piece = await self._step(wanted)
                if not piece:
                    raise FormatError(
                        self._taken, f"decompressed text ends {wanted} bytes before its size of {self.size}"
                    )
                out.append(piece)
                wanted -= len(piece)
            if (self._next_page + 1) * TEXT_PAGE >= self.size and await self._step(1):
                raise FormatError(self._taken, f"decompressed text is longer than its size of {self.size}")
        except FormatError as exc:
            raise CorruptFile(self._path, self._base + exc.offset, exc.reason) from exc
        return b"".join(out)

    async def _step(self, wanted: int) -> bytes:
        decoder = self._decoder
        while True:
            if self._slow:
                piece = await trio.to_thread.run_sync(decoder.read, wanted)
            else:
                piece = decoder.read(wanted)
            if piece or decoder.eof:
                return piece
            chunk = await self._inner.read(_TEXT_CHUNK, self._taken)
            if chunk:
                self._taken += len(chunk)
                decoder.feed(chunk)
            else:
                decoder.finish()

    def handed(self) -> None:
        for number in range((self.size + TEXT_PAGE - 1) // TEXT_PAGE):
            self._cache.handed(self._key, number)

    def close(self) -> None:
        self._inner.close()


def _cut(pages: list[bytes], offset: int, end: int) -> bytes:
    start = offset % TEXT_PAGE
    if len(pages) == 1:
        return pages[0][start : start + end - offset]
    return b"".join(pages)[start : start + end - offset]


class AssembledBody:
    """A body with its attachments put back (dbox-files section 3).

    :param files: gives the path of an attachment's file.
    """

    def __init__(
        self,
        fs: FileSystem,
        inner: PlainBody | CompressedBody,
        segments: tuple[Segment, ...],
        files: Callable[[ExtRef], str],
    ) -> None:
        self._fs = fs
        self._inner = inner
        self._segments = segments
        self._starts = [segment.out_start for segment in segments]
        self._files = files
        self._handles: dict[str, Handle] = {}
        last = segments[-1] if segments else None
        self.size = last.out_start + last.size if last is not None else 0

    def pread(self, size: int, offset: int) -> bytes:
        if offset >= self.size or size <= 0:
            return b""
        raise BlockingIOError

    async def read(self, size: int, offset: int) -> bytes:
        end = min(offset + size, self.size)
        out: list[bytes] = []
        at = max(bisect.bisect_right(self._starts, offset) - 1, 0)
        while offset < end:
            segment = self._segments[at]
            skip = offset - segment.out_start
            wanted = min(end - offset, segment.size - skip)
            if isinstance(segment.source, ExtRef):
                out.append(await self._external(segment.source, skip, skip + wanted))
            else:
                out.append(await self._inner.read(wanted, segment.source + skip))
            offset += wanted
            at += 1
        return b"".join(out)

    async def _external(self, ref: ExtRef, start: int, end: int) -> bytes:
        path = self._files(ref)
        handle = self._handles.get(ref.path)
        if handle is None:
            handle = self._handles[ref.path] = self._fs.open(path)
        try:
            raw_size = (await handle.wait_open()).st_size
            ref.check_raw_size(raw_size)
            if ref.line_length is None:
                return await self._exactly(handle, path, start, end)
            first, last = raw_range(start, end, ref.line_length, ref.crlf, raw_size)
            raw = await self._exactly(handle, path, first, last)
            return encode_base64_range(raw, start, end, ref.line_length, ref.crlf)
        except FileNotFoundError as exc:
            raise CorruptFile(path, 0, "the file of an external attachment is missing") from exc
        except FormatError as exc:
            raise CorruptFile(path, exc.offset, exc.reason) from exc

    @staticmethod
    async def _exactly(handle: Handle, path: str, start: int, end: int) -> bytes:
        data = await handle.read(end - start, start)
        if len(data) < end - start:
            raise CorruptFile(path, start + len(data), "the file of an external attachment ends early")
        return data

    def handed(self) -> None:
        self._inner.handed()

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()
        self._inner.close()


async def settled(opened: OpenRecord) -> OpenRecord:
    """The same record with certainty whether it is compressed or encrypted.

    If the first bytes look so and the metadata leave it open, the whole body is read, piece by piece.
    Cancelled or failed: the caller still owns *opened*.

    :raises CorruptFile: the file ends inside the message.
    :raises OSError: it can't be read.
    """
    record = opened.record
    if not record.doubtful:
        return opened
    doubt = Doubt(record.compression, record.stored_size, record.metadata)
    body = PlainBody(opened.handle, opened.path, record.body_offset, record.stored_size, opened.close)
    for offset in range(0, record.stored_size, _TEXT_CHUNK):
        piece = await body.read(_TEXT_CHUNK, offset)
        if record.compression in _SLOW:
            await trio.to_thread.run_sync(doubt.feed, piece)
        else:
            doubt.feed(piece)
    sure = replace(record, doubtful=False)
    if doubt.plain():
        sure = replace(sure, compression=None, encrypted=False, as_it_is=True)
    return replace(opened, record=sure)


async def settled_or_closed(opened: OpenRecord) -> OpenRecord:
    """:func:`settled`; if it is cancelled or fails, *opened* is closed."""
    try:
        return await settled(opened)
    except BaseException:
        opened.close()
        raise


async def whole(
    opening: Awaitable[OpenRecord], body_of: Callable[[OpenRecord], Awaitable[Body]]
) -> bytes | None:
    """All bytes of a message, read ahead of a request; None: they can't be read, and the request gets the
    error.

    :param opening: gives its record.  :param body_of: makes a body of the settled record, which it owns.
    """
    try:
        body = await body_of(await settled_or_closed(await opening))
    except (DboxfsError, OSError):
        return None
    try:
        data = await body.read(body.size, 0)
        body.handed()
    except (DboxfsError, OSError):
        return None
    finally:
        body.close()
    return data


def open_body(
    fs: FileSystem,
    opened: OpenRecord,
    attachments: str | None,
    suffix: str,
    decrypting: Decoding | None = None,
) -> Body:
    """The plain bytes of the record in *opened*, which the body owns from now on, also if this raises.

    :param opened: its record is :func:`settled`.
    :param attachments: Dovecot's ``mail_attachment_dir``; None: not known.
    :param suffix: the part of an attachment's file name behind its path (sdbox: mailbox guid and uid).
    :param decrypting: the decoding of an encrypted record (:func:`dboxfs.store.decrypt.decrypting`).
    :raises CorruptFile: the record contradicts itself, or needs attachments that can't be found.
    :raises EncryptedMessage: the record is encrypted, and *decrypting* is None.
    """
    record = opened.record
    if record.encrypted and decrypting is None:
        opened.close()
        raise EncryptedMessage(opened.path, record.offset)
    try:
        plain = PlainBody(opened.handle, opened.path, record.body_offset, record.stored_size, opened.close)
        refs: tuple[ExtRef, ...] = ()
        value = record.metadata.ext_refs
        if value is not None:
            refs = parse_ext_refs(value, base=record.metadata.value_offset(b"X") or 0)
        inner_size = record.size - sum(ref.size for ref in refs)
        inner: PlainBody | CompressedBody = plain
        decoding = decrypting
        if record.compression is not None:
            decoding = Decoding(partial(Decompressor, record.compression), record.compression, None)
        size = plain.size if decoding is None else decoding.size
        if size is not None and inner_size != size:
            raise FormatError(record.offset, f"stored {size} bytes, expected {inner_size}")
        if decoding is not None:
            inner = CompressedBody(fs.cache, plain, opened, inner_size, decoding)
        if not refs:
            return inner
        if attachments is None:
            raise FormatError(
                record.offset,
                "its attachments are in files of their own; mount it with -o attachments=DIR",
            )
        directory = attachments
        return AssembledBody(
            fs, inner, plan(refs, inner_size), lambda ref: os.path.join(directory, ref.path + suffix)
        )
    except FormatError as exc:
        opened.close()
        raise CorruptFile(opened.path, exc.offset, exc.reason) from exc
