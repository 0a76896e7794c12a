"""The answer as a table for people and as a value for JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

from bench.clients import Sample
from bench.goals import Answer, Cells, Measure


def table(answers: Iterable[Answer], cells: Cells) -> str:
    """Rows with value, goal and range of the rounds; then the A/A pairs; then seconds of each cell."""
    rows = list(answers)
    lines = [f"{'#':>3}  {'':<42} {'median':>8}  {'goal':>8}          rounds"]
    lines += [_line(one) for one in rows if one.row.scenario]
    noise = [one for one in rows if not one.row.scenario]
    if noise:
        lines += ["", "A/A pairs: the same thing twice in each round; what these are off from 1 is noise"]
        lines += [_line(one) for one in noise]
    if cells.samples:
        lines += ["", f"{'seconds':<30} {'median':>8} {'min':>8} {'max':>8} {'client':>8} {'daemon':>8}"]
        lines += [_cell(name, samples) for name, samples in sorted(cells.samples.items())]
    return "\n".join(lines)


def _line(one: Answer) -> str:
    row = one.row
    number = str(row.scenario or "")
    goal, verdict = "", ""
    if row.goal is not None:
        goal = f"{'≥' if row.at_least else '≤'} {_number(row.goal)}"
        verdict = "reached" if one.reached else _missed(one) if one.measured else "failed"
    rounds = f"{_number(one.low)} to {_number(one.high)}" if one.low != one.high else ""
    unit = "" if row.measure is Measure.RATIO else f" {row.measure.value}"
    value = (">" if one.cut else "") + _number(one.value)
    return f"{number:>3}  {row.label:<42} {value:>8}  {goal:>8} {verdict:<10} {rounds}{unit}".rstrip()


def _missed(one: Answer) -> str:
    """By what factor the goal is missed."""
    assert one.row.goal is not None
    if not one.value:
        return "missed"
    off = one.row.goal / one.value if one.row.at_least else one.value / one.row.goal
    return f"off {off:.2f}x"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _cell(name: str, samples: list[Sample]) -> str:
    walls = [sample.wall for sample in samples]
    numbers = (
        statistics.median(walls),
        min(walls),
        max(walls),
        statistics.median(sample.client_cpu for sample in samples),
        statistics.median(sample.daemon_cpu for sample in samples),
    )
    return f"{name:<30} " + " ".join(f"{number:8.3f}" for number in numbers)


def as_json(answers: Iterable[Answer], cells: Cells, about: Mapping[str, object]) -> dict[str, object]:
    """Everything, for a program: *about* (machine, options, seconds), rows, and all samples."""
    return {
        **about,
        "rows": [
            {
                "scenario": one.row.scenario,
                "label": one.row.label,
                "ours": one.row.ours,
                "peer": one.row.peer,
                "unit": one.row.measure.value,
                "value": one.value if one.measured else None,
                "low": one.low if one.measured else None,
                "high": one.high if one.measured else None,
                "goal": one.row.goal,
                "at_least": one.row.at_least,
                "reached": one.reached,
                "cut": one.cut,
            }
            for one in answers
        ],
        "cells": {
            name: {
                "wall": [sample.wall for sample in samples],
                "client_cpu": [sample.client_cpu for sample in samples],
                "daemon_cpu": [sample.daemon_cpu for sample in samples],
                "requests_a_file": cells.requests.get(name),
            }
            for name, samples in cells.samples.items()
        },
    }
