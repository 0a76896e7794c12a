"""The text of a found message for the writer: in memory if it is small, else as a source."""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.dbox import (
    PREFIX_SIZE,
    Decompressor,
    ExtRef,
    Metadata,
    encode_base64_range,
    encoded_size,
    is_encrypted,
    parse_ext_refs,
    plan,
)
from dboxfs.errors import CorruptFile, EncryptedMessage, FormatError
from dboxfs.fsapi import FileSystem, Handle, Peek, PeekResult
from dboxfs.store.backend import OpenRecord
from dboxfs.store.body import Body, open_body
from dboxfs.store.decrypt import decrypting
from dboxfs.store.location import Location
from dboxfs.store.salvage import Trust
from dboxfs.store.salvage.trailer import read_block
from dboxfs.store.stored_record import Record
from dboxfs.store.write import BodySource, Coded, Source
from dboxfs.tools.rescue.rows import Row
from dboxfs.tools.rescue.scan_files import File

WHOLE_TEXT = 256 << 10
"""Largest text, in bytes, that is read into memory."""

_END = re.compile("-[0-9a-f]{32}-[1-9][0-9]*")
_MOST_PARTIAL = 64 << 20
_LONGEST_METADATA = 1 << 20
_STEP = 64 << 10
_KEEP_OPEN = 16


class RangeSource(Struct, frozen=True):
    """*size* bytes of a file, from offset *base*."""

    handle: Handle
    base: int
    size: int

    async def read(self, size: int, offset: int) -> bytes:
        return await self.handle.read(min(size, self.size - offset), self.base + offset)

    async def descriptor(self) -> int | None:
        return None


class Texts:
    """Reads texts from the old store's files.

    :param suffixes: sdbox: by mailbox, the part of its attachments' file names before the uid (``-guid-``),
        where it is known.
    """

    def __init__(self, fs: FileSystem, location: Location, suffixes: Mapping[str, str]) -> None:
        self._fs = fs
        self._location = location
        self._suffixes = suffixes
        self._open: OrderedDict[str, Handle] = OrderedDict()
        self._bodies: list[Body] = []

    async def text(self, file: File, row: Row) -> bytes | Source:
        """The whole text; of a damaged message, the part that is left.

        :raises CorruptFile: the text can't be put together.
        :raises OSError: the file can't be read.
        """
        if row.external and row.trust is not Trust.DAMAGED:
            return await self._assembled(file, row)
        if row.compression is None:
            return await self._stored(file, row)
        if row.plain <= WHOLE_TEXT or row.trust is Trust.DAMAGED:
            return await self._decompressed(file, row)
        return await self._assembled(file, row)

    @property
    def knows_attachments(self) -> bool:
        """Whether the directory of attachments that are files of their own is known."""
        return self._location.attachments is not None

    async def missing(self, file: File, row: Row) -> list[str]:
        """The problems, in words, of a message's attachments that are files of their own.

        :raises OSError: the message's file can't be read.
        """
        if not row.external:
            return []
        if self._location.attachments is None:
            return ["its attachments are in files of their own: give --attachments DIR"]
        metadata = await self._metadata(file, row)
        try:
            refs = parse_ext_refs(metadata.ext_refs or b"")
        except FormatError as exc:
            return [exc.reason]
        suffix = await self._suffix(file, refs)
        paths = [self._attachment(ref, suffix) for ref in refs]
        wrong = []
        for ref, path, found in zip(
            refs, paths, await self._fs.peek([Peek(p, ()) for p in paths]), strict=True
        ):
            if isinstance(found, PeekResult):
                try:
                    ref.check_raw_size(found.stat.st_size)
                except FormatError as exc:
                    wrong.append(f"{path}: {exc.reason}")
            else:
                wrong.append(f"{path}: {found.strerror}")
        return wrong

    async def partial(self, file: File, row: Row) -> bytes:
        """The part that is left of a message whose attachments are missing.

        :raises OSError: the message's file can't be read.
        """
        if row.compression is None:
            stored = await self._stored(file, row)
            inner = stored if isinstance(stored, bytes) else await stored.read(_MOST_PARTIAL, 0)
        else:
            inner = await self._decompressed(file, row)
        try:
            refs = parse_ext_refs((await self._metadata(file, row)).ext_refs or b"")
            segments = plan(refs, len(inner))
        except FormatError:
            return inner
        suffix, out = await self._suffix(file, refs), bytearray()
        for segment in segments:
            if len(out) >= _MOST_PARTIAL:
                break
            if isinstance(segment.source, ExtRef):
                out += await self._what_is_there(segment.source, suffix)
            else:
                out += inner[segment.source : segment.source + segment.size]
        return bytes(out)

    def _attachment(self, ref: ExtRef, suffix: str) -> str:
        """The file of an attachment."""
        assert self._location.attachments is not None
        return os.path.join(self._location.attachments, ref.path + suffix)

    async def _suffix(self, file: File, refs: Sequence[ExtRef]) -> str:
        """The end of the names of a message's attachment files.

        sdbox: the mailbox's guid and the uid.  If the guid is lost, it is taken from the names of the
        attachment files: the files of all copies of a message differ only in that end.
        """
        if file.mailbox is None:
            return ""
        known = self._suffixes.get(file.mailbox)
        if known is not None:
            return f"{known}{file.number}"
        ends = [await self._ends(ref) for ref in refs]
        common = set[str]().union(*ends[:1]).intersection(*ends)
        own = [end for end in common if end.endswith(f"-{file.number}")]
        return min(own or common, default=str(file.number))

    async def _ends(self, ref: ExtRef) -> set[str]:
        """The ends of the names of all files of an attachment."""
        directory, name = os.path.split(self._attachment(ref, ""))
        try:
            entries = await self._fs.listdir(directory)
        except OSError:
            return set()
        ends = (entry.name.removeprefix(name) for entry in entries if entry.name.startswith(name))
        return {end for end in ends if _END.fullmatch(end)}

    async def _what_is_there(self, ref: ExtRef, suffix: str) -> bytes:
        """The beginning of an attachment, as far as its file is there."""
        if self._location.attachments is None:
            return b""
        path = self._attachment(ref, suffix)
        (found,) = await self._fs.peek([Peek(path, ((0, None),), limit=_MOST_PARTIAL)])
        raw = found.chunks[0] if isinstance(found, PeekResult) else b""
        if ref.line_length is None:
            return raw[: ref.size]
        size = min(ref.size, encoded_size(len(raw), ref.line_length, ref.crlf))
        return encode_base64_range(raw, 0, size, ref.line_length, ref.crlf) if raw else b""

    async def coded(self, file: File, row: Row) -> Coded:
        """The sizes of an encrypted message from its metadata: without the key they can't be counted.

        :raises CorruptFile: the metadata don't have the sizes.
        :raises OSError: the file can't be read.
        """
        metadata = await self._metadata(file, row)
        try:
            size, virtual = metadata.physical_size, metadata.virtual_size
        except FormatError as exc:
            raise CorruptFile(file.path, exc.offset, exc.reason) from exc
        if virtual is None:
            raise CorruptFile(file.path, row.offset, "the sizes of an encrypted message are lost")
        return Coded(row.body_size if size is None else size, virtual)

    def done(self) -> None:
        """The caller no longer needs the sources that it got: close them, but keep the last files open."""
        for body in self._bodies:
            body.close()
        self._bodies.clear()
        while len(self._open) > _KEEP_OPEN:
            self._open.popitem(last=False)[1].close()

    def close(self) -> None:
        """Close everything."""
        self.done()
        for handle in self._open.values():
            handle.close()
        self._open.clear()

    def _handle(self, path: str) -> Handle:
        handle = self._open.get(path)
        if handle is None:
            handle = self._open[path] = self._fs.open(path, nofollow=True)
        self._open.move_to_end(path)
        return handle

    async def _stored(self, file: File, row: Row) -> bytes | Source:
        handle = self._handle(file.path)
        if row.body_size > WHOLE_TEXT:
            return RangeSource(handle, row.body_offset, row.body_size)
        return await self._exactly(handle, row.body_size, row.body_offset)

    async def _exactly(self, handle: Handle, size: int, offset: int) -> bytes:
        data = await handle.read(size, offset) if size else b""
        if len(data) != size:
            raise OSError(errno.EIO, "the file changed while it was read", handle.path)
        return data

    async def _decompressed(self, file: File, row: Row) -> bytes:
        assert row.compression is not None
        handle = self._handle(file.path)
        decoder, out, offset = Decompressor(row.compression), bytearray(), 0
        wanted = min(row.plain, _MOST_PARTIAL)
        while len(out) < wanted and not decoder.eof:
            if decoder.needs_input:
                size = min(_STEP, row.body_size - offset)
                piece = await self._exactly(handle, size, row.body_offset + offset)
                offset += len(piece)
                if not piece:
                    break
                decoder.feed(piece)
            try:
                out += decoder.read(wanted - len(out))
            except FormatError:
                break  # the text up to here is all that is left; the scan has reported it
        return bytes(out)

    async def _assembled(self, file: File, row: Row) -> Source:
        metadata = await self._metadata(file, row)
        try:
            plain = metadata.physical_size
        except FormatError as exc:
            raise CorruptFile(file.path, exc.offset, exc.reason) from exc
        size = plain if plain is not None and row.external else row.plain
        end = metadata.base + metadata.size
        record = Record(row.offset, row.body_offset, row.body_size, size, row.compression, metadata, end)
        suffix = await self._suffix(file, _refs(metadata)) if row.external else ""
        handle = self._fs.open(file.path, nofollow=True)
        try:
            first = await handle.read(min(PREFIX_SIZE, row.body_size), row.body_offset)
            record = replace(record, encrypted=row.compression is None and is_encrypted(first))
            opened = OpenRecord(handle, file.path, record, handle.close)
            how = await decrypting(opened, self._location.keys)
            if record.encrypted and how is None:
                raise EncryptedMessage(file.path, row.offset)
        except EncryptedMessage as exc:
            handle.close()
            what = "it is encrypted and has attachments in files of their own: give its key with --crypt-key"
            raise CorruptFile(file.path, row.offset, what) from exc
        except BaseException:
            handle.close()
            raise
        body = open_body(self._fs, opened, self._location.attachments, suffix, how)
        self._bodies.append(body)
        return BodySource(body)

    async def _metadata(self, file: File, row: Row) -> Metadata:
        if not row.metadata_offset:
            return Metadata((), 0, row.body_offset + row.body_size)
        handle = self._handle(file.path)
        data = await handle.read(_LONGEST_METADATA, row.metadata_offset)
        block = read_block(data, row.metadata_offset, to_the_end=len(data) < _LONGEST_METADATA)
        return block.metadata if block is not None else Metadata((), 0, row.metadata_offset)


def _refs(metadata: Metadata) -> Sequence[ExtRef]:
    """The attachments that the metadata name; none, if they can't be read."""
    try:
        return parse_ext_refs(metadata.ext_refs or b"")
    except FormatError:
        return ()
