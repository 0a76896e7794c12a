"""Scenarios that are no walk over all messages: one of 30 MB, and a mailbox with very many."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from bench import subjects
from bench.clients import FIND, LS, Sample, cpu_of, drop_caches, load, measure, memory_of
from bench.giant import build_giant
from bench.goals import FIND_CELL, LIST_CELL, MEMORY_CELL
from bench.run import Bench

_SCAN_PATIENCE = 60.0
_PATIENCE = 60.0
"""Seconds that are spent on one listing at most; who needs more has missed the goal by a factor of ten."""


def big_message(bench: Bench, rounds: int) -> None:
    """Read each 30 MB message of a fresh mount for the first time, its bytes in the kernel's cache below."""
    work, stores = bench.work, bench.stores
    ours = subjects.Dboxfs("big-mdbox", stores.big_mdbox, work)
    peer = subjects.passthrough("big-passthrough", stores.big_plain, work)
    both = [("big/first/mdbox", ours, stores.big_mdbox), ("big/first/passthrough", peer, stores.big_plain)]
    for number in range(rounds):
        for cell, subject, source in both[:: -1 if number % 2 else 1]:
            what = f"round {number + 1} of {rounds}: {subject.name}"
            bench.attempt(what, partial(_read_all, bench, cell, subject, source))


def _read_all(bench: Bench, cell: str, subject: subjects.Subject, source: Path) -> None:
    load(source)
    with subject:
        subject.fresh(cold=False)
        for path in sorted(subject.path.rglob("*.eml")):
            bench.cells.samples.setdefault(cell, []).append(_read_once(path, subject))


def _read_once(path: Path, subject: subjects.Subject) -> Sample:
    buffer = memoryview(bytearray(1 << 20))
    daemon, mine, start = cpu_of(subject.pid), time.process_time(), time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while os.readv(descriptor, [buffer]):
            pass
    finally:
        os.close(descriptor)
    wall = time.perf_counter() - start
    return Sample(wall, time.process_time() - mine, cpu_of(subject.pid) - daemon)


def many_messages(bench: Bench, entries: int, rounds: int) -> None:
    """``find`` on a fresh mount of *entries* messages; ``ls -l`` of a tenth of them, sizes known."""
    giant, seconds = build_giant(bench.work, "giant", entries, bench.doveadm)
    hundred, more = build_giant(bench.work, "hundred", max(entries // 10, 1), bench.doveadm)
    bench.stores.seconds["giant"] = seconds + more
    plan = [(FIND_CELL, giant, entries, _find), (LIST_CELL, hundred, max(entries // 10, 1), _list)]
    for number in range(rounds):
        for cell, store, count, step in plan:
            if any(sample.cut for sample in bench.cells.samples.get(cell, [])):
                continue  # once too slow is enough
            mount = subjects.Dboxfs(store.name.partition("-")[0], store, bench.work)
            what = f"round {number + 1} of {rounds}: {count} messages"
            bench.attempt(what, partial(step, bench, mount, count))


def _find(bench: Bench, mount: subjects.Dboxfs, entries: int) -> None:
    with mount:
        mount.fresh(cold=True)
        sample = measure(FIND.command(mount.path / "INBOX"), daemon=mount.pid, patience=_PATIENCE)
        assert mount.pid is not None
        memory = memory_of(mount.pid)
    _take(bench, FIND_CELL, sample, entries)
    bench.cells.values.setdefault(MEMORY_CELL, []).append(memory / 1e6)


def _list(bench: Bench, mount: subjects.Dboxfs, entries: int) -> None:
    with mount:
        mount.fresh(cold=True)
        command = LS.command(mount.path / "INBOX")
        measure(command, patience=_PATIENCE)
        deadline = time.monotonic() + _SCAN_PATIENCE
        while mount.stats()["scans_running"] and time.monotonic() < deadline:
            time.sleep(0.1)
        drop_caches()
        sample = measure(command, daemon=mount.pid, patience=_PATIENCE)
    _take(bench, LIST_CELL, sample, entries)


def _take(bench: Bench, cell: str, sample: Sample, entries: int) -> None:
    bench.cells.samples.setdefault(cell, []).append(sample)
    bench.cells.values.setdefault(cell, []).append(sample.wall / entries * 1e6)
