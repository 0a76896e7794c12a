"""Count the line ends of a text, for ``V``, the size with CRLF line ends."""

from __future__ import annotations


class LineEnds:
    """Counts, over pieces of a text, its bytes and the LF that have no CR before them."""

    def __init__(self) -> None:
        self.size = 0
        self.bare = 0
        self._last_cr = False

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        if not piece:
            return
        self.size += len(piece)
        self.bare += piece.count(b"\n") - piece.count(b"\r\n")
        if self._last_cr and piece[0] == 0x0A:
            self.bare -= 1
        self._last_cr = piece[-1] == 0x0D

    @property
    def virtual_size(self) -> int:
        """Size of the text with CRLF for every line end (bytes)."""
        return self.size + self.bare
