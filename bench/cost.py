"""``python -m bench.cost NAME=TREE [NAME=TREE ...]``: what a save through a mount costs the daemon.

Each TREE is a checkout of dboxfs, run by this interpreter; they take turns.  Processes make, write and close
files in INBOX, each waiting for every save to be acknowledged.  A line for each format and number of writers:
saves a second, CPU time of the daemon a save (ms, all threads, from ``schedstat``), operations handed to
workers a save, and wake-ups of the event loop by them a save.  Medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

_START = "import sys; from dboxfs.cli.main import main; sys.exit(main())"
_TEXT = b"Subject: hello\nFrom: a@example.org\n\n" + b"some text of a line of the message, like others\n" * 60
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Cost:
    """What one round has cost: saves a second; CPU in ms, operations and wake-ups a save."""

    rate: float
    cpu: float
    operations: float
    wakeups: float


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__.split("\n\n")[1])
    parser.add_argument("trees", nargs="+", metavar="NAME=TREE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--saves", type=int, default=400, help="in a round, by all writers together")
    parser.add_argument("--options", default="rw,fsync=commit", help="of the mount")
    args = parser.parse_args()
    trees = [tuple(tree.split("=", 1)) for tree in args.trees]
    costs: dict[tuple[str, int, str], list[Cost]] = {}
    for number in range(args.rounds):
        for driver in ("mdbox", "sdbox"):
            for writers in (1, 8):
                for name, tree in trees[:: -1 if number % 2 else 1]:
                    cost = _round(Path(tree).resolve(), driver, writers, args.saves // writers, args.options)
                    costs.setdefault((driver, writers, name), []).append(cost)
    print("format  writers  tree        saves/s  CPU ms/save  operations/save  wake-ups/save")
    for (driver, writers, name), found in costs.items():
        rate, cpu, operations, wakeups = map(statistics.median, zip(*map(astuple, found), strict=True))
        print(f"{driver:7} {writers:7}  {name:10} {rate:8.0f} {cpu:12.2f} {operations:16.2f} {wakeups:14.2f}")


def _round(tree: Path, driver: str, writers: int, count: int, options: str) -> Cost:
    with tempfile.TemporaryDirectory(prefix="dboxfs-cost-") as directory:
        store, mount = Path(directory, "store"), Path(directory, "mount")
        mount.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        command = [sys.executable, "-c", _START]
        subprocess.run(
            [*command, "init", "--format", driver, str(store)],
            env=environment, cwd=tree, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        how = ["mount", "-f", "--log-level", "warning", "--cache-dir", "none", "-o", options]
        daemon = subprocess.Popen([*command, *how, str(store), str(mount)], env=environment, cwd=tree)
        try:
            while not os.path.ismount(mount):
                if daemon.poll() is not None:
                    raise SystemExit(f"{tree}: the mount has ended")
                time.sleep(0.05)
            return _measure(mount, daemon.pid, writers, count)
        finally:
            daemon.terminate()  # umount leaves it to copies of the mount in other mount namespaces
            daemon.wait()


def _measure(mount: Path, daemon: int, writers: int, count: int) -> Cost:
    inbox, message = mount / "INBOX", mount.parent / "message"
    message.write_bytes(_TEXT)
    (inbox / "first").write_bytes(_TEXT)
    savers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.filer", str(message), str(count), str(inbox), f"{writer}-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT,
        )
        for writer in range(writers)
    ]  # fmt: skip
    for saver in savers:
        assert saver.stdout is not None
        saver.stdout.readline()
    before, spent, start = _counters(mount), _cpu(daemon), time.perf_counter()
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("\n")
        saver.stdin.flush()
    for saver in savers:
        saver.communicate()
    seconds, spent, after = time.perf_counter() - start, _cpu(daemon) - spent, _counters(mount)
    saves = writers * count
    operations, wakeups = ((b - a) / saves for a, b in zip(before, after, strict=True))
    return Cost(saves / seconds, 1000 * spent / saves, operations, wakeups)


def _counters(mount: Path) -> tuple[int, int]:
    files = json.loads((mount / ".dboxfs" / "stats.json").read_text())["files"]
    return files["driver_jobs"], files["driver_wakeups"]


def _cpu(pid: int) -> float:
    """Seconds that all threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    main()
