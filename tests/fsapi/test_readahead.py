"""The sequential detector, and what a handle makes of it."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, MemoryDriver, Readahead, ThreadsDriver

KIB = 1 << 10
MIB = 1 << 20


def read_all(detector: Readahead, size: int, end: int) -> list[tuple[int, int]]:
    """A sequential reader that tells of every read it must tell of."""
    ranges = []
    for offset in range(0, end, size):
        if offset == 0 or offset + size > detector.mark:
            found = detector.observe(offset, size)
            if found is not None:
                ranges.append(found)
        detector.position = offset + size
    return ranges


def test_the_window_doubles_up_to_the_limit_and_the_ranges_join() -> None:
    detector = Readahead(MIB)
    ranges = read_all(detector, 4 * KIB, 8 * MIB)
    assert ranges[:5] == [
        (4 * KIB, 64 * KIB),
        (68 * KIB, 128 * KIB),
        (196 * KIB, 256 * KIB),
        (452 * KIB, 512 * KIB),
        (964 * KIB, MIB),
    ]
    assert {size for _, size in ranges[4:]} == {MIB}
    for (start, size), (following, _) in itertools.pairwise(ranges):
        assert start + size == following


def test_a_reader_never_reaches_what_was_not_brought() -> None:
    detector = Readahead(MIB)
    brought = 0
    for offset in range(0, 4 * MIB, 16 * KIB):
        if offset == 0 or offset + 16 * KIB > detector.mark:
            found = detector.observe(offset, 16 * KIB)
            brought = max(brought, sum(found or (0, 0)))
        detector.position = offset + 16 * KIB
        assert offset + 16 * KIB <= brought


def test_random_reads_bring_nothing() -> None:
    detector = Readahead(MIB)
    for offset in (5 * MIB, 90 * KIB, 3 * MIB, 17, 2 * MIB):
        assert detector.observe(offset, 4 * KIB) is None
        detector.position = offset + 4 * KIB
    assert detector.mark == sys.maxsize


def test_a_jump_shrinks_the_window_and_moves_it() -> None:
    detector = Readahead(MIB)
    read_all(detector, 64 * KIB, 4 * MIB)
    assert detector.window == MIB
    assert detector.observe(40 * MIB, 4 * KIB) == (40 * MIB + 4 * KIB, 256 * KIB)
    detector.position = 40 * MIB + 4 * KIB
    assert detector.observe(80 * MIB, 4 * KIB) == (80 * MIB + 4 * KIB, 64 * KIB)
    detector.position = 80 * MIB + 4 * KIB
    assert detector.observe(20 * MIB, 4 * KIB) is None
    assert detector.window == 0


def test_readers_of_one_stream_a_little_out_of_order_are_sequential() -> None:
    detector = Readahead(MIB)
    read_all(detector, 128 * KIB, 2 * MIB)
    window = detector.window
    for offset in (2 * MIB + 128 * KIB, 2 * MIB, 2 * MIB + 384 * KIB, 2 * MIB + 256 * KIB):
        detector.observe(offset, 128 * KIB)
        detector.position = offset + 128 * KIB
    assert detector.window >= window


def test_it_can_be_turned_off() -> None:
    detector = Readahead(0)
    assert read_all(detector, KIB, MIB) == []


@given(
    st.lists(st.tuples(st.integers(0, 10 * MIB), st.integers(1, 2 * MIB)), max_size=50),
    st.integers(0, 2 * MIB),
)
def test_whatever_is_read_the_window_stays_in_its_limits(reads: list[tuple[int, int]], limit: int) -> None:
    detector = Readahead(limit)
    for offset, size in reads:
        found = detector.observe(offset, size)
        assert 0 <= detector.window <= max(limit, 0)
        if found is not None:
            assert found[0] >= offset
            assert 0 < found[1] <= limit
        detector.position = offset + size


async def test_a_sequential_reader_of_slow_storage_waits_only_at_the_beginning() -> None:
    memory = MemoryDriver()
    body = os.urandom(4 * MIB + 12_345)
    memory.put("/a", body)
    driver = FaultsDriver(memory, [Fault("open", delay=0.0)])
    async with FileSystem(driver) as fs, fs.open("/a") as handle:
        got = b""
        waits = 0
        while len(got) < len(body):
            try:
                got += handle.pread(16 * KIB, len(got))
            except BlockingIOError:
                waits += 1
                await handle.readable(len(got))
            else:
                await fs.stat("/a")  # the reader takes its time
        assert got == body
        stats = fs.stats()
        assert waits <= 3
        assert stats["cache_prefetched_used"] > 50
        assert stats["cache_prefetched_in_vain"] == 0
        assert stats["driver_bytes"] <= len(body) + 64 * KIB


async def test_random_reads_of_slow_storage_bring_their_pages_only() -> None:
    memory = MemoryDriver()
    memory.put("/a", bytes(64 * MIB))
    async with FileSystem(memory) as fs, fs.open("/a") as handle:
        for number in range(50):
            await handle.read(100, (number * 7919 % 640) * 100 * KIB + 17)
        assert fs.stats()["driver_bytes"] <= 50 * 2 * 64 * KIB


async def test_a_file_that_is_opened_again_finds_its_pages_and_a_changed_one_does_not() -> None:
    memory = MemoryDriver()
    memory.put("/a", b"old bytes")
    node = memory.tree.find("/a")
    node.mtime_ns -= 10 * 10**9
    async with FileSystem(memory) as fs:
        for reads in (1, 1, 1):
            async with fs.open("/a") as handle:
                assert await handle.read(100, 0) == b"old bytes"
            assert fs.stats()["driver_reads"] == reads
        node.data[:] = b"new bytes"
        node.mtime_ns += 1
        async with fs.open("/a") as handle:
            assert await handle.read(100, 0) == b"new bytes"


async def test_pages_of_a_file_that_has_just_changed_go_when_it_is_closed() -> None:
    memory = MemoryDriver()
    memory.put("/a", b"bytes")
    async with FileSystem(memory) as fs:
        async with fs.open("/a") as handle:
            assert await handle.read(100, 0) == b"bytes"
            assert fs.stats()["cache_pages"] == 1
        assert fs.stats()["cache_pages"] == 0


@pytest.mark.parametrize(("cache_size", "most_read"), [(2 * MIB, 2.2), (4 * MIB, 2.0), (16 * MIB, 1.0)])
async def test_many_sequential_readers_do_not_push_out_each_others_pages(
    cache_size: int, most_read: float
) -> None:
    memory = MemoryDriver()
    body = bytes(range(256)) * 4 * KIB
    for number in range(40):
        memory.put(f"/{number}", body)
    async with FileSystem(memory, cache_size=cache_size) as fs:
        handles = [fs.open(f"/{number}") for number in range(40)]
        for offset in range(0, len(body), 32 * KIB):
            for handle in handles:
                assert await handle.read(32 * KIB, offset) == body[offset : offset + 32 * KIB]
        stats = fs.stats()
        assert stats["driver_bytes"] <= 40 * len(body) * most_read
        assert stats["cache_bytes"] <= cache_size
        for handle in handles:
            handle.close()


async def test_a_cold_sequential_reader_of_a_disk_asks_the_kernel_to_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "a"
    body = os.urandom(8 * MIB)
    path.write_bytes(body)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    async with FileSystem(ThreadsDriver(4)) as fs, fs.open(str(path)) as handle:
        got = [await handle.read(64 * KIB, offset) for offset in range(0, len(body), 64 * KIB)]
        assert b"".join(got) == body
        stats = fs.stats()
        assert stats["cache_pages"] == 0
        assert stats["inline_reads"] + stats["driver_reads"] >= 128
