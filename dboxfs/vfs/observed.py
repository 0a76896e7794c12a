"""Counts of the durations of requests, and of the errors they end with, as cheap as possible.

Durations are counted in buckets by powers of two of nanoseconds, from about a microsecond on.  A quantile is
the upper end of its bucket, so it is exact to a factor of two.

Concurrency: one event loop; no method awaits.
"""

from __future__ import annotations

import errno
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

log = logging.getLogger(__name__)

BUCKETS = 40
"""Powers of two: the last one, 2**39 ns, is about nine minutes; its bucket also has all longer requests."""

FIRST = 10
"""The first bucket ends at 2**10 ns."""

EARNED = frozenset(
    {
        "ENOENT", "ENODATA", "ENOSYS", "ENOTSUP", "EEXIST", "EISDIR", "ENOTDIR", "EPERM", "EINVAL",
        "ESTALE", "ENOTEMPTY", "ENAMETOOLONG", "EBADF", "EFBIG",
    }
)  # fmt: skip
"""Errors that a request itself deserves, where nothing is wrong with the store."""


class Observed:
    """The requests of one mount.

    :ivar errors: (request, name of the errno) -> how often.
    :ivar trace: whether each request is logged.
    """

    def __init__(self) -> None:
        self.errors: Counter[tuple[str, str]] = Counter()
        self.trace = False
        self._durations: defaultdict[str, list[int]] = defaultdict(lambda: [0] * BUCKETS)
        self._sums: Counter[str] = Counter()

    def took(self, what: str, ns: int) -> None:
        """A request was answered after *ns* nanoseconds."""
        bits = ns.bit_length()
        if not FIRST <= bits < BUCKETS:
            bits = FIRST if bits < FIRST else BUCKETS - 1
        self._durations[what][bits] += 1
        self._sums[what] += ns

    def failed(self, what: str, number: int) -> None:
        """A request was answered with an error."""
        self.errors[what, errno.errorcode.get(number, str(number))] += 1

    def pushed(self, inodes: Iterable[int]) -> None:
        """Messages are put into the kernel's cache before a program has asked for their bytes."""
        if self.trace:
            log.info("trace: push %s", " ".join(map(str, inodes)))

    def quantile(self, what: str, share: float) -> float | None:
        """Seconds within which *share* (0 to 1) of the requests were answered; None: there were none."""
        row = self._durations.get(what)
        if row is None:
            return None
        wanted, seen = math.ceil(share * sum(row)), 0
        for bits, count in enumerate(row):
            seen += count
            if seen >= wanted:
                return _seconds(bits)
        raise AssertionError("the counts are at least the wanted ones")

    def histogram(self) -> Iterator[tuple[str, list[tuple[float, int]], float]]:
        """For each request: (upper end in seconds, how many took no longer) ascending, and seconds in all."""
        for what, row in sorted(self._durations.items()):
            seen, found = 0, []
            for bits in range(FIRST, BUCKETS):
                seen += row[bits]
                found.append((_seconds(bits), seen))
            yield what, found, self._sums[what] / 1e9

    def counts(self) -> dict[str, list[int]]:
        """For each request: counts of the buckets up to 2**10 ns, 2**11 ns and so on, to the last in use."""
        found = {}
        for what, row in sorted(self._durations.items()):
            last = max((bits for bits, count in enumerate(row) if count), default=FIRST)
            found[what] = row[FIRST : last + 1]
        return found

    def by_errno(self) -> dict[str, int]:
        """How often requests ended with an errno that points to the store or the machine."""
        found: Counter[str] = Counter()
        for (_, name), count in self.errors.items():
            if name not in EARNED:
                found[name] += count
        return dict(sorted(found.items()))

    def latencies(self) -> dict[str, dict[str, float]]:
        """Milliseconds: the median and the 99th percentile of each kind of request."""
        shares = {"p50": 0.5, "p99": 0.99}
        return {
            what: {name: round((self.quantile(what, share) or 0) * 1e3, 3) for name, share in shares.items()}
            for what in sorted(self._durations)
        }


def _seconds(bits: int) -> float:
    return float((1 << bits) / 1e9)
