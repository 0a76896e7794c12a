"""A conversion that dies anywhere goes on with the same command, and ends with the same store.

All points: ``DBOXFS_CRASH=all pytest tests/tools/convert``.  Otherwise some of them.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dboxfs.errors import DboxfsError, NoSuchStore
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.store import open_store, parse_location
from dboxfs.store.location import UNFINISHED, Kind
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions
from dboxfs.tools.convert import Converted, Converter, SourceChanged
from tests.crash.points import Contents, Point, Recorder, contents
from tests.live.dovecot import Account, Dovecot
from tests.live.mounts import DBOXFS, dboxfs
from tests.store.write.stores import RESYNC, assert_resync_changes_nothing, body
from tests.tools.convert.showing import Showing, assert_shows

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 14


async def attempt(source: Account, target: Account, driver: Driver) -> Converted:
    """One run of the conversion, two messages between two lines of the journal."""
    kind = Kind(target.location.split(":")[0])
    options = WriteOptions(neighbour=Neighbour.ALONE, rotate_size=8000)
    where = parse_location(source.location)
    async with FileSystem(driver) as fs, open_store(fs, where, follow=False) as store:
        return await Converter(fs, store, str(target.root), kind, options=options, batch=2).run()


async def die(source: Account, target: Account, point: Point) -> None:
    """A run that is stopped at *point*."""
    driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
    try:
        await attempt(source, target, driver)
    except* (OSError, DboxfsError):
        pass
    assert driver.crashed


def fill(account: Account) -> None:
    for n in range(5):
        account.save(body(n, 3000 if n % 2 else 0))
    account.save(body(5, 300_000))
    account.doveadm("mailbox create", "Work/Deep", "Empty")
    account.doveadm("mailbox subscribe", "Work/Deep")
    account.save(body(10), "Work/Deep")
    account.doveadm("copy", "Work/Deep", "mailbox", "INBOX", "uid", "2:4")
    account.doveadm("flags add", r"\Seen $Label1", "mailbox", "INBOX", "uid", "2")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "3")


def some(points: list[Point]) -> Iterator[Point]:
    step = 1 if EVERY else max(1, len(points) // SOME)
    yield from points[::step]


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.parametrize(("kind", "target"), [("sdbox", "mdbox"), ("mdbox", "sdbox")])
async def test_whatever_operation_it_dies_at_the_same_command_goes_on(
    dovecot: Dovecot, kind: str, target: str
) -> None:
    source = dovecot.account(f"{kind}:{{home}}/mail")
    fill(source)
    expected = contents(source)
    recorder = Recorder()
    await attempt(source, dovecot.account(f"{target}:{{home}}/mail"), recorder)
    points = [Point(nth) for nth in range(len(recorder.kinds))]
    points += [Point(nth, torn=True) for nth, kind in enumerate(recorder.kinds, 1) if kind == "append"]
    for point in some(points):
        account = dovecot.account(f"{target}:{{home}}/mail")
        await interrupted_at(point, source, account, expected)
    assert_resync_changes_nothing(account)


async def interrupted_at(point: Point, source: Account, account: Account, expected: Contents) -> None:
    driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
    whole = True
    try:
        await attempt(source, account, driver)
    except* (OSError, DboxfsError):
        whole = False
        assert driver.crashed, point
    if not (account.root / "mailboxes").exists():
        with pytest.raises(NoSuchStore):
            parse_location(account.location)
        with pytest.raises(NoSuchStore):
            parse_location(str(account.root))
    elif not whole:
        assert contents(account) == expected, point
    if not (account.root / "mailboxes").exists() or (account.root / UNFINISHED).exists():
        assert not whole, point
        assert (await attempt(source, account, ThreadsDriver())).failed == [], point
    again = await attempt(source, account, ThreadsDriver())  # as if it had been killed behind its last step
    assert (again.finished, again.failed) == (True, []), point
    assert contents(account) == expected, point
    assert [name for name in os.listdir(account.root) if name.startswith(".")] == [], point


@pytest.mark.parametrize("target", ["sdbox", "mdbox"])
async def test_a_full_disk_ends_it_and_the_same_command_goes_on(dovecot: Dovecot, target: str) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    fill(source)
    account = dovecot.account(f"{target}:{{home}}/mail")
    for nth in (1, 2, 4, 7):
        driver = FaultsDriver(ThreadsDriver(), [Fault("append", nth, error=errno.ENOSPC)])
        with pytest.raises(OSError, match="No space left"):
            await attempt(source, account, driver)
    await attempt(source, account, ThreadsDriver())
    assert contents(account) == contents(source)


async def test_what_is_done_is_not_done_again(dovecot: Dovecot) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    fill(source)
    target = dovecot.account("mdbox:{home}/mail")
    recorder = Recorder()
    await attempt(source, dovecot.account("mdbox:{home}/mail"), recorder)
    await die(source, target, Point(len(recorder.kinds) - 12))
    again = await attempt(source, target, ThreadsDriver())
    assert again.resumed
    assert again.bytes == 0
    assert contents(target) == contents(source)


async def test_a_source_that_changes_meanwhile_is_noticed(dovecot: Dovecot) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    fill(source)
    target = dovecot.account("mdbox:{home}/mail")
    await die(source, target, Point(60))
    source.doveadm("flags add", r"\Flagged", "mailbox", "Work/Deep", "uid", "1")
    with pytest.raises(SourceChanged, match="Work/Deep"):
        await attempt(source, target, ThreadsDriver())
    assert not (target.root / "mailboxes").exists()


async def test_looking_at_a_source_is_no_change(dovecot: Dovecot) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    fill(source)
    target = dovecot.account("sdbox:{home}/mail")
    await die(source, target, Point(60))
    expected = Showing.of(source)  # an IMAP client's looks: cache, modseqs, \Recent
    await attempt(source, target, ThreadsDriver())
    assert_shows(target, expected)


async def test_killed_again_and_again_it_gets_to_the_end(dovecot: Dovecot, tmp_path: Path) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    source.save(body(0))
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, parse_location(source.location), source.root.stat())
        for _ in range(6):
            await writer.save("INBOX", [NewMessage(body(n, 500)) for n in range(500)])
    target = dovecot.account("sdbox:{home}/mail")
    command = [str(DBOXFS), "convert", source.location, str(target.root), "--format", "sdbox", "-q"]
    journal = target.root / UNFINISHED
    for kill in range(2):
        size = journal.stat().st_size if journal.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and (not journal.exists() or journal.stat().st_size < size + 1000):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, kill
    done = dboxfs(*command[1:], "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(target) == contents(source)
