"""The rows as a picture: how far each is from its goal, on a logarithmic scale.  Needs matplotlib."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from bench.errors import BenchError
from bench.goals import Answer

_FAR = 1000
"""A value is drawn as if it were not smaller than its goal by more than this: 0 has no place on the scale."""


def check() -> None:
    """:class:`BenchError` where nothing can be drawn: said before a run, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: .venv/bin/pip install matplotlib")


def draw(answers: Iterable[Answer], path: Path) -> None:
    """Write a bar for each measured row with a goal: value over goal, 1 is reached, left is better."""
    shown = [one for one in answers if one.row.goal is not None and one.measured]
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(9, 1 + 0.3 * len(shown)), layout="constrained"
    )
    axes = figure.add_subplot()
    bars = [_missing(one, one.value) for one in shown]
    axes.barh(range(len(shown)), bars, color=["tab:green" if one.reached else "tab:red" for one in shown])
    for y, one in enumerate(shown):
        axes.plot([_missing(one, one.low), _missing(one, one.high)], [y, y], color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{one.row.scenario}: {one.row.label}" for one in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linestyle=":")
    axes.set_xlabel("measured over goal (left of the line: reached; the thin line: single rounds)")
    figure.savefig(path)


def _missing(one: Answer, value: float) -> float:
    assert one.row.goal is not None
    value = max(value, one.row.goal / _FAR)
    return one.row.goal / value if one.row.at_least else value / one.row.goal
