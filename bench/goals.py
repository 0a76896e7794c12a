"""The rows of the answer: what is compared with what, and what is to be reached.

A *cell* is everything that was measured for one ``client/state of the caches/subject``; a row takes the
median of one cell, mostly over that of another.  Cells named here are measured; nothing else is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from bench.clients import ALL, Sample

FORMATS = ("sdbox", "mdbox")


class Measure(Enum):
    """What a row shows: the unit behind its number."""

    RATIO = "x"
    REQUESTS = "requests a file"
    SPEED = "x of its speed"
    PER_ENTRY = "µs an entry"
    CPU = "µs a file"
    MEMORY = "MB"
    HITS = "% hits"
    SAVES = "saves a second"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.  ``goal`` None: for information.  ``peer``: the cell that is divided by, if any."""

    scenario: int
    label: str
    ours: str
    peer: str | None
    measure: Measure
    goal: float | None

    @property
    def at_least(self) -> bool:
        """The goal is a lower bound."""
        return self.measure in (Measure.SPEED, Measure.HITS, Measure.SAVES)


@dataclass(slots=True)
class Cells:
    """What was measured so far, by cell.  ``values``: of single scenarios, in the unit of their row.

    ``files``: how many there are in each tree.
    """

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    requests: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    files: int = 0

    def median(self, cell: str) -> float:
        """Seconds; NaN for a cell that wasn't measured."""
        found = self.samples.get(cell)
        return statistics.median(sample.wall for sample in found) if found else math.nan


@dataclass(frozen=True, slots=True)
class Answer:
    """A row with its number, and the smallest and largest that single rounds would have given.

    ``cut``: nobody waited for the end of what it is about, so the number is only a bound.
    """

    row: Row
    value: float
    low: float
    high: float
    cut: bool = False

    @property
    def measured(self) -> bool:
        return not math.isnan(self.value)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no number."""
        if self.row.goal is None or not self.measured:
            return None
        return self.value >= self.row.goal if self.row.at_least else self.value <= self.row.goal


def _ratios() -> list[Row]:
    def ratio(scenario: int, label: str, ours: str, peer: str, goal: float | None) -> Row:
        return Row(scenario, label, ours, peer, Measure.RATIO, goal)

    rows = [
        ratio(2, "tar mdbox cold / floor", "tar/cold/mdbox", "tar/cold/floor", 1.3),
        ratio(2, "tar mdbox warm / floor", "tar/warm/mdbox", "tar/warm/floor", None),
        ratio(2, "tar mdbox, bytes in RAM / floor", "tar/fresh/mdbox", "tar/cold/floor", None),
        ratio(3, "tar mdbox cold / plain files", "tar/cold/mdbox", "tar/cold/plain", 0.7),
        ratio(4, "tar sdbox cold / plain files", "tar/cold/sdbox", "tar/cold/plain", 1.0),
        ratio(6, "tar mdbox cold / doveadm backup", "tar/cold/mdbox", "backup/cold/doveadm", 1 / 12),
        ratio(7, "grep mdbox warm / doveadm search", "grep/warm/mdbox", "search/warm/doveadm", 1 / 12),
        ratio(8, "cat mdbox cold / doveadm fetch", "cat/cold/mdbox", "fetch/cold/doveadm", 2.0),
    ]
    for store in FORMATS:
        rows += [
            ratio(
                5,
                f"{client} {store} warm / plain files",
                f"{client}/warm/{store}",
                f"{client}/warm/plain",
                1.2,
            )
            for client in ("tar", "grep", "cat")
        ]
        for client, heat, goal in (
            ("tar", "fresh", 0.75), ("tar", "warm", 0.55), ("tar", "cold", None), ("grep", "cold", None),
            ("grep", "warm", None), ("cat", "cold", None),
        ):  # fmt: skip
            ours, peer = (f"{client}/{heat}/{subject}" for subject in (store, "passthrough"))
            rows.append(ratio(9, f"{client} {store} {_HEATS[heat]} / C passthrough", ours, peer, goal))
        label = f"tar {store}, bytes in RAM / plain files warm"
        rows.append(ratio(16, label, f"tar/fresh/{store}", "tar/warm/plain", 2.0))
        for client, name in (("find", "find"), ("ls", "ls -lR")):
            cells = (f"{client}/second/{store}", f"{client}/second/plain")
            rows.append(ratio(18, f"second {name}, {store} / plain files", *cells, 1.1))
        label = f"getfattr {store} warm / the same on ext4"
        rows.append(ratio(19, label, f"getfattr/warm/{store}", "getfattr/warm/attributes", 1.3))
        rows.append(
            ratio(
                19,
                f"getfattr {store} warm / C passthrough",
                f"getfattr/warm/{store}",
                "getfattr/warm/through",
                None,
            )
        )
        label = f"borg {store}, second / the same on ext4"
        rows.append(ratio(20, label, f"borg/second/{store}", "borg/second/attributes", 1.5))
        rows.append(
            ratio(
                20,
                f"borg {store}, second / C passthrough",
                f"borg/second/{store}",
                "borg/second/through",
                None,
            )
        )
    for scenario, client, heat in ((19, "getfattr", "warm"), (20, "borg", "second")):
        ours, peer = (f"{client}/{heat}/{subject}" for subject in ("through", "attributes"))
        rows.append(ratio(scenario, f"{client} C passthrough, {heat} / the same on ext4", ours, peer, None))
    return rows


_HEATS = {"fresh": "fresh", "cold": "cold", "warm": "warm", "first": "fresh", "second": "again"}


def _requests() -> list[Row]:
    def row(client: str, heat: str, store: str, goal: float) -> Row:
        label = f"requests: {client} {store} {_HEATS[heat]}"
        return Row(1, label, f"{client}/{heat}/{store}", None, Measure.REQUESTS, goal)

    rows = []
    for store in FORMATS:
        rows += [row(client, "cold", store, 0.05) for client in ("tar", "grep", "cat")]
        rows += [row("rsync", "fresh", store, 0.05), row("rg", "fresh", store, 0.1)]
        rows += [row("parallel", "fresh", store, 0.1), row("ls", "cold", store, 0.02)]
        rows += [row(client, "warm", store, 0.005) for client in ("tar", "grep", "cat", "rsync")]
        rows += [row(client, "second", store, 0.005) for client in ("find", "ls")]
    return rows


def _processor() -> list[Row]:
    return [
        Row(17, f"daemon's CPU: tar {store} {heat}", f"tar/{heat}/{store}", None, Measure.CPU, goal)
        for store in FORMATS
        for heat, goal in (("fresh", 65.0), ("warm", 2.0))
    ]


FIND_CELL, MEMORY_CELL, LIST_CELL = "find/cold/giant", "memory/cold/giant", "ls/known/hundred"

SLOW_CELL = {0: "tar/known/slow-one", 10: "tar/known/slow-10", 64: "tar/known/slow-64"}
"""By workers; 0: one thing at a time."""

ONE_CELL, MANY_CELL = "read/one/slow", "read/many/slow"
HOT_CELL, HOT_LRU_CELL = "hits/scanned/cache", "hits/scanned/lru"

SAVE_WRITERS = (1, 8)
"""How many save at once."""


_SAVE_GOALS = {("mdbox", 1): 0.9, ("mdbox", 8): 1.0}
"""A mount over IMAP APPEND with as many connections, by format and writers."""


def save_cell(driver: str, fsync: str, writers: int, subject: str) -> str:
    """The cell of *writers* at once that save into a store of the format *driver*."""
    return f"save/{fsync}-{writers}/{subject}-{driver}"


def _saves() -> list[Row]:
    rows = []
    for driver in FORMATS:
        for writers in SAVE_WRITERS:
            how = f"{driver}, {writers} at once"
            for fsync, subject in (
                ("commit", "mount"), ("commit", "library"), ("commit", "imap"), ("commit", "doveadm"),
                ("never", "mount"), ("never", "library"),
            ):  # fmt: skip
                sync = f", fsync={fsync}" if subject in ("mount", "library") else ""
                cell = save_cell(driver, fsync, writers, subject)
                rows.append(Row(15, f"saves, {how}: {subject}{sync}", cell, None, Measure.SAVES, None))
            for subject in ("mount", "library"):
                for peer, name in (("imap", "IMAP APPEND"), ("doveadm", "doveadm save")):
                    ours, other = (save_cell(driver, "commit", writers, one) for one in (subject, peer))
                    goal = (
                        _SAVE_GOALS.get((driver, writers)) if (subject, peer) == ("mount", "imap") else None
                    )
                    rows.append(Row(15, f"{how}: {subject} / {name}", ours, other, Measure.SPEED, goal))
    return rows


ROWS: tuple[Row, ...] = (
    *_requests(),
    *_ratios(),
    *_processor(),
    Row(10, "30 MB message, first read / C passthrough", "big/first/mdbox", "big/first/passthrough",
        Measure.SPEED, 0.8),
    Row(11, "find, many messages, first time", FIND_CELL, None, Measure.PER_ENTRY, 6.0),
    Row(11, "find, many messages: daemon's memory", MEMORY_CELL, None, Measure.MEMORY, 100.0),
    Row(11, "ls -l of a tenth of them, sizes known", LIST_CELL, None, Measure.PER_ENTRY, 6.0),
    Row(12, "5 ms storage: tar, 10 workers / one by one", SLOW_CELL[10], SLOW_CELL[0], Measure.SPEED, 9.0),
    Row(12, "5 ms storage: tar, 64 workers / one by one", SLOW_CELL[64], SLOW_CELL[0], Measure.SPEED, 20.0),
    Row(13, "20 ms storage: 500 readers at once / one", MANY_CELL, ONE_CELL, Measure.RATIO, 12.0),
    Row(14, "hot set after a scan (1% read, then pages)", HOT_CELL, None, Measure.HITS, 90.0),
    Row(14, "the same with a cache that is an LRU", HOT_LRU_CELL, None, Measure.HITS, None),
    *_saves(),
)  # fmt: skip

NOISE: tuple[Row, ...] = tuple(
    Row(0, f"{subject} {client} {heat} / itself", f"{client}/{heat}/{subject}",
        f"{client}/{heat}/{subject}-again", Measure.RATIO, None)
    for subject in ("plain", "mdbox")
    for client, heat in (("tar", "cold"), ("tar", "warm"))
)  # fmt: skip
"""The A/A pairs: the same thing measured twice in each round.  What they differ by is noise."""


def wanted_rows(
    scenarios: Iterable[int], programs: Iterable[str] | None = None, before: str = ""
) -> list[Row]:
    """The rows of *scenarios*, and the A/A pairs if one of these compares tar.

    :param programs: clients that can be run; None: all.  A row that takes another one is left out.
    :param before: an older revision that takes its turns, too: each row that it can give comes once more.
    """
    chosen, there = set(scenarios), None if programs is None else set(programs)
    rows = [row for row in ROWS if row.scenario in chosen]
    if there is not None:
        known = {client.name for client in ALL}
        rows = [row for row in rows if (name := row.ours.partition("/")[0]) not in known or name in there]
    rows += NOISE if chosen & {2, 3, 4, 5, 6} else ()
    return [row for one in rows for row in (one, *([_by(one, before)] if before and _can_be(one) else []))]


def _can_be(row: Row) -> bool:
    client, _, subject = row.ours.split("/")
    return row.scenario > 0 and subject in FORMATS and client in {client.name for client in ALL}


def _by(row: Row, before: str) -> Row:
    """The same row, by an older revision."""
    return replace(row, label=f"    the same by {before}", ours=f"{row.ours}-before", goal=None)


def wanted_cells(rows: Iterable[Row]) -> set[str]:
    """The cells that *rows* are made of."""
    return {cell for row in rows for cell in (row.ours, row.peer) if cell is not None}


def answer(row: Row, cells: Cells) -> Answer:
    """The number for a row: medians first, then their ratio; the range is that of the single rounds."""
    if row.measure is Measure.REQUESTS:
        return _of_values(row, cells, cells.requests)
    if row.measure is Measure.CPU:
        found = cells.samples.get(row.ours, [])
        spent = [1e6 * sample.daemon_cpu / max(cells.files, 1) for sample in found]
        return _of_values(row, cells, {row.ours: spent})
    if row.measure in (Measure.MEMORY, Measure.PER_ENTRY, Measure.HITS, Measure.SAVES):
        return _of_values(row, cells, cells.values)
    above, below = (row.ours, row.peer) if row.measure is Measure.RATIO else (row.peer, row.ours)
    assert above is not None
    assert below is not None
    value = cells.median(above) / cells.median(below)
    each = [
        one.wall / other.wall
        for one, other in zip(cells.samples.get(above, []), cells.samples.get(below, []), strict=False)
    ]
    return Answer(row, value, min(each, default=math.nan), max(each, default=math.nan), _cut(row, cells))


def _cut(row: Row, cells: Cells) -> bool:
    samples = [*cells.samples.get(row.ours, []), *cells.samples.get(row.peer or "", [])]
    return any(sample.cut for sample in samples)


def _of_values(row: Row, cells: Cells, values: Mapping[str, Sequence[float]]) -> Answer:
    found = values.get(row.ours, [])
    if not found:
        return Answer(row, math.nan, math.nan, math.nan)
    return Answer(row, statistics.median(found), min(found), max(found), _cut(row, cells))
