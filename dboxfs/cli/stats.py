"""``stats``: shows the state of a mount now, or records a period and draws a picture of it.

A recording is a text file, a sample of ``stats.json`` a line (JSON)::

    {"time": 1795000000.0, "uptime_seconds": 12.5, "messages": 103, "requests": {"read": 7},
     "errors": {"EIO": 1}, "durations": {"read": [0, 3, 4]}}

``time`` is in seconds since the epoch; ``durations`` counts by powers of two of nanoseconds, from 2**10 on.
Counts are since the mount was made; the picture shows differences.  A sample with a shorter uptime than the
one before belongs to another mount: the picture has a gap there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any

from dboxfs.cli.logs import one_line
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError
from dboxfs.cli.top import read_stats, screen
from dboxfs.errors import MountError
from dboxfs.util import mounts

DEFAULT_SECONDS = 60.0
"""Seconds that are recorded for a picture of a mount."""

_ROUNDING = 1e-6


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs stats``."""
    parser.description = (
        "Show how the mount on MOUNTPOINT does: health, requests, and how long they take. With --record or "
        "--plot a period is recorded first; a recording in the place of MOUNTPOINT is drawn."
    )
    parser.set_defaults(run=stats)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="or a file that --record has written")
    parser.add_argument("--record", metavar="FILE", help="add samples to FILE until interrupted, or --for")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the period (FILE.png: as pixels)")
    parser.add_argument(
        "--for", dest="period", type=_seconds, metavar="SECONDS", help="how long (default with --plot: 60)"
    )
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between samples (default 1)"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def stats(arguments: argparse.Namespace) -> int:
    """``dboxfs stats MOUNTPOINT [--record FILE] [--plot FILE.svg] [--for S] [--interval S]``."""
    given = os.path.realpath(arguments.mountpoint)
    if arguments.plot is not None:
        from dboxfs.cli.stats_plot import check

        check(arguments.plot)
    if os.path.isfile(given):
        if arguments.plot is None:
            raise UsageError(f"{given}: a file is only drawn: give --plot FILE.svg")
        samples = list(_recorded(given))
    else:
        if mounts.mounted_on(given) is None:
            raise MountError(f"{given}: no dboxfs mount; dboxfs status lists all of them")
        if arguments.plot is None and arguments.record is None:
            now = read_stats(given)
            print("\n".join(screen(given, {"requests": {}}, now, max(now["uptime_seconds"], 0.001))))
            return 0
        samples = _record(given, arguments)
    if arguments.plot is not None:
        from dboxfs.cli.stats_plot import draw

        draw(samples, arguments.plot, given)
        print(one_line(f"{arguments.plot}: {len(samples)} samples of {given}"))
    return 0


def _record(point: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Take samples, and keep them for a picture, in a file, or both.  An interrupt ends the recording."""
    period = arguments.period
    if period is None and arguments.plot is not None and arguments.record is None:
        period = DEFAULT_SECONDS
    found: list[dict[str, Any]] = []
    meter, began, turn = Meter(), time.monotonic(), 0
    file = open(arguments.record, "a", encoding="utf-8") if arguments.record is not None else None  # noqa: SIM115
    try:
        while True:
            one = sample(read_stats(point), time.time())
            if file is not None:
                file.write(json.dumps(one, separators=(",", ":")) + "\n")
                file.flush()
            if arguments.plot is not None:
                found.append(one)
            turn += 1
            left = began + turn * arguments.interval - time.monotonic()
            spent = turn * arguments.interval
            if period is not None and spent > period + _ROUNDING:
                return found
            meter.show("recorded", round(spent), round(period or 0), what="seconds")
            time.sleep(max(left, 0))
    except KeyboardInterrupt:
        return found
    finally:
        meter.clear()
        if file is not None:
            file.close()


def sample(now: dict[str, Any], when: float) -> dict[str, Any]:
    """The parts of a stats.json that a recording keeps."""
    return {
        "time": round(when, 3),
        "uptime_seconds": now["uptime_seconds"],
        "messages": now["messages"],
        "requests": {name: count for name, count in now["requests"].items() if count},
        "errors": now["health"]["errors"],
        "durations": now["durations_by_powers_of_two_ns"],
    }


def _recorded(path: str) -> Iterator[dict[str, Any]]:
    """
    :raises UsageError: the file is no recording.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return  # the line is being written, or its writer was killed
            try:
                one = json.loads(line)
                _ = one["time"], one["uptime_seconds"], one["requests"], one["errors"], one["durations"]
            except (ValueError, KeyError, TypeError):
                raise UsageError(f"{path}: line {number}: no sample that dboxfs stats has recorded") from None
            yield one
