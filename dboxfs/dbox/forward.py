"""A format 3 record read forward, as its bytes come: body out, trailer at the end, memory bounded.

Nobody has said how long the body is.  It ends where its own trailer begins: the trailer magic, the separator
that the message header gave, the size of exactly what has passed, an L line that fits and a tag that holds
for this place.  Whatever else looks like it is body::

    HEADER --19 bytes--> BODY --trailer found--> END
                          |  candidate (magic and separator), not whole yet: wait for more
                          |  candidate that is no trailer: one byte of body, look on

``to_end``: the record ends where the input does (a ``u.N``; an ``m.N`` record whose end the map tells).  Then
a trailer that bytes follow was body too.  With it this gives, for every input, the record that
:func:`~dboxfs.dbox.format3.parse_last_trailer` finds from the end.  Without it (``m.N`` without a map) the
first trailer counts, and what follows is in ``unused``; what follows is not looked at, so that damage in
the next record does not cost this one.

Memory: at most 1 MiB (the longest trailer) and one piece of input.
"""

from __future__ import annotations

from typing import Final

from dboxfs.dbox.format2 import MESSAGE_HEADER_SIZE_3, Buffer, NeedMore
from dboxfs.dbox.format3 import TRAILER_HEAD_SIZE, Trailer, begins_trailer, parse_trailer, separator_of
from dboxfs.errors import FormatError

_MARK_SIZE: Final = 18


class ForwardParser:
    """One record::

        parser = ForwardParser(offset)
        while parser.record is None:
            piece = next bytes of the file
            body = parser.feed(piece) if piece else parser.finish()

    :param offset: where the record begins in its file.
    :param to_end: the record ends where the input does.
    :ivar record: the trailer, once the record is complete.
    :ivar unused: bytes that were fed and lie behind the record.
    """

    def __init__(self, offset: int, *, to_end: bool = False) -> None:
        self.record: Trailer | None = None
        self.unused = b""
        self._offset = offset
        self._to_end = to_end
        self._mark = b""
        self._buffer = bytearray()
        self._base = offset
        self._searched = 0

    def feed(self, data: Buffer) -> bytes:
        """Take the next bytes; gives those that are body for certain, possibly none.

        :raises FormatError: there is no message header at ``offset``.
        :raises ValueError: the record is complete.
        """
        if self.record is not None:
            raise ValueError("the record is complete")
        self._buffer += data
        return self._advance(at_end=False)

    def finish(self) -> bytes:
        """The input has ended: the last bytes of the body, if there are any.

        :raises FormatError: the record is not complete.
        """
        body = b"" if self.record is not None else self._advance(at_end=True)
        if self.record is None:
            where = "its message header" if not self._mark else "its body or trailer"
            raise FormatError(
                self._base + len(self._buffer), f"the record is incomplete: the input ends inside {where}"
            )
        return body

    def _advance(self, *, at_end: bool) -> bytes:
        if not self._mark:
            separator = separator_of(self._buffer, base=self._offset)
            if isinstance(separator, NeedMore):
                return b""
            self._mark = b"\x01\x03" + separator
            self._emit(MESSAGE_HEADER_SIZE_3)
        body: list[bytes] = []
        while (found := self._buffer.find(self._mark, self._searched)) >= 0:
            body.append(self._emit(found))
            trailer = self._trailer(at_end=at_end)
            if isinstance(trailer, NeedMore):
                return b"".join(body)
            if trailer is not None:
                self.record = trailer
                self.unused = bytes(self._buffer[trailer.size :])
                self._buffer.clear()
                return b"".join(body)
            self._searched = 1
        self._searched = max(0, len(self._buffer) - _MARK_SIZE + 1)
        body.append(self._emit(self._searched))
        return b"".join(body)

    def _trailer(self, *, at_end: bool) -> Trailer | NeedMore | None:
        """What begins the buffer: the trailer, something too short to tell, or (None) body."""
        body_size = self._base - self._offset - MESSAGE_HEADER_SIZE_3
        if len(self._buffer) >= TRAILER_HEAD_SIZE and not begins_trailer(
            self._buffer, self._mark[2:], body_size
        ):
            return None
        try:
            trailer = parse_trailer(self._buffer, base=self._base)
        except FormatError:
            return None  # it only looked like one
        if isinstance(trailer, NeedMore):
            return None if at_end else trailer
        follows = len(self._buffer) - trailer.size
        if not self._to_end or (at_end and not follows):
            return trailer
        return None if follows else NeedMore(trailer.size + 1)

    def _emit(self, size: int) -> bytes:
        """The first bytes of the buffer, which are body."""
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._base += size
        self._searched = max(0, self._searched - size)
        return taken
