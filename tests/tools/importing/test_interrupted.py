"""An import that dies anywhere goes on with the same command: each message is there once, none is missing.

All points: ``DBOXFS_CRASH=all pytest tests/tools/importing``.  Otherwise some of them.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.temporary import Process
from dboxfs.store import open_store, parse_location
from dboxfs.store.indexes.locks import SUBSCRIPTIONS_STALE
from dboxfs.store.write import Source
from dboxfs.tools import filling
from dboxfs.tools.check import CheckOptions, Finding, Severity, check_store
from dboxfs.tools.importing import filled
from tests import counted
from tests.crash.points import Point, Recorder
from tests.live.mounts import DBOXFS, dboxfs
from tests.tools.importing.sources import imported, maildir, text

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 7

Contents = dict[str, list[tuple[int, bytes, int, tuple[str, ...], bytes | None]]]


def make_source(root: Path) -> Path:
    source = maildir(
        root, {f"{n}.a:2,{'S' if n % 2 else 'Fa'}": text(n, 400_000 if n == 3 else 0) for n in range(1, 8)},
        dovecot_uidlist=b"3 V777 N30 G" + b"11" * 16 + b"\n2 :1.a\n4 :2.a\n6 :3.a\n8 :4.a\n10 :5.a\n",
        dovecot_keywords=b"0 Work\n", subscriptions=b"V\t2\n\nINBOX\nSub\tBox\n",
    )  # fmt: skip
    box = maildir(source / ".Sub.Box", {"1.a:2,F": text(1), "9.a": text(9)})
    (box / "dovecot-uidlist").write_bytes(b"3 V888 N9 G" + b"22" * 16 + b"\n3 :1.a\n")
    return source


async def contents(store: Path) -> Contents:
    """All that a reader sees."""
    found: Contents = {}
    async with (
        FileSystem(ThreadsDriver()) as fs,
        open_store(fs, parse_location(str(store)), follow=False) as opened,
    ):
        for name, folder in opened.folders.items():
            box = folder.mailbox
            if box is None or box.state is None:
                continue
            key = f"{name} {box.guid.hex() if box.guid else ''} {box.uid_validity} {box.uid_next}"
            found[key] = []
            for uid in box.uids.tolist():
                body = await box.open(uid)
                data = await body.read(body.size, 0)
                body.close()
                flags = int(box.state.flags[box.state.row_of(uid)])
                guid = (await box.details(uid)).metadata.guid
                found[key].append((uid, data, flags, box.keywords(uid), guid))
        found["subscribed " + " ".join(sorted(await opened.subscribed()))] = []
    return found


async def damage(store: Path) -> list[Finding]:
    """What ``dboxfs check --unused`` finds wrong."""
    found: list[Finding] = []
    async with FileSystem(ThreadsDriver()) as fs:
        await check_store(fs, parse_location(str(store)), found.append, CheckOptions(patience=()))
    return [finding for finding in found if finding.severity is not Severity.NOTE]


@pytest.fixture
def interrupted(pytestconfig: pytest.Config) -> dict[str, int]:
    """How often imports were interrupted, over the whole session."""
    return counted.of(pytestconfig, "imports interrupted")


def dead() -> Process:
    """A process that was here a moment ago."""
    child = subprocess.Popen(["true"])
    child.wait()
    return replace(Process.this(), pid=child.pid, start="1")


def some(points: list[Point]) -> Iterator[Point]:
    step = 1 if EVERY else max(1, len(points) // SOME)
    yield from points[::step]


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: the same operations, and no wait for a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dboxfs-import.", dir=memory) as directory:
        yield Path(directory)


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_whatever_operation_it_dies_at_the_same_command_finishes_it(
    in_memory: Path, kind: str, monkeypatch: pytest.MonkeyPatch, interrupted: dict[str, int]
) -> None:
    monkeypatch.setattr(filling, "MOST_MESSAGES", 3)
    source = make_source(in_memory / "m")
    recorder = Recorder()
    await imported(source, in_memory / "whole", kind=kind, driver=recorder, verify=False)
    expected = await contents(in_memory / "whole")
    assert {name.split()[0]: len(rows) for name, rows in expected.items()} == {
        "INBOX": 7, "Sub/Box": 2, "subscribed": 0,
    }  # fmt: skip
    points = [Point(nth) for nth in range(len(recorder.kinds))]
    points += [Point(nth, torn=True) for nth, kind in enumerate(recorder.kinds, 1) if kind == "append"]
    for point in some(points):
        store = in_memory / "store"
        driver = FaultsDriver(ThreadsDriver(1), point.plan(), depth=1)
        try:
            await imported(source, store, kind=kind, driver=driver, verify=False, process=dead())
        except* (OSError, DboxfsError):
            pass
        assert driver.crashed, point
        for lock in store.rglob("subscriptions.lock"):  # stale after 30 s: they have passed
            os.utime(lock, (lock.stat().st_mtime - SUBSCRIPTIONS_STALE - 1,) * 2)
        done = await imported(source, store, kind=kind)
        assert (done.failed, done.told) == ([], []), point
        assert await contents(store) == expected, point
        assert await damage(store) == [], point
        shutil.rmtree(store)
    interrupted[f"import-{kind}"] = len([*some(points)])


async def test_a_full_disk_ends_it_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source = make_source(tmp_path / "m")
    for nth in (2, 6, 9, 12):
        driver = FaultsDriver(ThreadsDriver(), [Fault("append", nth, error=errno.ENOSPC)])
        with pytest.raises((OSError, ExceptionGroup)):
            await imported(source, tmp_path / "store", driver=driver)
    await imported(source, tmp_path / "store")
    await imported(source, tmp_path / "whole")
    assert await contents(tmp_path / "store") == await contents(tmp_path / "whole")


async def test_a_large_file_that_vanishes_while_it_is_saved_costs_no_other_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1), "2.b": text(2, 400_000), "3.c": text(3)})
    look = filled.look_at

    async def vanish(text: Source, *, convert: bool) -> filled.TextSeen:
        seen = await look(text, convert=convert)
        if text.size > 300_000:
            (source / "cur" / "2.b").unlink()
        return seen

    monkeypatch.setattr(filled, "look_at", vanish)
    done = await imported(source, tmp_path / "store", verify=False)
    assert done.messages == 2
    assert len(done.failed) == 1
    assert "2.b: left out" in done.failed[0]
    assert [row[1] for row in next(iter((await contents(tmp_path / "store")).values()))] == [text(1), text(3)]


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_a_killed_process_is_gone_on_with_by_the_same_command(
    tmp_path: Path, kind: str, interrupted: dict[str, int]
) -> None:
    """SIGKILL for the real process, as soon as the store has grown by so much."""
    source = maildir(tmp_path / "m", {f"{n}.a:2,S": text(n, 9_000) for n in range(1, 1301)})
    store = tmp_path / "store"
    command = ["import", str(source), str(store), "--format", kind, "--alone"]
    for grown in (1, 5_000_000):
        with subprocess.Popen([DBOXFS, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and size_of(store) < grown:
                time.sleep(0.002)
            process.kill()
        interrupted[f"killed-{kind}"] = interrupted.get(f"killed-{kind}", 0) + (process.returncode == -9)
    done = dboxfs(*command)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = await contents(store)
    (messages,) = [rows for name, rows in found.items() if name.startswith("INBOX")]
    assert sorted(row[1] for row in messages) == sorted(text(n, 9_000) for n in range(1, 1301))
    assert await damage(store) == []
    assert not [path for path in store.rglob("*") if ".temp." in path.name or "dboxfs-note" in path.name]
    assert interrupted[f"killed-{kind}"] == 2


def size_of(store: Path) -> int:
    """Bytes of all files of a store that grows."""
    total = 0
    for directory, _, names in os.walk(store):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total
