"""What a mount of many users takes: ``python -m bench.site DIR [--users 10000] [--messages 30] [--tar N]``.

One small mdbox is made, and its files are linked for each user below DIR (what is there already is kept).
Then, of one mount of all of them: seconds to mount, of ``ls``, to enter a user (median and 99th percentile,
of 200), the memory of the daemon with 200 stores open, and ``tar`` of the first N users, beside ``tar`` of
one store with as many messages.  Ratios count, not seconds: other programs use the machine, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

DBOXFS = Path(sys.executable).with_name("dboxfs")
BOXES = ("INBOX", "Sent", "Work")
JULY = 1_689_000_000
BATCH = 1000


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.site")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=30, help="of each user, in three mailboxes")
    parser.add_argument("--tar", type=int, default=1000, help="users of the comparison with one store")
    arguments = parser.parse_args()
    vmail, one = arguments.directory / "vmail", arguments.directory / "one"
    make(vmail, arguments.users, arguments.messages // 3)
    if not one.exists():
        trio.run(store, one, arguments.tar * (arguments.messages // 3))
    found = measure(arguments.directory, vmail, one, arguments.tar)
    print(json.dumps(found, indent=2))
    return 0


async def store(root: Path, messages: int) -> None:
    """A store with so many messages in each of its mailboxes."""
    async with FileSystem(ThreadsDriver(), sync=False) as fs:
        location, options = Location(Kind.MDBOX, str(root)), WriteOptions(Neighbour.ALONE)
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, await fs.stat(str(root)), options)
        for box in BOXES:
            if box != "INBOX":
                await writer.create_mailbox(box)
            for start in range(0, messages, BATCH):
                numbers = range(start, min(start + BATCH, messages))
                await writer.save(box, [NewMessage(text(box, number), JULY + number) for number in numbers])


def text(box: str, number: int) -> bytes:
    """About 4 KB."""
    return f"Subject: {box} {number}\n\n".encode() + b"a line of some text, as there are in mail\n" * 95


def make(vmail: Path, users: int, messages: int) -> None:
    """A store for each user."""
    first = vmail / "example.org/user00000/mdbox"
    if not first.exists():
        first.parent.mkdir(parents=True)
        trio.run(store, first, messages)
    for number in range(1, users):
        user = vmail / f"example.org/user{number:05}"
        if not user.exists():
            shutil.copytree(first.parent, user, copy_function=os.link)


def measure(directory: Path, vmail: Path, one: Path, tar: int) -> dict[str, float]:
    """Seconds, MB and ratios."""
    mnt = directory / "mnt"
    mnt.mkdir(exist_ok=True)
    found: dict[str, float] = {}
    began = time.perf_counter()
    mount(f"--users=mdbox:{vmail}/%d/%n/mdbox", mnt, directory)
    found["mount_s"] = time.perf_counter() - began
    try:
        found["ls_s"] = timed("ls", str(mnt))
        names = sorted(os.listdir(mnt))
        step = max(1, len(names) // 200)
        entered = sorted(timed_listing(mnt / name) for name in names[::step][:200])
        found["enter_median_ms"] = entered[len(entered) // 2] * 1e3
        found["enter_p99_ms"] = entered[len(entered) * 99 // 100] * 1e3
        found["rss_mb_200_open"] = rss(mnt)
        found["tar_users_s"] = timed_tar(mnt, names[:tar])
        found["rss_mb_after_tar"] = rss(mnt)
    finally:
        subprocess.run([DBOXFS, "umount", mnt], check=True)
    mount(str(one), mnt, directory)
    try:
        found["tar_one_store_s"] = timed_tar(mnt, ["."])
    finally:
        subprocess.run([DBOXFS, "umount", mnt], check=True)
    found["speed_of_one_store"] = found["tar_one_store_s"] / found["tar_users_s"]
    return {name: round(value, 3) for name, value in found.items()}


def mount(what: str, mnt: Path, directory: Path) -> None:
    log = directory / "log"
    subprocess.run([DBOXFS, "mount", "--cache-dir", "none", "--log-file", log, what, mnt], check=True)


def timed(*command: str) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    subprocess.run([*command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def timed_tar(directory: Path, names: Sequence[str]) -> float:
    """Seconds of tar, which reads nothing if it sees that it writes to /dev/null."""
    began = time.perf_counter()
    command = ["tar", "cf", "-", "-C", str(directory), "--", *names]
    tar = subprocess.Popen(command, stdout=subprocess.PIPE)
    subprocess.run(["cat"], stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
    if tar.wait():
        raise SystemExit(f"tar: status {tar.returncode}")
    return time.perf_counter() - began


def timed_listing(path: Path) -> float:
    """Seconds until a user's mailboxes are listed."""
    began = time.perf_counter()
    os.listdir(path)
    return time.perf_counter() - began


def rss(mnt: Path) -> float:
    """Megabytes of the daemon's memory."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = (status.parent / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(mnt) in words and b"mount" in words:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                size = int(lines["VmRSS"].split()[0]) / 1024
        except (OSError, KeyError):
            continue
        else:
            if os.fsencode(mnt) in words and b"mount" in words and size > 20:
                return size
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
