"""Whether a reader would show a message: the same rules by which a mount opens it.

A scan (:mod:`dboxfs.store.salvage`) searches the file, so it finds messages that a reader refuses: a reader
only believes header, map and metadata.  So the check runs the reader's own parser on every message
(:func:`~dboxfs.store.stored_record.parse_record`) and compares the text with the size that a body would have
(:func:`~dboxfs.store.body.open_body`).  A message that one of them refuses is EIO in a mount, and an error
here.
"""

from __future__ import annotations

from msgspec import Struct

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


class Reading(Struct, frozen=True):
    """A message as a reader sees it.

    ``refused``: why it can't be read, in words; None: it can.  ``encrypted``: it needs a key.
    """

    refused: str | None
    encrypted: bool = False


class ReadableFile(Struct, frozen=True):
    """One file as a reader sees it.

    ``header``: the file's header.  ``damage``: why its header line can't be read; None: it can.  ``single``:
    the file has one message (sdbox), which ends somewhere before the end of the file.
    """

    window: Window
    header: FileHeader
    damage: FormatError | None
    single: bool

    async def reading(self, found: Found, end: int) -> Reading:
        """Whether a reader can read *found*.

        :param end: the end of its record: the end of the file (sdbox), or the offset that the map gives.
        :raises OSError: the file can't be read.
        """
        if self.damage is not None and (self.single or found.version != 3):
            return Reading(f"the file header line can't be read: {self.damage.reason}")
        try:
            record = await self._record(found.offset, end)
            _ = record.metadata.received, record.facts(0)
            _check_body(record, found.measured)
        except FormatError as exc:
            return Reading(exc.reason)
        return Reading(None, record.encrypted)

    def misled_by(self, found: Found) -> str | None:
        """The fault in the header line that makes a reader refuse the good message *found*, or None."""
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
    """Compare the size of the text with the metadata, as :func:`dboxfs.store.body.open_body` does.

    :raises FormatError: a reader would refuse the text.
    """
    if record.encrypted:
        return  # the size of a ciphertext's plain text can't be checked
    value = record.metadata.ext_refs
    refs = parse_ext_refs(value) if value is not None else ()
    inner = record.size - sum(ref.size for ref in refs)
    coded = record.compression is not None or record.encrypted
    if record.doubtful and measured is not None:  # the scan has seen in the text how it is coded
        coded = measured.compression is not None or measured.encrypted
    if not coded:
        if inner != record.stored_size:
            raise FormatError(record.offset, f"stored {record.stored_size} bytes, expected {inner}")
    elif measured is None or measured.encrypted:
        return  # the scan did not read the text, or it is encrypted
    elif measured.error is not None:
        raise FormatError(record.offset, f"the text can't be decompressed: {measured.error}")
    elif measured.plain != inner:
        size = f"the decompressed text has {measured.plain} bytes, the metadata say {inner}"
        raise FormatError(record.offset, size)
