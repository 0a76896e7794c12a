"""A message of format 3 that is read forward, as its bytes come, without knowing its end.

Finding a record by its position (``stored_record``) needs the end of the file first, or the map.  A
:class:`BodyStream` needs neither: it reads a ``u.N`` from its first byte on, also one that is not open yet,
and learns size and metadata behind the body.  Backups, copies and checks, which read all bytes anyway, need
only one pass without a seek.

Results and errors are those of :func:`dboxfs.store.stored_record.parse_record` for the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dboxfs.dbox import FileHeader, ForwardParser, NeedMore, Trailer, parse_file_header
from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import InputStream

_STREAM_PIECE = 64 << 10


class BodyStream:
    """The stored body of one record, with the interface of :class:`~dboxfs.fsapi.InputStream`.

    :param stream: begins at the start of the file (``offset`` None) or of the record, and ends with the
        record; closed with this one.
    :param offset: of the record in its file; None: the stream begins with the header line.
    :ivar header: the header line, once it was read.
    :ivar record: the trailer, once the body was read to its end.
    """

    def __init__(self, stream: InputStream, offset: int | None = None) -> None:
        self.header: FileHeader | None = None
        self.record: Trailer | None = None
        self._stream = stream
        self._head = b""
        self._parser = ForwardParser(offset, to_end=True) if offset is not None else None
        self._body = memoryview(b"")

    def set_input_callback(self, callback: Callable[[Any], None] | None, context: Any = None) -> None:
        """See :meth:`InputStream.set_input_callback`."""
        self._stream.set_input_callback(callback, context)

    def read(self, size: int) -> bytes:
        """The next bytes of the body, at least one and at most ``size``; b"" at its end.

        :raises BlockingIOError: no byte is here yet; the input callback is called when there is.
        :raises OSError: the open or the read failed.
        :raises CorruptFile: there is no whole record of format 3, so the bytes read so far belong to no
            message.
        """
        while not self._body and self.record is None and size > 0:
            piece = self._stream.read(_STREAM_PIECE)
            try:
                self._body = memoryview(self._understand(piece))
            except FormatError as exc:
                raise CorruptFile(self._stream.handle.path, exc.offset, exc.reason) from exc
        data = bytes(self._body[:size])
        self._body = self._body[len(data) :]
        return data

    def _understand(self, piece: bytes) -> bytes:
        if self._parser is None:
            self._head += piece
            header = parse_file_header(self._head)
            if isinstance(header, NeedMore):
                if not piece:
                    raise FormatError(len(self._head), "the file ends inside its header line")
                return b""
            if header.version != 3:
                raise FormatError(0, f"a file of format {header.version}, not 3")
            self.header = header
            self._parser = ForwardParser(header.size, to_end=True)
            rest = self._head[header.size :]
            self._head = b""
            return self._parser.feed(rest)
        body = self._parser.feed(piece) if piece else self._parser.finish()
        self.record = self._parser.record
        return body

    async def receive(self, size: int) -> bytes:
        """:meth:`read`, which waits.  It is a checkpoint only if it has to wait.  Cancelled: no byte is
        lost.
        """
        while True:
            try:
                return self.read(size)
            except BlockingIOError:
                await self._stream.wait(self._stream.offset)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
