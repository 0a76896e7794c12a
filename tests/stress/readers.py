"""Readers of a read-only mount in all orders at once while Dovecot changes the store: all bytes are compared.

    python -m tests.stress.readers [--seconds 600] [--driver mdbox] [--memory MIB] [--kill] [--messages 3000]

Each message carries a sum of itself, so a reader knows by the bytes alone whether they are right, whatever is
expunged, appended, purged or moved to the alternative storage meanwhile. Readers go up and down by uid and by
name, in no order, through memory mappings, piece by piece; some have the kernel drop what it has read
(POSIX_FADV_DONTNEED). *memory*: the daemon and the readers live in a cgroup with so much of it, so that the
kernel drops pages and inodes by itself. *kill*: at the end the daemon is killed, and no reader may hang.

Errors that SEMANTICS.md names are none: a name that is gone (ENOENT), an expunged message of which nothing
had been read (ESTALE; a memory mapping would get SIGBUS, so there is none where that can be).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import mmap
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tests.live.dovecot import Account, Append, DoveadmError, Dovecot

GOING = (errno.ENOENT, errno.ESTALE)
"""What an expunged message may give."""

DEAD = ("not connected", "connection abort")
"""What a daemon that was killed gives."""

ORDERS = ("up", "down", "names", "names down", "none", "up", "pieces", "mapped")
"""What each of eight readers does."""

READY_SECONDS = 60
"""Seconds for all readers to start."""

CGROUPS = Path("/sys/fs/cgroup")


def message(number: int) -> bytes:
    """A message that carries the sum of its text; some are large."""
    chance = random.Random(number)
    lines = min(int(chance.lognormvariate(4.2, 1.3)) + 1, 40_000)
    text = b"".join(b"%06d %06d a line of text\n" % (number, line) for line in range(lines))
    return b"Subject: %d\nX-Sum: %s\n\n%s" % (number, hashlib.sha256(text).hexdigest().encode(), text)


def is_whole(data: bytes) -> bool:
    """Whether these are the bytes of one message, all of them."""
    head, _, text = data.partition(b"\n\n")
    return head.endswith(hashlib.sha256(text).hexdigest().encode()) and head.startswith(b"Subject: ")


@dataclass(slots=True)
class Report:
    """What the readers say. ``wrong``: what should not have been."""

    read: int = 0
    gone: int = 0
    wrong: list[str] = field(default_factory=list)


def read_one(path: Path, how: str, chance: random.Random) -> bytes:
    with open(path, "rb", buffering=0) as file:
        if how == "mapped":
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                return bytes(mapped)
        if how == "pieces":
            parts = []
            while part := file.read(chance.choice((100, 4096, 70_000))):
                parts.append(part)
            return b"".join(parts)
        data = file.read()
        if chance.random() < 0.2:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return data


def in_order(names: Sequence[str], how: str, chance: random.Random) -> list[str]:
    """The names in the order in which a reader takes them."""
    if how in ("names", "names down"):
        return sorted(names, reverse=how == "names down")
    if how == "none":
        return chance.sample(names, len(names))
    return sorted(names, key=lambda name: int(name.split(".")[0]), reverse=how == "down")


def reader(inbox: Path, how: str, seed: int, seconds: float, begin: Barrier, answers: Queue[Report]) -> None:
    """A process that reads for so long, as soon as all are ready."""
    chance, report = random.Random(seed), Report()
    begin.wait(READY_SECONDS)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            for name in in_order(os.listdir(inbox), how, chance):
                if time.monotonic() > until:
                    break
                _try_one(inbox / name, how, chance, report)
    except OSError as exc:
        report.wrong.append(f"{how}: {exc}")
    answers.put(report)


def _try_one(path: Path, how: str, chance: random.Random, report: Report) -> None:
    try:
        data = read_one(path, how, chance)
    except OSError as exc:
        if exc.errno not in GOING:
            raise
        report.gone += 1
    else:
        report.read += 1
        if not is_whole(data):
            report.wrong.append(f"{how}: {path.name}: {len(data)} bytes that are no message")


def disturb(account: Account, driver: str, first: int, until: float) -> int:
    """Have Dovecot change the store until the time is up; how many changes that were."""
    chance, number, changes = random.Random(first), first, 0
    while time.monotonic() < until:
        what = chance.choice(("append", "append", "expunge", "flag", "purge", "altmove"))
        with contextlib.suppress(DoveadmError):  # what it was to change may be gone
            if what == "append":
                account.append(Append(message(n)) for n in range(number, number + 10))
                number += 10
            elif what == "expunge":
                low = chance.randrange(1, number)
                account.doveadm("expunge", "mailbox", "INBOX", "uid", f"{low}:{low + 10}")
            elif what == "flag":
                account.doveadm(
                    "flags", "add", "\\Seen", "mailbox", "INBOX", "uid", str(chance.randrange(1, number))
                )
            elif what == "purge" and driver == "mdbox":
                account.purge()
            elif what == "altmove":
                low = chance.randrange(1, number)
                account.doveadm("altmove", "mailbox", "INBOX", "uid", f"{low}:{low + 50}")
        changes += 1
    return changes


def read_all(
    inbox: Path,
    seconds: float,
    seed: int,
    meanwhile: Callable[[float], object],
    orders: Sequence[str] = ORDERS,
) -> tuple[Report, int]:
    """Readers for so many seconds; what they say together, and how many of them hang."""
    context = multiprocessing.get_context("spawn")
    answers: Queue[Report] = context.Queue()
    begin = context.Barrier(len(orders) + 1)
    readers = [
        context.Process(target=reader, args=(inbox, how, seed + n, seconds, begin, answers))
        for n, how in enumerate(orders)
    ]
    for process in readers:
        process.start()
    begin.wait(READY_SECONDS)
    meanwhile(time.monotonic() + seconds)
    total, left = Report(), len(readers)
    deadline = time.monotonic() + 30
    while left and time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            report = answers.get(timeout=1)
            total.read += report.read
            total.gone += report.gone
            total.wrong += report.wrong
            left -= 1
    for process in readers:
        process.kill()
        process.join(5)
    return total, left


@contextlib.contextmanager
def memory_limit(mib: int | None) -> Iterator[None]:
    """Put this process, and those that it starts, into a cgroup with so much memory."""
    if mib is None:
        yield
        return
    mine = {
        line.split(":")[1]: line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().split()
    }
    if "memory" in mine:  # version 1
        above, limit, members = CGROUPS / "memory", "memory.limit_in_bytes", "tasks"
    else:
        above, limit, members = CGROUPS, "memory.max", "cgroup.procs"
    before = above / mine.get("memory", mine.get("", "/")).lstrip("/")
    group = above / f"dboxfs-readers-{os.getpid()}"
    group.mkdir()
    (group / limit).write_text(f"{mib << 20}")
    (group / members).write_text("0")
    try:
        yield
    finally:
        (before / members).write_text("0")
        with contextlib.suppress(OSError):  # processes that end just now
            time.sleep(0.5)
            group.rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(prog="readers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--driver", choices=("mdbox", "sdbox"), default="mdbox")
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--memory", type=int, metavar="MIB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    dboxfs = Path(sys.executable).with_name("dboxfs")
    with Dovecot() as dovecot, tempfile.TemporaryDirectory(prefix="dboxfs-readers.") as place:
        account = dovecot.account(f"{given.driver}:{{home}}/mail:ALT={{home}}/alt")
        account.append(Append(message(n)) for n in range(1, given.messages + 1))
        mnt = Path(place, "mnt")
        mnt.mkdir()
        with memory_limit(given.memory):
            how = ("--cache-dir", "none", "-o", "open=none")
            subprocess.run([dboxfs, "mount", *how, account.location, mnt], check=True)
            stats, changes = mnt / ".dboxfs/stats.json", [0]

            def meanwhile(until: float) -> None:
                changes[0] = disturb(account, given.driver, given.messages + 1, until - 2)
                print(stats.read_text())
                if given.kill:
                    os.kill(daemon_of(mnt), signal.SIGKILL)

            orders = ORDERS if given.driver == "mdbox" and not given.kill else ORDERS[:-1]
            try:
                report, hang = read_all(mnt / "INBOX", given.seconds, given.seed, meanwhile, orders)
            finally:
                subprocess.run([dboxfs, "umount", mnt], check=False)
    wrong = [line for line in report.wrong if not (given.kill and any(sign in line for sign in DEAD))]
    print(f"{report.read} messages read, {report.gone} were gone, {changes[0]} changes, {hang} readers hang")
    print("\n".join(wrong[:20]) or "nothing wrong")
    return 1 if wrong or hang else 0


def daemon_of(mnt: Path) -> int:
    """The process that serves a mount, which its companion is a child of."""
    from dboxfs.util.mounts import mounted_on, servers

    mount = mounted_on(str(mnt))
    assert mount is not None
    found = servers(mount.connection)
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in found}
    return next(pid for pid in found if parents[pid] not in found)


if __name__ == "__main__":
    sys.exit(main())
