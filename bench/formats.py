"""Write throughput and file sizes of dbox version 3 beside version 2::

    python -m bench.formats [--rounds N] [--work DIR] [--fsync commit|never]

Every round makes an empty store for each of version and format, and saves the same messages into it:

* small: messages of 4 KB through the library, 50 a transaction;
* large: messages of 32 MiB, spooled and saved as the mount does it with a file that is copied in: in
  version 2 the spool file is copied behind its size, in version 3 it becomes the message;
* mount: one file of 128 MiB through a mount, by ``dd``.

Versions take turns within a round, and the order changes from round to round.  Shown are medians, their ratio
with the range of the single rounds, and the bytes of all message files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from bench.subjects import Dboxfs
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import Fsync, Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

_SMALL, _SMALL_COUNT, _AT_ONCE = 4 << 10, 2000, 50
_LARGE, _LARGE_COUNT, _PIECE = 32 << 20, 4, 128 << 10
_MOUNT = 128 << 20

Work = Callable[[StoreWriter], Awaitable[None]]


def _text(size: int, number: int) -> bytes:
    """A message of *size* bytes with lines, like no other."""
    line = b"%08d " % number + bytes(range(0x30, 0x70)) + b"\n"
    return (b"Subject: %d\n\n" % number + line * (size // len(line) + 1))[:size]


async def _small(writer: StoreWriter) -> None:
    for start in range(0, _SMALL_COUNT, _AT_ONCE):
        await writer.save("INBOX", [NewMessage(_text(_SMALL, start + n)) for n in range(_AT_ONCE)])


async def _large(writer: StoreWriter) -> None:
    text = _text(_LARGE, 0)
    for _ in range(_LARGE_COUNT):
        spool = writer.spool("INBOX")
        for at in range(0, len(text), _PIECE):
            await spool.write_all(text[at : at + _PIECE])
        await writer.save("INBOX", [NewMessage(spool)])
        spool.close()


def _library(root: Path, kind: Kind, version: int, fsync: Fsync, work: Work) -> float:
    """Seconds for *work* on a new store."""

    async def run() -> float:
        options = WriteOptions(Neighbour.ALONE, fsync=fsync, dbox_version=version)
        location = Location(kind, str(root))
        async with FileSystem(ThreadsDriver(), sync=options.durable) as fs:
            await init_store(fs, location, options=options)
            writer = StoreWriter(fs, location, os.stat(root), options)
            start = time.perf_counter()
            await work(writer)
            return time.perf_counter() - start

    return trio.run(run)


def _mounted(root: Path, kind: Kind, version: int, fsync: Fsync, work: Path) -> float:
    """Seconds for one large file through a new mount."""
    dboxfs = Path(sys.executable).with_name("dboxfs")
    init = [str(dboxfs), "init", "--format", kind.value, "--dbox-version", str(version), str(root)]
    subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
    source = work / "source"
    if not source.exists():
        source.write_bytes(_text(_MOUNT, 1))
    source.read_bytes()
    options = f"rw,alone,fsync={fsync.value}"
    command = [str(dboxfs), "mount", "-f", "--log-level", "warning", "-o", options, f"{kind.value}:{root}"]
    (work / "mnt").mkdir(exist_ok=True)
    with Dboxfs(f"v{version}-{kind.value}", root, work, command) as mount:
        mount.fresh(cold=False)
        start = time.perf_counter()
        subprocess.run(
            ["dd", f"if={source}", f"of={mount.path}/INBOX/file", "bs=1M", "status=none"], check=True
        )
        return time.perf_counter() - start


def _stored(root: Path) -> int:
    """Bytes of all message files."""
    files = [path for pattern in ("u.*", "m.*") for path in root.rglob(pattern)]
    return sum(path.stat().st_size for path in files)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.formats", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--fsync", choices=[mode.value for mode in Fsync], default="commit")
    arguments = parser.parse_args()
    fsync = Fsync(arguments.fsync)
    tasks: dict[str, tuple[int, Callable[[Path, Kind, int, Path], float]]] = {
        "small": (_SMALL * _SMALL_COUNT, lambda root, kind, v, _: _library(root, kind, v, fsync, _small)),
        "large": (_LARGE * _LARGE_COUNT, lambda root, kind, v, _: _library(root, kind, v, fsync, _large)),
        "mount": (_MOUNT, lambda root, kind, v, work: _mounted(root, kind, v, fsync, work)),
    }
    seconds: dict[tuple[str, Kind, int], list[float]] = {}
    sizes: dict[tuple[str, Kind, int], int] = {}
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="formats-") as directory:
        work = Path(directory)
        for number in range(arguments.rounds):
            for what, (_, measure) in tasks.items():
                for kind in Kind:
                    for version in (2, 3)[:: -1 if number % 2 else 1]:
                        root = work / "store"
                        taken = measure(root, kind, version, work)
                        seconds.setdefault((what, kind, version), []).append(taken)
                        sizes[what, kind, version] = _stored(root)
                        shutil.rmtree(root)
    print(f"medians of {arguments.rounds} rounds, fsync={fsync.value}; ratio: version 3 to 2, and its range")
    for what, (size, _) in tasks.items():
        for kind in Kind:
            two, three = seconds[what, kind, 2], seconds[what, kind, 3]
            ratios = sorted(a / b for a, b in zip(two, three, strict=True))
            rates = [size / statistics.median(some) / 1e6 for some in (two, three)]
            count = {"small": _SMALL_COUNT, "large": _LARGE_COUNT, "mount": 1}[what]
            more = (sizes[what, kind, 3] - sizes[what, kind, 2]) / count
            print(
                f"{what:6} {kind.value}: {rates[0]:7.1f} MB/s, {rates[1]:7.1f} MB/s, "
                f"ratio {rates[1] / rates[0]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
                f"{sizes[what, kind, 2]} and {sizes[what, kind, 3]} bytes, {more:+.0f} a message"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
