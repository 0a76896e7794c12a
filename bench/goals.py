"""The rows of the answer: what is compared with what, and what is to be reached.

A *cell* is everything that was measured for one ``client/state of the caches/subject``; a row takes the
median of one cell, mostly over that of another.  Cells named here are measured; nothing else is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from bench.clients import Sample


class Measure(Enum):
    """What a row shows: the unit behind its number."""

    RATIO = "x"
    REQUESTS = "requests a file"
    SPEED = "x of its speed"
    PER_ENTRY = "µs an entry"
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
    """What was measured so far, by cell.  ``values``: of single scenarios, in the unit of their row."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    requests: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

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
        ratio(3, "tar mdbox cold / plain files", "tar/cold/mdbox", "tar/cold/plain", 0.8),
        ratio(4, "tar sdbox cold / plain files", "tar/cold/sdbox", "tar/cold/plain", 1.0),
        ratio(5, "tar mdbox warm / plain files", "tar/warm/mdbox", "tar/warm/plain", 2.6),
        ratio(5, "tar sdbox warm / plain files", "tar/warm/sdbox", "tar/warm/plain", 2.6),
        ratio(6, "tar mdbox cold / doveadm backup", "tar/cold/mdbox", "backup/cold/doveadm", 1 / 8),
        ratio(7, "grep mdbox warm / doveadm search", "grep/warm/mdbox", "search/warm/doveadm", 1 / 6),
        ratio(8, "cat mdbox cold / doveadm fetch", "cat/cold/mdbox", "fetch/cold/doveadm", 3.0),
    ]
    fresh = ("tar/fresh/mdbox", "tar/fresh/passthrough")
    rows.append(ratio(9, "tar mdbox, bytes in RAM / C passthrough", *fresh, None))
    for client in ("tar", "grep", "cat"):
        for heat in ("cold",) if client == "cat" else ("cold", "warm"):
            for store in ("mdbox", "sdbox"):
                label = f"{client} {store} {heat} / C passthrough"
                rows.append(ratio(9, label, f"{client}/{heat}/{store}", f"{client}/{heat}/passthrough", 1.0))
    return rows


def _requests() -> list[Row]:
    rows = []
    for store in ("mdbox", "sdbox"):
        for client, heat in (("tar", "cold"), ("tar", "warm"), ("grep", "cold"), ("grep", "warm")):
            label = f"requests: {client} {store} {heat}"
            rows.append(Row(1, label, f"{client}/{heat}/{store}", None, Measure.REQUESTS, 2.02))
        rows.append(
            Row(1, f"requests: ls -lR {store} cold", f"ls/cold/{store}", None, Measure.REQUESTS, 0.02)
        )
    return rows


FIND_CELL, MEMORY_CELL, LIST_CELL = "find/cold/giant", "memory/cold/giant", "ls/known/hundred"

SLOW_CELL = {0: "tar/known/slow-one", 10: "tar/known/slow-10", 64: "tar/known/slow-64"}
"""By workers; 0: one thing at a time."""

ONE_CELL, MANY_CELL = "read/one/slow", "read/many/slow"
HOT_CELL, HOT_LRU_CELL = "hits/scanned/cache", "hits/scanned/lru"

FORMATS = ("sdbox", "mdbox")
SAVE_WRITERS = (1, 8)
"""How many save at once."""


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
                    rows.append(Row(15, f"{how}: {subject} / {name}", ours, other, Measure.SPEED, None))
    return rows


ROWS: tuple[Row, ...] = (
    *_requests(),
    *_ratios(),
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


def wanted_rows(scenarios: Iterable[int]) -> list[Row]:
    """The rows of *scenarios*, and the A/A pairs if one of these compares tar."""
    chosen = set(scenarios)
    rows = [row for row in ROWS if row.scenario in chosen]
    return rows + (list(NOISE) if chosen & {2, 3, 4, 5, 6} else [])


def wanted_cells(rows: Iterable[Row]) -> set[str]:
    """The cells that *rows* are made of."""
    return {cell for row in rows for cell in (row.ours, row.peer) if cell is not None}


def answer(row: Row, cells: Cells) -> Answer:
    """The number for a row: medians first, then their ratio; the range is that of the single rounds."""
    if row.measure is Measure.REQUESTS:
        return _of_values(row, cells, cells.requests)
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
