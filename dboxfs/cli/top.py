"""``top``: shows the work of a mount, once a second, from its stats.json."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from dboxfs.cli.logs import one_line
from dboxfs.errors import MountError
from dboxfs.util import mounts

_CLEAR = "\x1b[H\x1b[2J"


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs top``."""
    parser.description = (
        "Show what the mount on MOUNTPOINT is doing: health, requests a second, and how long they take."
    )
    parser.set_defaults(run=top)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument(
        "-n", "--count", type=int, default=0, metavar="N", help="end after N times (default: never)"
    )
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="default 1")


def top(arguments: argparse.Namespace) -> int:
    """``dboxfs top MOUNTPOINT [-n N] [--interval SECONDS]``."""
    point = os.path.realpath(arguments.mountpoint)
    if mounts.mounted_on(point) is None:
        raise MountError(f"{point}: no dboxfs mount; dboxfs status lists all of them")
    before, turn = read_stats(point), 0
    while not arguments.count or turn < arguments.count:
        turn += 1
        time.sleep(arguments.interval)
        now = read_stats(point)
        text = "\n".join(screen(point, before, now, arguments.interval))
        print((_CLEAR if sys.stdout.isatty() else "") + text, flush=True)
        before = now
    return 0


def read_stats(point: str) -> dict[str, Any]:
    """The ``stats.json`` of the mount on *point*.

    :raises OSError: the file can't be read.
    """
    with open(os.path.join(point, ".dboxfs/stats.json"), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
        return found


def screen(point: str, before: Mapping[str, Any], now: Mapping[str, Any], seconds: float) -> list[str]:
    """The lines of one screen.

    :param before: stats.json *seconds* before *now*.
    """
    health = now["health"]
    state = "ok" if health["ok"] else "needs attention: " + ", ".join(_troubles(health))
    lines = [
        one_line(f"{point}: up {now['uptime_seconds']:.0f} s, {now['messages']} messages, {state}"),
        f"{'request':<12} {'per second':>10} {'in all':>10} {'p50 ms':>10} {'p99 ms':>10}",
    ]
    for name, count in sorted(now["requests"].items(), key=lambda item: -item[1]):
        if not count:
            continue
        rate = (count - before["requests"].get(name, 0)) / seconds
        took = health["latency_ms"].get(name, {"p50": 0.0, "p99": 0.0})
        lines.append(f"{name:<12} {rate:>10.1f} {count:>10} {took['p50']:>10.3f} {took['p99']:>10.3f}")
    rates = ", ".join(f"{name} {share:.0%}" for name, share in health["hit_rates"].items())
    return [*lines, f"hits: {rates}"] if rates else lines


def _troubles(health: Mapping[str, Any]) -> list[str]:
    found = [f"{count} {name}" for name, count in health["errors"].items()]
    for key in ("damaged_messages", "mailboxes_that_cannot_be_read"):
        if health[key]:
            found.append(f"{health[key]} {key.replace('_', ' ')}")
    return found
