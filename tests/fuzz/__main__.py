"""``scripts/fuzz``: feed all codecs with damaged and made-up input; see ``machine``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from tests.fuzz import crypt_targets, dbox_targets, index_targets, name_targets, store_targets
from tests.fuzz.machine import Figures, Machine, Target, input_of


def all_targets() -> list[Target]:
    """Every codec."""
    return [
        *crypt_targets.targets(),
        *dbox_targets.targets(),
        *index_targets.targets(),
        *name_targets.targets(),
        *store_targets.targets(),
    ]


def main() -> int:
    """Run; gives the exit status: 1 if there were faults."""
    targets = {target.name: target for target in all_targets()}
    parser = argparse.ArgumentParser(
        "scripts/fuzz",
        description="Executions of all codecs on input that is damaged by chance, or right in its structure "
        "and wrong in what it says. Each ends in a value or in one of the project's errors, within bounds of "
        "time and memory; anything else is a fault: it is told, its input is kept, the exit status is 1.",
    )
    parser.add_argument("--executions", type=int, default=100_000, help="at most so many (100000)")
    parser.add_argument("--seconds", type=float, default=3600, help="at most so long (3600)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same input (1)")
    parser.add_argument(
        "--target", choices=sorted(targets), action="append", help="only these; all if left out"
    )
    parser.add_argument(
        "--at", type=int, metavar="N", help="only execution N, which a fault has named, of one target"
    )
    parser.add_argument(
        "--keep", type=Path, help="where inputs of faults go; left out: a new temporary directory"
    )
    arguments = parser.parse_args()
    chosen = [targets[name] for name in arguments.target or sorted(targets)]
    keep = arguments.keep or Path(tempfile.gettempdir()) / f"dboxfs-fuzz-{arguments.seed}"
    machine = Machine(chosen, arguments.seed, keep)
    if arguments.at is not None:
        data, _ = input_of(chosen[0], arguments.seed, arguments.at)
        print(f"{chosen[0].name} {arguments.at}: {len(data)} bytes, begins {data[:64]!r}")
        trio.run(machine.one, chosen[0], arguments.at)
        figures = machine.figures
    else:
        figures = trio.run(machine.run, arguments.executions, arguments.seconds)
    report(figures, arguments.seed, keep)
    return 1 if figures.faults else 0


def report(figures: Figures, seed: int, keep: Path) -> None:
    """What was done, on stdout; what went wrong, on stderr."""
    for fault in figures.faults:
        print(f"FAULT {fault.target} {fault.number} ({len(fault.data)} bytes)\n{fault.what}", file=sys.stderr)
        print(
            f"again: scripts/fuzz --seed {seed} --target {fault.target} --at {fault.number}", file=sys.stderr
        )
    for name in sorted(figures.counts):
        slowest = 1000 * figures.slowest.get(name, 0)
        print(f"{name:>16} {figures.counts[name]:>9} executions, slowest {slowest:>6.1f} ms")
    print(
        f"seed {seed}: {figures.executions} executions in {figures.seconds:.0f} s: {figures.values} values, "
        f"{figures.errors} errors of the project, {len(figures.faults)} faults; most memory "
        f"{figures.most_memory / 1e6:.3f} MB; inputs {figures.digest[:16]}"
    )
    if figures.faults:
        print(f"inputs of faults: {keep}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
