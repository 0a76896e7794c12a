"""Scenarios on slow storage: how much of its latency the mount hides by doing things side by side.

Both read from the sdbox store, in which each message is a file to open.  Sizes are known before the clock
starts: the mailbox is listed and its scan awaited.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.clients import LS, TAR, Sample, cpu_of, measure
from bench.errors import BenchError
from bench.goals import MANY_CELL, ONE_CELL, SLOW_CELL
from bench.mail import Mail
from bench.run import Bench
from bench.stores import location_of
from bench.subjects import Dboxfs

TAR_LATENCY = 0.005
READER_LATENCY = 0.020
"""Seconds that an open and a read take."""

READERS = 500
_READER_WORKERS = 64
_SINGLE_READS = 21
_TAR_FOLDER = "Lists"  # a tenth of all messages: 2,000
_READER_FOLDER = "INBOX"
_SCAN_PATIENCE = 120.0
_READ_PATIENCE = 60.0


def slow_mount(bench: Bench, latency: float, workers: int) -> Dboxfs:
    """The sdbox store on storage with *latency*; 0 workers: one at a time."""
    store = bench.stores.sdbox
    how = ["--workers", str(workers)] if workers else ["--one-at-a-time"]
    command = [sys.executable, "-m", "bench.slow", "--latency", str(latency), *how, location_of(store)]
    return Dboxfs(f"slow-{workers or 'one'}", store, bench.work, command)


def tar(bench: Bench, rounds: int) -> None:
    """12: tar of a tenth of the messages with 10 and 64 workers, and (once) one at a time."""
    bench.attempt("slow storage: tar one at a time", partial(_tar, bench, 0))
    for number in range(rounds):
        for workers in (10, 64)[:: -1 if number % 2 else 1]:
            what = f"round {number + 1} of {rounds}: slow storage: tar with {workers} workers"
            bench.attempt(what, partial(_tar, bench, workers))


def _tar(bench: Bench, workers: int) -> None:
    size = sum(mail.size for mail in bench.corpus.mails if mail.folder == _TAR_FOLDER)
    mount = slow_mount(bench, TAR_LATENCY, workers)
    with mount:
        mount.start()
        directory = mount.path / _TAR_FOLDER
        _know_sizes(mount, directory)
        sample = measure(TAR.command(directory), must_read=size, daemon=mount.pid)
    bench.cells.samples.setdefault(SLOW_CELL[workers], []).append(sample)


def many_readers(bench: Bench, rounds: int) -> None:
    """13: 500 threads that read a message each, all at once, against one that reads one."""
    for number in range(rounds):
        what = f"round {number + 1} of {rounds}: slow storage: {READERS} readers"
        bench.attempt(what, partial(_many_readers, bench))


def _many_readers(bench: Bench) -> None:
    single, many = chosen_messages(
        [mail for mail in bench.corpus.mails if mail.folder == _READER_FOLDER], bench.seed
    )
    mount = slow_mount(bench, READER_LATENCY, _READER_WORKERS)
    with mount:
        mount.start()
        _know_sizes(mount, mount.path / _READER_FOLDER)
        alone = [_read_at_once(mount, [mail]) for mail in single]
        together = _read_at_once(mount, many)
    alone.sort(key=lambda sample: sample.wall)
    bench.cells.samples.setdefault(ONE_CELL, []).append(alone[len(alone) // 2])
    bench.cells.samples.setdefault(MANY_CELL, []).append(together)


def chosen_messages(mails: Sequence[Mail], seed: int) -> tuple[list[Mail], list[Mail]]:
    """Messages for the single reader, and other ones for all readers; in no order, so that nobody walks."""
    alone = min(_SINGLE_READS, len(mails) // 3)
    some = random.Random(seed).sample(mails, min(len(mails), alone + READERS))
    return some[:alone], some[alone:]


def _know_sizes(mount: Dboxfs, directory: Path) -> None:
    """List *directory* and wait until the sizes of all its messages are known."""
    measure(LS.command(directory), patience=_SCAN_PATIENCE)
    deadline = time.monotonic() + _SCAN_PATIENCE
    while mount.stats()["scans_running"]:
        if time.monotonic() > deadline:
            raise BenchError(f"{mount.name}: its scan doesn't come to an end")
        time.sleep(0.05)


def _read_at_once(mount: Dboxfs, mails: Sequence[Mail]) -> Sample:
    """The time from the moment when all readers may begin until the last one has read its message."""
    started: list[float] = []
    ended: list[float] = []
    failures: list[str] = []
    barrier = threading.Barrier(len(mails), action=lambda: started.append(time.perf_counter()))

    def read(mail: Mail) -> None:
        barrier.wait(_READ_PATIENCE)
        try:
            size = _read_whole(mount.path / mail.path)
        except OSError as exc:
            failures.append(f"{mail.path}: {exc.strerror}")
            return
        ended.append(time.perf_counter())
        if size != mail.size:
            failures.append(f"{mail.path}: {size} bytes, {mail.size} expected")

    threads = [threading.Thread(target=read, args=(mail,), daemon=True) for mail in mails]
    daemon, mine = cpu_of(mount.pid), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_READ_PATIENCE)
    if failures or len(ended) < len(mails):
        raise BenchError(f"{mount.name}: {len(ended)} of {len(mails)} readers came to an end {failures[:1]}")
    wall = max(ended) - started[0]
    return Sample(wall, time.process_time() - mine, cpu_of(mount.pid) - daemon)


def _read_whole(path: Path) -> int:
    """The bytes that a reader gets from *path*."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = 0
        while piece := len(os.read(descriptor, 1 << 20)):
            size += piece
        return size
    finally:
        os.close(descriptor)
