"""Whether a reader would show a message: the same rules by which a mount opens it.

A scan (:mod:`dboxfs.store.salvage`) finds messages that a reader refuses: it looks for them, a reader only
believes header, map and metadata.  So check asks the reader's own parser about every message
(:func:`~dboxfs.store.stored_record.parse_record`) and compares the text with the size that a body would have
(:func:`~dboxfs.store.body.open_body`); whatever they refuse is EIO in a mount, and an error here.
"""

from __future__ import annotations

from dataclasses import dataclass

from dboxfs.dbox import MESSAGE_HEADER_SIZE, FileHeader, parse_ext_refs
from dboxfs.errors import FormatError
from dboxfs.store.salvage import Found, Measured, Window
from dboxfs.store.stored_record import (
    FILE_HEAD,
    LOST_HEADER,
    RECORD_HEAD,
    TAIL,
    NeedRange,
    Record,
    file_header,
    parse_record,
)

_LONGEST_LINE = 1100


@dataclass(frozen=True, slots=True)
class ReadableFile:
    """What a reader makes of one file.

    ``header``: of the file.  ``damage``: why its header line can't be read, None: it can.  ``single``: the
    file has one message (sdbox), which ends somewhere before its end.
    """

    window: Window
    header: FileHeader
    damage: FormatError | None
    single: bool

    async def refuses(self, found: Found, end: int) -> str | None:
        """Why *found* can't be read, in words; None: it can.

        :param end: where its record ends: the end of the file (sdbox), or what the map says.
        :raises OSError: the file can't be read.
        """
        if self.damage is not None and (self.single or found.version != 3):
            return f"the file header line can't be read: {self.damage.reason}"
        try:
            record = await self._record(found.offset, end)
            _ = record.metadata.received, record.facts(0)
            _check_body(record, found.measured)
        except FormatError as exc:
            return exc.reason
        return None

    def misled_by(self, found: Found) -> str | None:
        """What of the header line makes a reader refuse *found*, which is as it should be; None: nothing."""
        said = self.header.message_header_size
        if self.damage is not None or self.header.version == 3 or found.version == 3:
            return None
        if found.body_offset - found.offset != MESSAGE_HEADER_SIZE or said == MESSAGE_HEADER_SIZE:
            return None
        return (
            f"the file header line says that message headers have {said} bytes (M{said:x}), "
            f"those in the file have {MESSAGE_HEADER_SIZE}"
        )

    async def _record(self, offset: int, end: int) -> Record:
        read = self.window.handle.read
        if end > self.window.size:
            raise FormatError(
                self.window.size, f"the file ends here, the map says that a message reaches to {end}"
            )
        head = memoryview(await read(RECORD_HEAD + self.header.message_header_size, offset))
        tail_offset = max(offset, end - TAIL)
        while True:
            tail = memoryview(await read(end - tail_offset, tail_offset))
            answer = parse_record(
                head, tail, tail_offset, offset, end, header=self.header, whole=not self.single
            )
            if not isinstance(answer, NeedRange):
                return answer
            tail_offset = answer.offset


async def open_reader(window: Window, *, single: bool) -> ReadableFile:
    """Read the header line of a file as a reader does."""
    head = await window.handle.read(_LONGEST_LINE if single else FILE_HEAD, 0)
    try:
        return ReadableFile(window, file_header(head), None, single)
    except FormatError as exc:
        return ReadableFile(window, LOST_HEADER, exc, single)


def _check_body(record: Record, measured: Measured | None) -> None:
    """See :func:`dboxfs.store.body.open_body` and ``CompressedBody``."""
    if record.encrypted:
        return  # nothing of it can be counted
    value = record.metadata.ext_refs
    refs = parse_ext_refs(value) if value is not None else ()
    inner = record.size - sum(ref.size for ref in refs)
    coded = record.compression is not None or record.encrypted
    if record.doubtful and measured is not None:  # the text has told what it is
        coded = measured.compression is not None or measured.encrypted
    if not coded:
        if inner != record.stored_size:
            raise FormatError(record.offset, f"stored {record.stored_size} bytes, expected {inner}")
    elif measured is None or measured.encrypted:
        return  # nothing is known of its text
    elif measured.error is not None:
        raise FormatError(record.offset, f"the text can't be decompressed: {measured.error}")
    elif measured.plain != inner:
        size = f"the decompressed text has {measured.plain} bytes, the metadata say {inner}"
        raise FormatError(record.offset, size)
