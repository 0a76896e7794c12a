"""A limit for the work that a scan may spend on guesses.

Walking from one whole record to the next costs a little more than reading.  Behind damage a scan guesses, and
a wrong guess may be expensive: a text that was decompressed, a block without an end.  An attacker can write a
mail that causes only such guesses.  So a file has an amount of work for guesses that grows with its size.
When it is used up, the scan makes no more guesses: it still finds whole records, and the bytes between two of
them are one damaged record, or no message.  So the time for any file is linear in its size.

A size in a message's own metadata is no guess: a text that is compressed to a thousandth is decompressed if
its metadata have that size.
"""

from __future__ import annotations

from typing import Final

ATTEMPT: Final = 22 << 10
"""The cost of examining a damaged record, in bytes that could be read in that time."""

SMALL_ATTEMPT: Final = 6 << 10
"""The same for a place that looked like a record but was none."""

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
        """Whether no work is left."""
        return self._left <= 0

    def spend(self, size: int) -> bool:
        """Spend the work for reading *size* bytes; False: none was left."""
        if self._left <= 0:
            return False
        self._left -= size
        return True

    @property
    def packed_up(self) -> bool:
        """Whether no work is left for :meth:`unpack`."""
        return self._plain <= 0

    def unpack(self, size: int) -> bool:
        """Spend the work for decompressing *size* bytes beyond the size in the metadata; False: none was
        left.
        """
        if self._plain <= 0:
            return False
        self._plain -= size
        return True
