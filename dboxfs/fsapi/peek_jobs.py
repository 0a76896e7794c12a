"""Into how many jobs of workers small reads are divided."""

from __future__ import annotations

MOST_READS = 64
"""Reads of one job at most, where the number of jobs is not adapted."""

LEAST_READS = 4
"""Reads of one job at least that tell how long a read takes."""

JOB_SECONDS = 4e-3
"""A job gets as many reads as this takes."""


class PeekJobs:
    """Divides batches of small reads.

    Each worker more costs CPU time if the bytes are in memory, because threads take the interpreter from each
    other, and saves time if each read waits for a storage.  So a job gets as many reads as would have taken
    :data:`JOB_SECONDS` the last time.

    :param adapts: False: each worker gets its share, :data:`MOST_READS` at most.
    """

    def __init__(self, *, adapts: bool) -> None:
        self._adapts = adapts
        self._seconds_each = 0.0

    def of(self, reads: int, depth: int) -> int:
        """Reads of one job, if there are so many *reads*.

        :param depth: operations in flight beyond which more bring nothing.
        """
        fair = max(1, -(-reads // max(1, depth)))
        if not self._adapts:
            return min(MOST_READS, fair)
        if not self._seconds_each:
            return max(1, reads)
        return max(fair, min(reads, int(JOB_SECONDS / self._seconds_each)))

    def took(self, reads: int, seconds: float) -> None:
        """Jobs of so many *reads* took *seconds*, side by side.  Less than :data:`LEAST_READS` tell nothing:
        the way to a worker and back may take longer.
        """
        if reads >= LEAST_READS:
            self._seconds_each = max(seconds, 1e-9) / reads
