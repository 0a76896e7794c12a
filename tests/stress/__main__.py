"""The command line of the stress."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.stress.stress import MODES, Plan, Tally, stress

_DESCRIPTION = """\
Stress mounts of dboxfs: workers write, append, replace, rename, move, copy, remove and flag messages through
writable mounts, through IMAP and LMTP of a private Dovecot, while others read everything, purge, and move
messages to the alternative storage and back. A journal knows what was acknowledged. After each round that,
and nothing else, has to be there: in every mount, in Dovecot, and for dboxfs check.

  scripts/stress                                        2,000 operations in each mode and format
  scripts/stress --mode two --format mdbox --seed 7     one of them, with another seed
  scripts/stress --mode one --kill 3                    the daemon is killed every few seconds

Exit status: 0 no fault, 1 one or more, each told in a line, 2 wrong usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what *argv* says (``sys.argv[1:]`` if left out); gives the exit status."""
    options = _parser().parse_args(argv)
    faults = 0
    for mode in options.mode.split(","):
        for driver in options.format.split(","):
            plan = Plan(
                seed=options.seed,
                driver=driver,
                mode=mode,
                operations=options.operations,
                seconds=options.seconds,
                workers=options.workers,
                share=options.round,
                kill=options.kill,
                fsync=options.fsync,
            )
            began = time.monotonic()
            tally = stress(plan, options.keep and options.keep / f"{mode}-{driver}-{options.seed}")
            print(told(plan, tally, time.monotonic() - began), flush=True)
            for fault in tally.faults:
                print(f"FAULT {fault}", flush=True)
            faults += len(tally.faults)
    return 1 if faults else 0


def told(plan: Plan, tally: Tally, seconds: float) -> str:
    """What was done, in lines for people."""
    lines = [
        f"{plan}: {tally.operations} operations in {tally.rounds} rounds, {seconds:.0f} s; "
        f"{len(tally.faults)} faults",
        f"    readers: {_counts(tally.reads)}; another view was late by {tally.delay:.1f} s at most, "
        f"a daemon ended {tally.ended:.1f} s after its unmount at most",
    ]
    if tally.kills:
        lines.append(f"    {tally.kills} kills, {tally.open} operations without an end, {tally.hung} hung")
    lines.append(f"    {_counts(tally.kinds)}")
    return "\n".join(lines)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stress", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seed", default="1", help="what the choices are made of (default 1)")
    add("--mode", default=",".join(MODES), type=_some(MODES), help=f"of {', '.join(MODES)} (default all)")
    formats = ("sdbox", "mdbox")
    add("--format", default=",".join(formats), type=_some(formats), help="of sdbox, mdbox (default both)")
    add("--operations", type=int, default=2000, metavar="N", help="of each mode and format (default 2000)")
    add("--seconds", type=float, default=600, metavar="N", help="the longest time of each (default 600)")
    add("--workers", type=int, default=4, metavar="N", help="processes that write (default 4)")
    add("--round", type=int, default=600, metavar="N", help="operations until all is compared (default 600)")
    add("--kill", type=float, default=0, metavar="N", help="kill a daemon within N seconds, in each round")
    add(
        "--fsync",
        choices=["commit", "never"],
        default="commit",
        help="as the mount's option (default commit)",
    )
    add("--keep", type=Path, metavar="DIR", help="where journals, logs and stores go if something is wrong")
    return parser


def _some(known: Sequence[str]) -> Callable[[str], str]:
    def some(text: str) -> str:
        if not set(text.split(",")) <= set(known):
            raise argparse.ArgumentTypeError(f"not of {', '.join(known)}: {text}")
        return text

    return some


if __name__ == "__main__":
    sys.exit(main())
