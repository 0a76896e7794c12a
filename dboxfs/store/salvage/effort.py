"""How much work a scan may spend on guesses.

Walking from one whole record to the next costs a little more than reading.  Behind damage a scan guesses, and
a guess that comes to nothing may have cost much: a text that was decompressed, a block that had no end.  A
mail can be made so that nothing but such guesses is in it.  So a file has an amount of work for them that
grows with its size.  When it is used up no more guesses are made: whole records are still found, and what is
between two of them is one damaged record, or no message.  The time for a file is thereby linear in its size,
whatever it has.

What a message says of its own size is no guess: a text that is compressed to a thousandth and says so is
decompressed.
"""

from __future__ import annotations

from typing import Final

ATTEMPT: Final = 16 << 10
"""What it costs to look at a damaged record, in bytes that could be read in that time."""

SMALL_ATTEMPT: Final = 4 << 10
"""The same for a place that looked like a record and was none."""

_LEAST: Final = 2 << 20
_FACTOR: Final = 2
_LEAST_PLAIN: Final = 32 << 20
_FACTOR_PLAIN: Final = 4


class Effort:
    """The work that is left for a file of *size* bytes."""

    def __init__(self, size: int) -> None:
        self._left = _LEAST + _FACTOR * size
        self._plain = _LEAST_PLAIN + _FACTOR_PLAIN * size

    @property
    def exhausted(self) -> bool:
        """Nothing is left."""
        return self._left <= 0

    def spend(self, size: int) -> bool:
        """Take the work for *size* bytes that are read; False: nothing was left."""
        if self._left <= 0:
            return False
        self._left -= size
        return True

    @property
    def packed_up(self) -> bool:
        """Nothing is left for :meth:`unpack`."""
        return self._plain <= 0

    def unpack(self, size: int) -> bool:
        """The same for *size* bytes that come out of a decompression without being announced."""
        if self._plain <= 0:
            return False
        self._plain -= size
        return True
