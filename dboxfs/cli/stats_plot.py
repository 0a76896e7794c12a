"""The picture of a recorded period: requests, durations, errors and messages over time.  Needs matplotlib."""

from __future__ import annotations

import datetime
import importlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from dboxfs.cli.logs import one_line
from dboxfs.cli.status import UsageError
from dboxfs.vfs.observed import FIRST

MOST_KINDS = 7
"""Kinds of requests that get a line of their own; the others are one."""

_ENDINGS = (".svg", ".png", ".pdf")


class Series(Struct, frozen=True):
    """The drawn values: one for each interval between two samples; NaN: there was nothing to measure.

    :ivar times: ends of the intervals.
    :ivar rates: requests a second, by kind, the most frequent kind first.
    :ivar errors: errors a second, by errno.
    :ivar p50, p99: milliseconds, of all requests together.
    """

    times: Sequence[datetime.datetime]
    rates: Mapping[str, Sequence[float]]
    errors: Mapping[str, Sequence[float]]
    p50: Sequence[float]
    p99: Sequence[float]
    messages: Sequence[float]


def check(path: str) -> None:
    """Check, before the recording, that a picture can be drawn.

    :raises UsageError: matplotlib is missing, or the file's ending is no known format.
    """
    if not path.lower().endswith(_ENDINGS):
        raise UsageError(f"--plot {path}: end the name with one of {', '.join(_ENDINGS)}")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as exc:  # missing, or made for another numpy
        raise UsageError(f"--plot: needs matplotlib ({exc}); pip install 'dboxfs[plot]'") from None


def series(samples: Sequence[Mapping[str, Any]]) -> Series:
    """The differences of samples that follow each other.

    :raises UsageError: there are no two samples of one mount.
    """
    pairs = [
        (before, now)
        for before, now in itertools.pairwise(samples)
        if now["time"] > before["time"] and now["uptime_seconds"] >= before["uptime_seconds"]
    ]
    if not pairs:
        raise UsageError(f"{len(samples)} samples of a mount are too few for a picture: record longer")
    total: Counter[str] = Counter()
    for before, now in pairs:
        total.update(_more(before["requests"], now["requests"]))
    kinds = [kind for kind, _ in total.most_common(MOST_KINDS)]
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    if len(total) > MOST_KINDS:
        rates["others"] = []
    names = sorted({name for _, now in pairs for name in now["errors"]})
    errors: dict[str, list[float]] = {name: [] for name in names}
    p50, p99 = [], []
    for before, now in pairs:
        seconds = now["time"] - before["time"]
        more = _more(before["requests"], now["requests"])
        for kind, line in rates.items():
            count = more[kind] if kind != "others" else sum(more[one] for one in more if one not in kinds)
            line.append(count / seconds)
        failed = _more(before["errors"], now["errors"])
        for name, line in errors.items():
            line.append(failed[name] / seconds)
        buckets = _buckets(before["durations"], now["durations"])
        p50.append(quantile(buckets, 0.5))
        p99.append(quantile(buckets, 0.99))
    return Series(
        [datetime.datetime.fromtimestamp(now["time"]) for _, now in pairs],
        rates,
        errors,
        p50,
        p99,
        [now.get("messages", math.nan) for _, now in pairs],
    )


def _more(before: Mapping[str, int], now: Mapping[str, int]) -> Counter[str]:
    return Counter({name: count - before.get(name, 0) for name, count in now.items()})


def _buckets(before: Mapping[str, Sequence[int]], now: Mapping[str, Sequence[int]]) -> Counter[int]:
    """How many requests of any kind took up to 2**n ns, by n."""
    found: Counter[int] = Counter()
    for sign, durations in ((-1, before), (1, now)):
        for row in durations.values():
            for at, count in enumerate(row):
                found[FIRST + at] += sign * count
    return found


def quantile(buckets: Mapping[int, int], share: float) -> float:
    """Milliseconds within which that share of the requests was answered; NaN: there was none."""
    wanted, seen = share * sum(buckets.values()), 0
    if not wanted:
        return math.nan
    for bits in sorted(buckets):
        seen += buckets[bits]
        if seen >= wanted:
            return float((1 << bits) / 1e6)
    return math.nan


def draw(samples: Sequence[Mapping[str, Any]], path: str, title: str) -> None:
    """Write the picture to *path*.

    :raises UsageError: there is too little to draw.
    """
    found = series(samples)
    # matplotlib is not typed everywhere, and takes a second to load
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(9, 9), layout="constrained")
    figure.suptitle(one_line(title).replace("$", r"\$"))
    rates, took, errors, messages = figure.subplots(4, sharex=True, height_ratios=[3, 3, 2, 2])
    rates.stackplot(found.times, *found.rates.values(), labels=list(found.rates), linewidth=0, step="pre")
    rates.set_ylabel("requests a second")
    took.plot(found.times, found.p99, label="p99", color="tab:red", drawstyle="steps")
    took.plot(found.times, found.p50, label="p50", color="tab:blue", drawstyle="steps")
    took.set_yscale("log")
    took.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    took.set_ylabel("milliseconds")
    for name, line in found.errors.items():
        errors.plot(found.times, line, label=name)
    if not found.errors:
        errors.text(0.5, 0.5, "no errors", transform=errors.transAxes, ha="center", va="center")
    errors.set_ylabel("errors a second")
    messages.plot(found.times, found.messages, color="tab:gray")
    messages.set_ylabel("messages")
    for axes in (rates, took, errors, messages):
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
        handles, labels = axes.get_legend_handles_labels()
        if axes is rates:  # from top to bottom, as the areas lie
            handles, labels = handles[::-1], labels[::-1]
        if handles:
            axes.legend(
                handles, labels, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small"
            )
    for axes in (rates, errors):
        axes.set_ylim(bottom=0)
    for axes in (rates, errors, messages):
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    messages.margins(y=0.2)
    messages.yaxis.get_major_locator().set_params(integer=True)
    dates = importlib.import_module("matplotlib.dates")
    messages.xaxis.set_major_formatter(dates.ConciseDateFormatter(messages.xaxis.get_major_locator()))
    with importlib.import_module("matplotlib").rc_context({"svg.fonttype": "none"}):  # words stay words
        figure.savefig(path)
