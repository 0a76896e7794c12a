"""``python -m bench.restores``: how long ``rsync -aX`` takes to put a backup back, and what the daemon needs.

The backup is a plain tree with the attributes that a mount shows.  It goes, in turns, onto a plain directory
of the same disk, into the least that a file system on pyfuse3 costs (:mod:`bench.restore_floor`), and through
mounts with ``-o restore`` and, of fewer messages, ``-o rw``, in both formats; with ``--against`` also through
``-o rw`` of another checkout.  A line for each: seconds of rsync, seconds until everything is on disk
(``syncfs`` of the plain directory, ``dboxfs umount``), both a thousand messages, CPU time a message of the
daemon (all threads) and of rsync (its processes, with what the kernel does for them), the daemon's highest
resident memory; then the requests a message by kind.  Medians of the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

_START = "import sys; from dboxfs.cli.main import main; sys.exit(main())"
_COMMAND = [sys.executable, "-c", _START]
_ROOT = Path(__file__).parent.parent
_LINE = b"some text of a line of the message, like others\n"
_MAILBOXES = 12


@dataclass(frozen=True, slots=True)
class Result:
    """One restore: seconds of rsync, its CPU seconds, seconds of the rest; daemon: CPU seconds, highest RSS
    (bytes), requests.
    """

    rsync: float
    client: float
    end: float
    cpu: float = 0.0
    memory: int = 0
    requests: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.restores", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--size", type=int, default=30_000, help="bytes of a message, on average")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rw", type=int, default=200, help="messages through -o rw (0: none)")
    parser.add_argument("--against", type=Path, metavar="TREE", help="a checkout whose -o rw takes turns")
    parser.add_argument("--formats", default="mdbox,sdbox")
    parser.add_argument("--directory", type=Path, help="where to work: the disk that is measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dboxfs-restores-", dir=args.directory) as work:
        _measure_all(Path(work), args)


def _measure_all(work: Path, args: argparse.Namespace) -> None:
    full, few = work / "full", work / "few"
    _make_tree(full, args.messages, args.size)
    formats = args.formats.split(",")
    subjects: dict[str, tuple[int, Callable[[], Result]]] = {
        "ext4": (args.messages, partial(_plain, full, work / "copy"))
    }
    subjects["floor"] = args.messages, partial(_floor, full, work / "mount")
    for driver in formats:
        subjects[f"restore {driver}"] = args.messages, partial(_mounted, full, work, driver, "restore")
    if args.rw:
        _make_tree(few, args.rw, args.size)
        for driver in formats:
            subjects[f"rw {driver}"] = args.rw, partial(_mounted, few, work, driver, "rw")
            if args.against is not None:
                code = args.against.resolve()
                older = partial(_mounted, few, work, driver, "rw", code, accepted=(0, 23))
                subjects[f"old rw {driver}"] = args.rw, older
    found: dict[str, list[Result]] = {}
    for number in range(args.rounds):
        for name in list(subjects)[:: -1 if number % 2 else 1]:
            found.setdefault(name, []).append(subjects[name][1]())
    print("into             rsync s  + rest s  s/1000 messages  times ext4  CPU ms/message  of rsync  RSS MB")
    plain = _median([one.rsync for one in found["ext4"]]) / args.messages
    for name, results in found.items():
        count = subjects[name][0]
        rsync, end, cpu, client = (
            _median([getattr(one, what) for one in results]) for what in ("rsync", "end", "cpu", "client")
        )
        each, memory = (rsync + end) / count, max(one.memory for one in results) / 1e6
        print(
            f"{name:15} {rsync:8.2f} {end:9.2f} {1000 * each:16.2f} {each / plain:11.2f}"
            f" {1000 * cpu / count:15.2f} {1000 * client / count:9.2f} {memory:7.0f}"
        )
    for name, results in found.items():
        kinds = {kind: count / subjects[name][0] for kind, count in results[-1].requests.items() if count}
        if kinds:
            print(f"{name}: " + ", ".join(f"{kind} {count:.2f}" for kind, count in sorted(kinds.items())))


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _make_tree(tree: Path, count: int, size: int) -> None:
    """A backup: *count* messages in mailboxes, with the attributes that a mount gives them."""
    chosen = random.Random(count)
    for number in range(_MAILBOXES):
        (tree / (f"Box{number}" if number else "INBOX")).mkdir(parents=True)
    for number in range(count):
        box, uid = number % _MAILBOXES, number // _MAILBOXES + 1
        path = tree / (f"Box{box}" if box else "INBOX") / f"{uid}.eml"
        lines = max(1, round(size * chosen.lognormvariate(-0.5, 1.0)) // len(_LINE))
        path.write_bytes(b"Subject: message %d\n\n" % number + _LINE * lines)
        attributes = {
            "flags": "\\Seen", "keywords": "$Label1", "guid": f"{number:032x}", "uid": f"{uid}",
            "saved": "2020-01-02T03:04:05Z", "received": "2020-01-01T00:00:00Z", "modseq": "2",
            "virtual_size": str(size), "location": f"storage/m.1@{number}",
        }  # fmt: skip
        for name, value in attributes.items():
            os.setxattr(path, f"user.dbox.{name}", value.encode())
        os.utime(path, (1577836800 + number, 1577836800 + number))


def _rsync(tree: Path, target: Path, accepted: Sequence[int] = (0,)) -> tuple[float, float]:
    """Seconds, and CPU seconds of rsync's processes.

    :param accepted: exit statuses; 23: an older mount refuses attributes that only inform.
    """
    before, start = _of_children(), time.perf_counter()
    done = subprocess.run(["rsync", "-aX", f"{tree}/", f"{target}/"], check=False, capture_output=True)
    if done.returncode not in accepted:
        raise SystemExit(done.stderr.decode()[-2000:])
    return time.perf_counter() - start, _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _floor(tree: Path, mount: Path) -> Result:
    """The restore into :mod:`bench.restore_floor`, which has nothing to do at the end."""
    mount.mkdir()
    daemon = subprocess.Popen([sys.executable, "-m", "bench.restore_floor", str(mount)], cwd=_ROOT)
    try:
        while not os.path.ismount(mount):
            if daemon.poll() is not None:
                raise SystemExit("the floor has ended")
            time.sleep(0.05)
        watch = _Watch(daemon.pid)
        before = watch.cpu
        seconds, client = _rsync(tree, mount)
        watch.look()
        watch.stop()
        return Result(seconds, client, 0.0, watch.cpu - before, watch.memory)
    finally:
        subprocess.run(["umount", str(mount)], check=False)
        daemon.wait()
        mount.rmdir()


def _plain(tree: Path, target: Path) -> Result:
    target.mkdir()
    (seconds, client), start = _rsync(tree, target), time.perf_counter()
    descriptor = os.open(target, os.O_RDONLY)
    ctypes.CDLL(None).syncfs(descriptor)
    os.close(descriptor)
    result = Result(seconds, client, time.perf_counter() - start)
    shutil.rmtree(target)
    return result


def _mounted(
    tree: Path, work: Path, driver: str, option: str, code: Path = _ROOT, accepted: Sequence[int] = (0,)
) -> Result:
    store, mount = work / "store", work / "mount"
    mount.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(code)}
    init = [*_COMMAND, "init", "--format", driver, str(store)]
    subprocess.run(init, env=environment, cwd=code, check=True, stdout=subprocess.DEVNULL)
    how = ["mount", "-f", "--log-level", "warning", "--cache-dir", "none", "-o", f"{option},alone"]
    daemon = subprocess.Popen([*_COMMAND, *how, str(store), str(mount)], env=environment, cwd=code)
    try:
        while not os.path.ismount(mount):
            if daemon.poll() is not None:
                raise SystemExit("the mount has ended")
            time.sleep(0.05)
        return _timed(tree, mount, daemon, environment, code, accepted)
    finally:
        if daemon.poll() is None:
            subprocess.run(["umount", str(mount)], check=False)
            daemon.wait()
        shutil.rmtree(store)
        mount.rmdir()


def _timed(
    tree: Path,
    mount: Path,
    daemon: subprocess.Popen[bytes],
    environment: dict[str, str],
    code: Path,
    accepted: Sequence[int],
) -> Result:
    watch = _Watch(daemon.pid)
    before = watch.cpu
    rsync, client = _rsync(tree, mount, accepted)
    requests = json.loads((mount / ".dboxfs" / "stats.json").read_text())["requests"]
    start = time.perf_counter()
    ended = subprocess.run([*_COMMAND, "umount", str(mount)], env=environment, cwd=code, check=False)
    end = time.perf_counter() - start
    watch.stop()
    if ended.returncode:
        raise SystemExit("dboxfs umount has failed")
    return Result(rsync, client, end, watch.cpu - before, watch.memory, requests)


class _Watch:
    """Looks at a process now and then, until it ends: CPU time so far (seconds), highest RSS (bytes)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self.cpu, self.memory = 0.0, 0
        self.look()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self.look()

    def look(self) -> None:
        """Look now."""
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{self._pid}/status").read_text()
        except OSError:
            return
        self.cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.memory = int(line.split()[1]) * 1024

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()


if __name__ == "__main__":
    main()
