"""Kernel samepage merging (``--ksm``) of the page cache's memory: equal pages of memory are kept once.

Mail repeats itself: the same message in several mailboxes, the same attachment in many messages.  Where the
daemon's own cache holds such pages (decompressed messages, slow storage), the kernel's ``ksmd`` can find and
share them, if the memory is marked MERGEABLE and ``/sys/kernel/mm/ksm/run`` is 1.  It costs processor time
of the kernel, so it is off unless asked for, and the saved memory and the memory scanned in vain are counted.

**Which memory, and how.**  Each page of the cache is marked by ``madvise(MADV_MERGEABLE)``, and nothing else:

* ``prctl(PR_SET_MEMORY_MERGE)`` (Linux 6.4) would be one call, but marks all memory of the process:
  ``ksmd`` would scan the interpreter's heap in vain, and a program that measures the time of a write could
  learn about memory that has nothing to do with mail;
* an arena of aligned slots would need a copy of each page on its way to the reader, or would pull the memory
  from under a reader when a page is evicted.

**Alignment.**  ``ksmd`` compares whole pages of memory, so equal bytes must lie at equal offsets in them.
The C library's heap puts each block at another offset, and almost no page is merged: of ten copies of 100
messages of 30,000 bytes (some 7,200 pages too many) 743 pages were saved.  So ``mallopt(M_MMAP_THRESHOLD)``
is lowered to 16 KiB: then each block of that size is a mapping of its own, which begins at a page boundary,
and the bytes of all of them lie at the same offset (but for blocks that fill an old gap in the heap): 7,996
pages, headers of Python objects included.  Smaller pages of the cache aren't marked.  With a C library
without mallopt pages merge only by chance.

**Errors.**  EINVAL: the kernel has no KSM; one log line, and no page is marked any more.  EAGAIN, ENOMEM: the
kernel is short of memory; this page and the next 255 are not marked.  Any other error is treated as EINVAL.
A marked block is a mapping that doesn't join its neighbours, and a process may have 65,530 mappings: at most
16,384 pages of the cache are marked at once (1 GiB of full pages).

Everything runs on one event loop's thread; no call here waits for a disk.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
from collections.abc import Iterable
from typing import Protocol

log = logging.getLogger(__name__)

SMALLEST_PIECE = 16 << 10
"""Bytes of the smallest piece that is marked."""
MOST_PIECES = 16384
"""Pieces that are marked at once."""
PIECES_LEFT_OUT = 255
"""Pieces that are left out when the kernel was short."""
MERGEABLE, UNMERGEABLE = 12, 13  # MADV_* of <asm-generic/mman-common.h>

_M_MMAP_THRESHOLD = -3
_DEFAULT_THRESHOLD = 128 << 10
_SHORT = (errno.EAGAIN, errno.ENOMEM)
_PROCESS = "/proc/self/ksm_stat"
_PROCESS_OLD = "/proc/self/ksm_merging_pages"
_SYSTEM = "/sys/kernel/mm/ksm/"
_OF_PROCESS = ("ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages", "ksm_process_profit")
_OF_SYSTEM = ("run", "pages_shared", "pages_sharing", "pages_unshared", "pages_scanned", "full_scans")


class Calls(Protocol):
    """The calls of :class:`Ksm` to the system; tests replace them."""

    def madvise(self, address: int, length: int, advice: int) -> int:
        """madvise(2) on whole pages of memory: 0 or the errno."""
        ...

    def set_mapping_threshold(self, size: int) -> bool:
        """Have the C library make blocks of ``size`` bytes or more mappings of their own; False: it can't."""
        ...

    def read(self, path: str) -> str:
        """The text of a file of the kernel.

        :raises OSError: it can't be read.
        """
        ...


class SystemCalls:
    """The calls of the operating system."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._madvise = libc.madvise
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self._mallopt = getattr(libc, "mallopt", None)

    def madvise(self, address: int, length: int, advice: int) -> int:
        """madvise(2) of the C library."""
        return ctypes.get_errno() if self._madvise(address, length, advice) else 0

    def set_mapping_threshold(self, size: int) -> bool:
        """mallopt(3); False: this C library has none."""
        return self._mallopt is not None and self._mallopt(_M_MMAP_THRESHOLD, size) == 1

    def read(self, path: str) -> str:
        """The text of a file."""
        with open(path, encoding="ascii") as file:
            return file.read()


class Ksm:
    """Marks pieces of memory for the kernel to merge, unmarks them, and counts the saved memory.

    :ivar available: the kernel has not refused a mark yet.
    """

    def __init__(self, calls: Calls | None = None) -> None:
        self._calls = calls or SystemCalls()
        self.available = True
        self._aligned = self._calls.set_mapping_threshold(SMALLEST_PIECE)
        self._pause = 0
        self._held = 0
        self._held_bytes = 0
        self._marks = 0
        self._short = 0
        self._left_out = 0
        self._not_taken_back = 0
        if self._counter(f"{_SYSTEM}run") == 0:
            log.info("--ksm: nothing is merged until 1 is written to %srun", _SYSTEM)

    def mark(self, data: bytes) -> bool:
        """Mark the memory of ``data`` mergeable; True: done, and the caller calls :meth:`forget` later."""
        if not self.available or len(data) < SMALLEST_PIECE:
            return False
        if self._pause or self._held >= MOST_PIECES:
            self._pause = max(0, self._pause - 1)
            self._left_out += 1
            return False
        code = self._calls.madvise(*_span(data), MERGEABLE)
        if code in _SHORT:
            self._short += 1
            self._pause = PIECES_LEFT_OUT
            return False
        if code:
            self.available = False
            log.warning("--ksm: this kernel merges no memory: %s", os.strerror(code))
            return False
        self._marks += 1
        self._held += 1
        self._held_bytes += len(data)
        return True

    def forget(self, data: bytes) -> None:
        """A piece that was marked is about to be freed; its mark goes with it."""
        self._held -= 1
        self._held_bytes -= len(data)

    def take_back(self, pieces: Iterable[bytes]) -> None:
        """Unmark all marked pieces, and set the C library back to its default.

        Merged memory becomes the process's own again.  A piece that the kernel has no memory to separate
        (ENOMEM, EAGAIN) stays marked until it is freed, and is counted.
        """
        for data in pieces:
            if self._calls.madvise(*_span(data), UNMERGEABLE):
                self._not_taken_back += 1
            self.forget(data)
        self._calls.set_mapping_threshold(_DEFAULT_THRESHOLD)

    def stats(self) -> dict[str, int | float]:
        """Counters and gauges; those that the kernel doesn't have are left out.

        marked, marked_bytes: pieces of the cache that are marked now.  marks, short, left_out,
        not_taken_back: how often that happened.  aligned: 1 if the C library aligns blocks as needed.
        merged_bytes: memory of this process in merged pages, the needed copy included.  vain_bytes: memory
        that ``ksmd`` scans without having found an equal page.  profit_bytes: the kernel's own estimate of
        the memory that this process saves.  saved_bytes: memory that the whole machine saves; system_*: the
        machine's counters.  The kernel updates them only when ``ksmd`` scans.
        """
        result: dict[str, int | float] = {
            "available": int(self.available),
            "aligned": int(self._aligned),
            "marked": self._held,
            "marked_bytes": self._held_bytes,
            "marks": self._marks,
            "short": self._short,
            "left_out": self._left_out,
            "not_taken_back": self._not_taken_back,
        }
        result.update(self._from_kernel())
        return result

    def _from_kernel(self) -> dict[str, int | float]:
        result: dict[str, int | float] = {}
        process = self._of_process()
        merging, items = process.get("ksm_merging_pages"), process.get("ksm_rmap_items")
        if merging is not None:
            result["merged_bytes"] = (merging + process.get("ksm_zero_pages", 0)) * mmap.PAGESIZE
            if items is not None:
                result["vain_bytes"] = max(0, items - merging) * mmap.PAGESIZE
        if "ksm_process_profit" in process:
            result["profit_bytes"] = process["ksm_process_profit"]
        for name in _OF_SYSTEM:
            value = self._counter(_SYSTEM + name)
            if value is not None:
                result[f"system_{name}"] = value
        if "system_pages_sharing" in result:
            result["saved_bytes"] = result["system_pages_sharing"] * mmap.PAGESIZE
        return result

    def _of_process(self) -> dict[str, int]:
        try:
            lines = [line.split() for line in self._calls.read(_PROCESS).splitlines()]
        except OSError:  # before Linux 6.1
            merging = self._counter(_PROCESS_OLD)
            return {} if merging is None else {"ksm_merging_pages": merging}
        return {name: int(value) for name, value in lines if name in _OF_PROCESS}

    def _counter(self, path: str) -> int | None:
        try:
            return int(self._calls.read(path))
        except OSError:
            return None


def _span(data: bytes) -> tuple[int, int]:
    """The whole pages of memory in which the bytes lie: address and length."""
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    start = address - address % mmap.PAGESIZE
    end = address + len(data)
    return start, end - start + -end % mmap.PAGESIZE
