"""Into how many jobs small reads are divided."""

from __future__ import annotations

import pytest

from dboxfs.fsapi.peek_jobs import PeekJobs


def test_reads_from_memory_are_one_job_and_reads_that_wait_are_spread_over_all_workers() -> None:
    jobs = PeekJobs(adapts=True)
    assert jobs.of(128, 10) == 128
    jobs.took(128, 128 * 20e-6)
    assert jobs.of(128, 10) == 128
    jobs.took(128, 128 * 5e-3)
    assert jobs.of(128, 10) == 13
    jobs.took(13, 13 * 220e-6)
    assert jobs.of(128, 10) == 18
    jobs.took(20, 20 * 20e-6)
    assert jobs.of(128, 10) == 128


def test_a_few_reads_do_not_tell_how_long_a_read_takes() -> None:
    jobs = PeekJobs(adapts=True)
    jobs.took(1, 5e-3)
    assert jobs.of(128, 10) == 128


@pytest.mark.parametrize("reads", [0, 1, 9, 10, 11, 1000])
def test_a_storage_without_a_cache_of_the_kernel_gets_all_workers_at_once(reads: int) -> None:
    jobs = PeekJobs(adapts=False)
    jobs.took(128, 1e-3)
    assert jobs.of(reads, 10) == min(64, max(1, -(-reads // 10)))
