"""Streams: bytes in order on top of handles, used in the same nonblocking way.

``read`` and ``write`` answer from the buffer or raise :class:`BlockingIOError`; callbacks and awaitables tell
when to try again.  An input stream can be read before its file is open; a missing file is then ENOENT from
the read.  Both kinds have a bounded buffer and may be subclassed: override :meth:`InputStream.fill` or
:meth:`OutputStream.flush`.

A stream belongs to one reader or one writer at a time, on the loop's thread.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from dboxfs.fsapi.handle import Handle

Callback = Callable[[Any], None]


class InputStream:
    """The bytes of a handle from ``start`` to ``end`` (None: to the end of the file).

    :param handle: this stream reads it, and closes it at its end.
    :param buffer_size: bytes that are asked for at once, and kept at most.
    """

    def __init__(
        self, handle: Handle, start: int = 0, end: int | None = None, *, buffer_size: int = 128 << 10
    ) -> None:
        if buffer_size < 1 or start < 0 or (end is not None and end < start):
            raise ValueError("a stream needs a buffer and a range")
        self.handle = handle
        self._buffer_size = buffer_size
        self._buffer = memoryview(b"")
        self._offset = start
        self._end = end

    @property
    def offset(self) -> int:
        """Position in the file of the byte that :meth:`read` gives next."""
        return self._offset

    @property
    def buffered(self) -> int:
        """Number of buffered bytes that are not read yet; never more than the buffer's size."""
        return len(self._buffer)

    def set_input_callback(self, callback: Callback | None, context: Any = None) -> None:
        """See :meth:`Handle.set_input_callback`."""
        self.handle.set_input_callback(callback, context)

    def fill(self, size: int, offset: int) -> bytes:
        """At most ``size`` bytes from ``offset``, b"" at the end.  Streams that convert override it.

        :raises BlockingIOError: the bytes are not here yet; :meth:`wait` waits for them.
        :raises OSError: the open or the read failed.
        """
        return self.handle.pread(size, offset)

    async def wait(self, offset: int) -> None:
        """Wait until :meth:`fill` at ``offset`` has an answer.  A checkpoint.  Cancelled: nothing is lost."""
        await self.handle.readable(offset, self._buffer_size)

    def read(self, size: int) -> bytes:
        """The next bytes, at least one and at most ``size``; b"" at the end.

        :raises BlockingIOError: none is here; the input callback tells when.
        :raises OSError: the open or the read failed.
        """
        if not self._buffer and size > 0:
            wanted = self._buffer_size
            if self._end is not None:
                wanted = min(wanted, self._end - self._offset)
            self._buffer = (
                memoryview(self.fill(wanted, self._offset)[:wanted]) if wanted > 0 else self._buffer
            )
        data = bytes(self._buffer[:size])
        self._buffer = self._buffer[len(data) :]
        self._offset += len(data)
        return data

    def seek(self, offset: int) -> None:
        """Go on at ``offset``; buffered bytes from there on stay."""
        ahead = offset - self._offset
        self._buffer = self._buffer[ahead:] if 0 <= ahead <= len(self._buffer) else memoryview(b"")
        self._offset = offset

    async def receive(self, size: int) -> bytes:
        """:meth:`read`, and wait.  A checkpoint only if it has to wait.  Cancelled: no byte is lost."""
        while True:
            try:
                return self.read(size)
            except BlockingIOError:
                await self.wait(self._offset)

    async def receive_exactly(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end.

        A checkpoint only if it has to wait.  Cancelled: the stream's position is unchanged.
        """
        start = self._offset
        parts: list[bytes] = []
        missing = size
        try:
            while missing and (data := await self.receive(missing)):
                parts.append(data)
                missing -= len(data)
        except BaseException:
            self.seek(start)
            raise
        return b"".join(parts)

    def close(self) -> None:
        """Close the handle."""
        self._buffer = memoryview(b"")
        self.handle.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.handle.aclose()


class OutputStream:
    """A buffer in front of a handle that writes.

    A subclass overrides :meth:`flush` to convert or to count the bytes that go out; :meth:`take` gives the
    bytes to flush and :meth:`emit` passes bytes on.

    :param handle: this stream writes it.  Closing the stream closes it; the caller commits the handle itself,
        after :meth:`finish`.
    :param buffer_size: bytes kept at most; a write that fills them flushes.
    """

    def __init__(self, handle: Handle, *, buffer_size: int = 64 << 10) -> None:
        if buffer_size < 1:
            raise ValueError("a stream needs a buffer")
        self.handle = handle
        self._buffer_size = buffer_size
        self._buffer = bytearray()
        self._out = memoryview(b"")

    @property
    def buffered(self) -> int:
        """Bytes that were written to the stream and not flushed yet; never more than the buffer's size."""
        return len(self._buffer)

    def set_output_callback(self, callback: Callback | None, context: Any = None) -> None:
        """See :meth:`Handle.set_output_callback`."""
        self.handle.set_output_callback(callback, context)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes into the buffer and return how many, at least one unless ``data`` is empty.

        :raises BlockingIOError: the buffer is full and can't be flushed now; the output callback tells when.
        :raises OSError: flushing failed.
        """
        if len(self._buffer) >= self._buffer_size:
            self._flush_unless_blocked()
        room = min(self._buffer_size - len(self._buffer), len(data))
        if not room and len(data):
            raise BlockingIOError(errno.EAGAIN, "the stream's buffer is full", self.handle.path)
        self._buffer += data[:room]
        if len(self._buffer) >= self._buffer_size:
            self._flush_unless_blocked()
        return room

    def flush(self) -> None:
        """Pass on everything that is buffered.  Subclasses may override it; it is called again after EAGAIN.

        :raises BlockingIOError: some bytes are still here; the output callback tells when to go on.
        :raises OSError: see :meth:`Handle.write`.
        """
        if self.pending():
            self.emit()
        data = self.take()
        if data:
            self.emit(data)

    def take(self) -> bytes:
        """Take all bytes out of the buffer."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def emit(self, data: bytes = b"") -> None:
        """Pass bytes on to the handle, behind those of an earlier call that it did not take.

        :raises BlockingIOError: the handle did not take all bytes; the next call goes on with the rest.
        """
        if data:
            self._out = memoryview(bytes(self._out) + data)
        while self._out:
            self._out = self._out[self.handle.write(self._out) :]

    def pending(self) -> int:
        """Bytes that :meth:`emit` could not pass on yet."""
        return len(self._out)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``.

        A checkpoint only if it has to wait.  Cancelled: some bytes from the beginning may have been taken.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self.write(view) :]
            except BlockingIOError:
                await self.handle.writable()

    async def finish(self) -> None:
        """Flush everything into the handle.

        A checkpoint only if it has to wait.  Cancelled: call it again to go on.
        """
        while True:
            try:
                self.flush()
            except BlockingIOError:
                await self.handle.writable()
            else:
                return

    def close(self) -> None:
        """Drop the buffer and close the handle, which rolls back uncommitted bytes."""
        self._buffer.clear()
        self._out = memoryview(b"")
        self.handle.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        await self.handle.aclose()

    def _flush_unless_blocked(self) -> None:
        with suppress(BlockingIOError):
            self.flush()
