"""Rounds in which every subject takes its turn.

A *visit* makes one subject fresh and runs some clients on it, one after the other: the first one finds
nothing in the caches (*cold*), or nothing but the bytes below the mount (*fresh*); the same client again
finds all of it (*warm*).  A round is one visit of each kind to each
subject; subjects that are compared come right after each other, and each round begins with another one and
goes the other way round, so that a slow minute of the machine hits all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import subjects
from bench.clients import (
    BORG,
    CAT,
    FIND,
    GETFATTR,
    GREP,
    LS,
    PARALLEL,
    RG,
    RSYNC,
    TAR,
    Client,
    Sample,
    drop_caches,
    load,
    measure,
)  # fmt: skip
from bench.dovecot import Doveadm
from bench.errors import BenchError
from bench.goals import Cells
from bench.mail import ABSENT, Corpus
from bench.stores import Stores, cached, location_of

Progress = Callable[[str], None]

# What one visit does: each client with the state of the caches that it finds.
_VISITS: tuple[tuple[tuple[Client, str], ...], ...] = (
    ((TAR, "cold"), (TAR, "warm"), (GREP, "warm"), (CAT, "warm")),
    ((TAR, "fresh"),),
    ((GREP, "cold"),),
    ((CAT, "cold"),),
    ((LS, "cold"),),
    ((RSYNC, "fresh"), (RSYNC, "warm")),
    ((RG, "fresh"),),
    ((PARALLEL, "fresh"),),
    ((FIND, "first"), (FIND, "second"), (LS, "first"), (LS, "second")),
    ((GETFATTR, "first"), (GETFATTR, "warm")),
    ((BORG, "first"), (BORG, "second")),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all scenarios share.

    ``seed``: of the messages. ``before``: the command that is ``dboxfs`` of an older revision, if any.
    """

    work: Path
    corpus: Corpus
    seed: int
    stores: Stores
    doveadm: Doveadm
    cells: Cells
    progress: Progress
    failures: list[str]
    before: tuple[str, ...] = ()

    def attempt(self, what: str, step: Callable[[], None]) -> None:
        """Run *step*; what goes wrong in it is noted, and the rest of the bench goes on."""
        self.progress(what)
        try:
            step()
        except BenchError as exc:
            self.failures.append(f"{what}: {exc}")


@dataclass(frozen=True, slots=True)
class _Visit:
    subject: subjects.Subject
    steps: tuple[tuple[Client, str], ...]


def rounds(bench: Bench, wanted: set[str], count: int) -> None:
    """Measure the *wanted* cells *count* times."""
    groups = _plan(bench, wanted)
    peers = _doveadm_steps(bench, wanted)
    for number in range(count):
        for group in groups:
            for visit in _turned(group, number):
                what = f"round {number + 1} of {count}: {visit.steps[0][0].name} {visit.subject.name}"
                bench.attempt(what, partial(_make_visit, bench, visit, wanted))
        for name, step in peers:
            bench.attempt(f"round {number + 1} of {count}: doveadm {name}", step)


def build_attributes(work: Path, stores: Stores, corpus: Corpus, seed: int) -> None:
    """The messages as files with the attributes that the mount shows, on the file system of the stores."""
    tree = work / "attributes"

    def make() -> None:
        shutil.rmtree(tree, ignore_errors=True)
        with subjects.Dboxfs("mdbox", stores.mdbox, work) as mount:
            mount.start()
            subprocess.run(["cp", "-a", str(mount.path), str(tree)], check=True)

    recipe: dict[str, object] = {"messages": len(corpus), "seed": seed}
    stores.seconds["attributes"] = cached(work, "attributes", recipe, make)


def _turned(group: Sequence[_Visit], number: int) -> list[_Visit]:
    start = number % len(group)
    turned = [*group[start:], *group[:start]]
    return turned[::-1] if number % 2 else turned


def _plan(bench: Bench, wanted: set[str]) -> list[list[_Visit]]:
    plan = []
    for steps in _VISITS:
        group = []
        for subject in _subjects(bench):
            cells = [f"{client.name}/{heat}/{subject.name}" for client, heat in steps]
            asked = [i for i, cell in enumerate(cells) if cell in wanted]
            if asked:
                group.append(_Visit(subject, steps[: asked[-1] + 1]))
        if group:
            plan.append(group)
    return plan


def _subjects(bench: Bench) -> list[subjects.Subject]:
    work, stores = bench.work, bench.stores
    found = [
        subjects.Dboxfs("mdbox", stores.mdbox, work),
        subjects.floor(len(bench.corpus), bench.seed, work),
        subjects.Subject("plain", stores.plain),
        subjects.Dboxfs("sdbox", stores.sdbox, work, options="open=none"),
        subjects.passthrough("passthrough", stores.plain, work),
        subjects.Subject("plain-again", stores.plain),
        subjects.Dboxfs("mdbox-again", stores.mdbox, work),
        subjects.Subject("attributes", work / "attributes"),
        subjects.passthrough("through", work / "attributes", work),
    ]
    if bench.before:
        way = subjects.unopened(bench.before)
        found += [
            subjects.Dboxfs("mdbox-before", stores.mdbox, work, program=bench.before),
            subjects.Dboxfs("sdbox-before", stores.sdbox, work, program=bench.before, options=way),
        ]
    return found


def _make_visit(bench: Bench, visit: _Visit, wanted: set[str]) -> None:
    subject = visit.subject
    with subject:
        if visit.steps[0][1] == "fresh" and subject.source is not None:
            subject.stop()
            load(subject.source)
        subject.fresh(cold=visit.steps[0][1] == "cold")
        for client, heat in visit.steps:
            cell = f"{client.name}/{heat}/{subject.name}"
            sample, requests = _client_on(bench, client, subject)
            if cell in wanted:
                bench.cells.samples.setdefault(cell, []).append(sample)
                if requests is not None:
                    bench.cells.requests.setdefault(cell, []).append(requests / len(bench.corpus))


def _client_on(bench: Bench, client: Client, subject: subjects.Subject) -> tuple[Sample, int | None]:
    """Run it; with the requests that the kernel made because of it."""
    first, before = subject.requests(), subject.requests()
    sample = measure(
        client.command(subject.path),
        status=client.status,
        must_read=bench.corpus.size if client.reads_all else 0,
        daemon=subject.pid,
    )
    after = subject.requests()
    if first is None or before is None or after is None:
        return sample, None
    return sample, after - before - (before - first)


# -- doveadm -----------------------------------------------------------------------------------------


def _doveadm_steps(bench: Bench, wanted: set[str]) -> list[tuple[str, Callable[[], None]]]:
    location = location_of(bench.stores.mdbox)
    copies = bench.work / "backup"

    def run(cell: str, *args: str | Path, must_read: int = 0) -> None:
        sample = measure(
            bench.doveadm.command(location, *args),
            environment=bench.doveadm.environment(),
            must_read=must_read,
        )
        bench.cells.samples.setdefault(cell, []).append(sample)

    def fetch() -> None:
        drop_caches()
        run("fetch/cold/doveadm", "fetch", "text", "all", must_read=bench.corpus.size)

    def search() -> None:
        load(bench.stores.mdbox)
        run("search/warm/doveadm", "search", "body", ABSENT, must_read=bench.corpus.size)

    def backup() -> None:
        shutil.rmtree(copies, ignore_errors=True)
        bench.doveadm.directory(copies)
        drop_caches()
        run("backup/cold/doveadm", "backup", *bench.doveadm.maildir(copies), must_read=bench.corpus.size)
        shutil.rmtree(copies)
        os.sync()

    steps = {"fetch/cold/doveadm": fetch, "search/warm/doveadm": search, "backup/cold/doveadm": backup}
    return [(cell.partition("/")[0], step) for cell, step in steps.items() if cell in wanted]
