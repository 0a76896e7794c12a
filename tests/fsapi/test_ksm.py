"""Merged memory: which pieces are marked, what an unwilling kernel changes, what is taken back and told."""

from __future__ import annotations

import ctypes
import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, Ksm, MemoryDriver, PageCache
from dboxfs.fsapi.cache.ksm import (
    MERGEABLE,
    MOST_PIECES,
    PIECES_LEFT_OUT,
    SMALLEST_PIECE,
    UNMERGEABLE,
    SystemCalls,
)

PIECE = 64 << 10
# proc(5) and Documentation/admin-guide/mm/ksm.rst: the form of the kernel's files
STAT = """\
ksm_rmap_items 100
ksm_zero_pages 2
ksm_merging_pages 60
ksm_process_profit 239360
ksm_merge_any: no
"""
SYSTEM = {"run": 1, "pages_shared": 10, "pages_sharing": 50, "pages_unshared": 40, "pages_scanned": 7}


class Kernel:
    """Calls that answer as told, and note what was asked."""

    def __init__(self, answers: list[int] | None = None, files: dict[str, str] | None = None) -> None:
        self.answers = answers or []
        self.files = files or {}
        self.asked: list[tuple[int, int, int]] = []
        self.thresholds: list[int] = []

    def madvise(self, address: int, length: int, advice: int) -> int:
        self.asked.append((address, length, advice))
        return self.answers.pop(0) if self.answers else 0

    def set_mapping_threshold(self, size: int) -> bool:
        self.thresholds.append(size)
        return True

    def read(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]


def piece(number: int, size: int = PIECE) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def test_the_whole_pages_of_memory_in_which_the_bytes_lie_are_marked() -> None:
    kernel = Kernel()
    data = piece(1)
    assert Ksm(kernel).mark(data)
    (address, length, advice) = kernel.asked[0]
    start = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    assert advice == MERGEABLE
    assert address % 4096 == length % 4096 == 0
    assert start - 4096 < address <= start
    assert start + PIECE <= address + length < start + PIECE + 4096


def test_what_is_small_is_not_marked() -> None:
    kernel = Kernel()
    ksm = Ksm(kernel)
    assert not ksm.mark(piece(1, SMALLEST_PIECE - 4))
    assert ksm.mark(piece(1, SMALLEST_PIECE))
    assert len(kernel.asked) == 1


def test_a_kernel_without_ksm_is_asked_once_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel([errno.EINVAL])
    cache = PageCache(1 << 20)
    ksm = Ksm(kernel)
    cache.merge(ksm)
    for number in range(5):
        cache.put("key", number, piece(number))
    assert [cache.get("key", number) for number in range(5)] == [piece(number) for number in range(5)]
    assert len(kernel.asked) == 1
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert ksm.stats()["available"] == 0
    cache.merge(None)
    assert len(kernel.asked) == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EACCES])
def test_any_other_refusal_is_final_too(code: int) -> None:
    ksm = Ksm(Kernel([code]))
    assert not ksm.mark(piece(1))
    assert not ksm.available


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM])
def test_a_kernel_that_is_short_is_left_alone_for_a_while(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel([0, code])
    ksm = Ksm(kernel)
    data = piece(1)
    assert ksm.mark(data)
    assert not ksm.mark(data)
    for _ in range(PIECES_LEFT_OUT):
        assert not ksm.mark(data)
    assert len(kernel.asked) == 2
    assert ksm.mark(data)
    stats = ksm.stats()
    assert (stats["short"], stats["left_out"], stats["marked"], stats["available"]) == (
        1,
        PIECES_LEFT_OUT,
        2,
        1,
    )
    assert not caplog.records


def test_only_so_many_pieces_are_marked_at_once() -> None:
    kernel = Kernel()
    ksm = Ksm(kernel)
    data = piece(1)
    for _ in range(MOST_PIECES):
        assert ksm.mark(data)
    assert not ksm.mark(data)
    ksm.forget(data)
    assert ksm.mark(data)
    assert ksm.stats()["left_out"] == 1


def test_what_leaves_the_cache_is_no_longer_counted() -> None:
    ksm = Ksm(Kernel())
    cache = PageCache(4 * (PIECE + 256))
    cache.merge(ksm)
    for number in range(10):
        cache.put("key", number, piece(number))
    assert ksm.stats()["marked"] == cache.stats()["pages"] == 4
    assert ksm.stats()["marked_bytes"] == 4 * PIECE
    cache.drop("key")
    assert ksm.stats()["marked"] == 0
    cache.put("key", 1, piece(1))
    cache.clear()
    assert ksm.stats()["marked"] == ksm.stats()["marked_bytes"] == 0
    assert ksm.stats()["marks"] == 11


def test_all_is_taken_back_and_what_could_not_be_is_counted() -> None:
    kernel = Kernel([0, 0, 0, 0, errno.ENOMEM, 0])
    ksm = Ksm(kernel)
    cache = PageCache(1 << 20)
    cache.put("key", 0, piece(0))  # it was here before
    cache.merge(ksm)
    cache.put("key", 1, piece(1))
    cache.put("key", 2, piece(2))
    cache.merge(None)
    marked, unmarked = kernel.asked[:3], kernel.asked[3:]
    assert {advice for _, _, advice in marked} == {MERGEABLE}
    assert {advice for _, _, advice in unmarked} == {UNMERGEABLE}
    assert sorted(span[:2] for span in marked) == sorted(span[:2] for span in unmarked)
    assert ksm.stats()["not_taken_back"] == 1
    assert ksm.stats()["marked"] == 0
    assert kernel.thresholds == [SMALLEST_PIECE, 128 << 10]
    cache.put("key", 3, piece(3))
    assert len(kernel.asked) == 6


async def test_saved_and_in_vain_are_in_the_stats_of_the_file_system() -> None:
    files = {f"/sys/kernel/mm/ksm/{name}": f"{value}\n" for name, value in SYSTEM.items()}
    kernel = Kernel(files={**files, "/proc/self/ksm_stat": STAT})
    async with FileSystem(MemoryDriver(), ksm=Ksm(kernel)) as fs:
        fs.cache.put("key", 0, piece(0))
        stats = fs.stats()
        assert stats["ksm_marked"] == 1
        assert stats["ksm_merged_bytes"] == 62 * 4096
        assert stats["ksm_vain_bytes"] == 40 * 4096
        assert stats["ksm_profit_bytes"] == 239360
        assert stats["ksm_saved_bytes"] == 50 * 4096
        assert stats["ksm_system_pages_unshared"] == 40
        assert "ksm_system_full_scans" not in stats
    assert kernel.asked[-1][2] == UNMERGEABLE, "closing takes it back"
    async with FileSystem(MemoryDriver()) as fs:
        assert not [name for name in fs.stats() if name.startswith("ksm_")], "off unless asked for"


def test_an_older_kernel_tells_less() -> None:
    stats = Ksm(Kernel(files={"/proc/self/ksm_merging_pages": "3\n"})).stats()
    assert stats["merged_bytes"] == 3 * 4096
    assert "vain_bytes" not in stats
    assert "merged_bytes" not in Ksm(Kernel()).stats()


def test_a_switched_off_ksmd_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Ksm(Kernel(files={"/sys/kernel/mm/ksm/run": "0\n"}))
    assert [record.levelno for record in caplog.records] == [logging.INFO]


REAL = """
import collections, os, re
from dboxfs.fsapi import Ksm, PageCache
from dboxfs.fsapi.cache.ksm import _span

def flags(data):
    start, _ = _span(data)
    with open("/proc/self/smaps") as maps:
        inside = False
        for line in maps:
            found = re.match("([0-9a-f]+)-([0-9a-f]+) ", line)
            if found:
                inside = int(found[1], 16) <= start < int(found[2], 16)
            elif inside and line.startswith("VmFlags:"):
                return line.split()[1:]

ksm, cache = Ksm(), PageCache(16 << 20)
cache.merge(ksm)
body = os.urandom(1 << 18)  # larger than the gaps of the heap
pages = [bytes(bytearray(body)) for _ in range(20)]
for number, page in enumerate(pages):
    cache.put("key", number, page)
_, aligned = collections.Counter(id(page) % 4096 for page in pages).most_common(1)[0]
print(ksm.available, ksm.stats()["marked"], ["mg" in flags(page) for page in pages].count(True))
assert aligned > 15, aligned
cache.merge(None)
print(ksm.stats()["not_taken_back"], ["mg" in flags(page) for page in pages].count(True))
assert [cache.get("key", number) for number in range(20)] == pages
"""


def test_the_real_kernel_marks_and_takes_back_or_says_that_it_cannot() -> None:
    # a process of its own: the C library's threshold is changed
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    if Path("/sys/kernel/mm/ksm").is_dir():
        # VmFlags of proc(5): "mg" is "mergeable advise flag"
        assert done.stdout.splitlines() == ["True 20 20", "0 0"]
    else:
        assert done.stdout.splitlines() == ["False 0 0", "0 0"]


def test_the_system_itself_refuses_what_is_no_memory_of_ours() -> None:
    calls = SystemCalls()
    assert calls.madvise(4096 * 3 + 1, 4096, MERGEABLE) == errno.EINVAL  # no page boundary
    assert calls.madvise(4096, 4096, MERGEABLE) in (errno.ENOMEM, errno.EINVAL)  # nothing is mapped there
    with pytest.raises(OSError, match="No such file"):
        calls.read("/proc/self/none")
