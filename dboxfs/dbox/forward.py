"""A format 3 record read forward, as its bytes come: body out, trailer at the end, memory bounded.

The length of the body is not known in advance.  The body ends at its own trailer, which has the trailer
magic, the separator of the message header, the size of the bytes so far, a right L line, and a tag that is
valid for this place.  Any other bytes that look like a trailer belong to the body::

    HEADER --19 bytes--> BODY --trailer found--> END
                          |  candidate (magic and separator), not whole yet: wait for more
                          |  candidate that is no trailer: one byte of body, look on

``to_end``: the record ends with the input (a ``u.N``; an ``m.N`` record whose end the map has).  Then a
trailer that is followed by bytes belongs to the body, too, and for every input the result is the record that
:func:`~dboxfs.dbox.format3.parse_last_trailer` finds from the end.  Without ``to_end`` (``m.N`` without a
map) the first trailer counts.  The bytes behind it are in ``unused`` and are not parsed, so that damage in
the next record does not affect this one.

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

    :param offset: of the record in its file.
    :param to_end: the record ends with the input.
    :ivar record: the trailer, once the record is complete.
    :ivar unused: fed bytes behind the record.
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
        """Take the next bytes; gives those that certainly belong to the body, possibly none.

        :raises FormatError: there is no message header at ``offset``.
        :raises ValueError: the record is complete.
        """
        if self.record is not None:
            raise ValueError("the record is complete")
        self._buffer += data
        return self._advance(at_end=False)

    def finish(self) -> bytes:
        """End the input; gives the last bytes of the body, if there are any.

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
        """The trailer at the beginning of the buffer; NeedMore: too short to decide; None: body."""
        body_size = self._base - self._offset - MESSAGE_HEADER_SIZE_3
        if len(self._buffer) >= TRAILER_HEAD_SIZE and not begins_trailer(
            self._buffer, self._mark[2:], body_size
        ):
            return None
        try:
            trailer = parse_trailer(self._buffer, base=self._base)
        except FormatError:
            return None  # it only looked like a trailer
        if isinstance(trailer, NeedMore):
            return None if at_end else trailer
        follows = len(self._buffer) - trailer.size
        if not self._to_end or (at_end and not follows):
            return trailer
        return None if follows else NeedMore(trailer.size + 1)

    def _emit(self, size: int) -> bytes:
        """Take the first bytes of the buffer, which belong to the body."""
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._base += size
        self._searched = max(0, self._searched - size)
        return taken
