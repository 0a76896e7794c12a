"""Many messages that go at once, and large ones: time, transactions and memory stay bounded."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import parse_location
from dboxfs.store.write import NewMessage, StoreWriter
from tests.fuse_rw.rw import Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts
from tests.store.write.stores import body
from tests.through.changes import EVERY
from tests.through.daemons import Daemons

pytestmark = [both, resynced]

MANY = 10_000 if EVERY else 1500
LARGE = 1 << 30 if EVERY else 96 << 20
GROWTH = 64 << 10
"""KiB that a daemon may grow by while large messages go through it."""


async def test_rm_r_of_many_waits_for_the_disk_a_few_times(
    dovecot: Dovecot, daemons: Daemons, driver: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(body(0))
    account.doveadm("mailbox create", "Many")
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, parse_location(account.location), account.root.stat())
        await writer.save("Many", [NewMessage(body(n)) for n in range(MANY)])
    with daemons.mounted(account.location) as served:
        began = time.monotonic()
        done = subprocess.run(["rm", "-r", served.mnt / "Many"], capture_output=True, check=False)
        seconds = time.monotonic() - began
        assert (done.returncode, done.stderr) == (0, b"")
        operations = served.operations()[0]
    syncs, appends = operations.count("sync"), operations.count("append")
    print(f"{driver}: rm -r of {MANY} messages: {seconds:.2f} s, {syncs} syncs, {appends} appends to logs")
    assert account.mailboxes() == ["INBOX"]
    assert syncs < MANY / 15 + 50
    assert appends >= MANY
    account.force_resync()
    assert [message.text for message in account.fetch()] == [body(0)]


def test_large_messages_take_no_memory(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> None:
    rw = Writable.make(dovecot, mounts, tmp_path, driver)
    pid = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(rw.mnt).encode() in _command(entry)
    )
    before, most, ending = _resident(pid), [0], threading.Event()

    def sample() -> None:
        while not ending.wait(0.01):
            most[0] = max(most[0], _resident(pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    piece = b"0123456789abcde\n" * (1 << 16)
    with (rw.inbox / "large").open("wb") as file, (rw.inbox / "second").open("wb") as second:
        for _ in range(LARGE >> 20):
            file.write(piece)
        for _ in range(LARGE >> 23):
            second.write(piece)
    subprocess.run(["cp", "INBOX/large", "Work/again"], cwd=rw.mnt, check=True)
    with (rw.work / "again").open("ab") as file:
        file.write(b"more\n")
    ending.set()
    sampler.join()
    print(f"{driver}: {LARGE >> 20} MiB: resident memory from {before} to {most[0]} KiB at most")
    assert most[0] - before < GROWTH
    sizes = [message.physical_size for box in ("INBOX", "Work") for message in rw.account.fetch(box)][1:]
    assert sorted(sizes) == [LARGE >> 3, LARGE, LARGE + 5]
    for path in (rw.inbox / "large", rw.inbox / "second", rw.work / "again"):
        path.unlink()
    rw.settled()


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _resident(pid: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
