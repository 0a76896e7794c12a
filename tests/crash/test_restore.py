"""A mount that puts a backup back dies at any operation, while files are staged or become messages.

Every mailbox has all that was put back into it, or nothing of it; what was acknowledged is there; the next
writable mount leaves nothing behind of what was staged; and the same backup, put back once more, completes
the store: each message is there once, with the uid, guid, flags, dates and name that it had.

All points: ``DBOXFS_CRASH=all``.
"""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

import dboxfs.store.write  # noqa: F401 - before its parts, which come from two folders
from dboxfs.errors import DboxfsError
from dboxfs.fsapi import Driver, Fault, FaultsDriver, FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.memory_tree import Tree
from dboxfs.fsapi.temporary import Process
from dboxfs.store import Kind, open_store
from dboxfs.store.mdbox import placement, saves
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import Neighbour, StoreWriter, WriteOptions
from dboxfs.store.write.mailboxes import TRASH
from tests.crash.points import Point
from tests.vfs.inside import JULY, ROOT_DIRECTORY, Mounted, Program, location_of, make_store, mounted

pytestmark = pytest.mark.expected_log(".")

EVERY = os.environ.get("DBOXFS_CRASH") == "all"
SOME = 16
OPTIONS = WriteOptions(Neighbour.ALONE, memory_limit=10_000, rotate_size=25_000)
LEFT = (".temp.", "dboxfs-note", ".newlock", ".tmp")

Message = tuple[int, bytes, bytes, int, tuple[str, ...], str]
"""uid, text, guid, received, flags, name."""

Contents = dict[str, tuple[tuple[object, ...], list[Message]]]
"""By mailbox: (guid, UIDVALIDITY, next uid), and its messages."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What is put back into one mailbox."""

    mailbox: str
    guid: bytes
    messages: tuple[Message, ...]


def _message(uid: int, mailbox: str, size: int = 0, name: str = "", flags: tuple[str, ...] = ()) -> Message:
    text = f"Subject: {mailbox} {uid}\n\n".encode() + b"a line of the message\n" * (1 + size // 22)
    guid = mailbox.encode().hex().rjust(24, "0") + f"{uid:08x}"
    return uid, text, guid.encode(), JULY + uid, flags, name or f"{uid}.eml"


BACKUPS = (
    Backup("INBOX", b"", (_message(5, "INBOX"), _message(7, "INBOX", 30_000))),
    Backup(
        "New",
        b"\xab" * 16,
        (
            _message(3, "New", flags=("\\Seen",)),
            _message(8, "New", 300_000, "a letter"),
            _message(9, "New", name="another letter"),
            *(_message(uid, "New", 9_000) for uid in (11, 12, 20)),
        ),
    ),
    Backup("Work", b"\xcd" * 16, (_message(2, "Work", 4_000), _message(4, "Work", 4_000))),
)


async def put_back(p: Program, message: Message, mailbox: str) -> None:
    """rsync -X: what is there already with size and date stays; a temporary, its attributes, a rename."""
    uid, text, guid, received, flags, name = message
    path, temporary = f"{mailbox}/{name}", f"{mailbox}/.{name}.x7Qz"
    if await p.exists(path):
        attrs = await p.stat(path)
        assert (attrs.size, attrs.modified_ns) == (len(text), received * 10**9)
        return
    file = await p.create(temporary, os.O_EXCL)
    await file.write(text)
    await file.close()
    values = {"flags": " ".join(flags), "guid": guid.decode(), "uid": str(uid), "modseq": "9"}
    for word, value in values.items():
        await p.set_xattr(temporary, word, value)
    await p.set_received(temporary, received)
    await p.rename(temporary, path)


async def put_all_back(m: Mounted) -> None:
    """The whole backup."""
    p = m.program()
    for backup in BACKUPS:
        if not await p.exists(backup.mailbox):
            await p.mkdir(backup.mailbox)
        for message in backup.messages:
            await put_back(p, message, backup.mailbox)
        if backup.guid:
            await p.set_xattr(backup.mailbox, "guid", backup.guid.hex())
            await p.set_xattr(backup.mailbox, "uidvalidity", "4711")
            await p.set_xattr(backup.mailbox, "uidnext", "30")


class Disk:
    """Gives a mount the driver that dies."""

    def __init__(self) -> None:
        self.driver: Recorder

    def __call__(self, driver: Driver) -> Driver:
        self.driver = Recorder(driver)
        return self.driver


class Recorder(FaultsDriver):
    """Writes down the kind of every operation since the plan was made."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner, depth=1)
        self.kinds: list[str] = []

    def replan(self, plan: Iterable[Fault]) -> None:
        super().replan(plan)
        self.kinds = []

    def submit(self, op, done, *, background=False):  # type: ignore[no-untyped-def]
        self.kinds.append(op.kind)
        return super().submit(op, done, background=background)


async def restore(tree: Tree, kind: Kind, plan: Sequence[Fault], options: WriteOptions) -> tuple[Disk, bool]:
    """Mount, put everything back, commit, and end; whether the commit was acknowledged."""
    disk = Disk()
    acknowledged = False
    async with mounted(kind, options, MemoryDriver(tree=tree), faults=disk, restore=True) as m:
        disk.driver.replan(plan)
        try:
            await put_all_back(m)
        except (OSError, DboxfsError):
            if not plan:
                raise
        assert m.vfs.staging is not None
        await m.vfs.staging.commit()
        acknowledged = not disk.driver.crashed and not m.vfs.staging.describe()["failed"]
    return disk, acknowledged


async def contents(tree: Tree, kind: Kind) -> Contents:
    """All that a reader sees."""
    found: Contents = {}
    async with (
        FileSystem(MemoryDriver(tree=tree)) as fs,
        open_store(fs, location_of(kind), follow=False) as store,
    ):
        reader = NameReader(store)
        await reader.load()
        for name, folder in store.folders.items():
            box = folder.mailbox
            if box is None:
                continue
            messages = []
            for uid in box.uids.tolist():
                body = await box.open(uid)
                text = await body.read(body.size, 0)
                body.close()
                facts, details = await box.facts_of(uid), await box.details(uid)
                shown = os.fsdecode(reader.names.name(folder, uid))
                guid = details.metadata.guid or b""
                messages.append((uid, text, guid, facts.received, box.flags(uid), shown))
            found[name] = (box.guid, box.uid_validity, box.uid_next), messages
    return found


async def next_mount(tree: Tree, kind: Kind, options: WriteOptions) -> list[str]:
    """The next writable mount begins; gives what is still there of the one that died."""
    async with FileSystem(MemoryDriver(tree=tree)) as fs:
        writer = StoreWriter(fs, location_of(kind), await fs.stat(ROOT_DIRECTORY), options)
        await writer.recover()
        if options.alone:
            await writer.maintain()
    async with mounted(kind, options, MemoryDriver(tree=tree)) as m:
        await m.vfs.sweep()
        # A mailbox that was never whole is trash, which the next deletion takes away (PROTOCOL 9).
        files = [path for path in m.files() if f"/{TRASH}/" not in path]
        return [path for path in files if any(mark in path for mark in LEFT)]


def rows(found: Contents, name: str) -> list[tuple[object, ...]]:
    """The messages of a mailbox without their names."""
    return [message[:5] for message in found.get(name, ((), []))[1]]


def dead() -> Process:
    """A process that was here a moment ago."""
    child = subprocess.Popen(["true"])
    child.wait()
    return replace(Process.this(), pid=child.pid, start="1")


@pytest.mark.parametrize("neighbour", list(Neighbour), ids=lambda neighbour: neighbour.value)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
async def test_a_restore_that_dies_leaves_whole_mailboxes_and_the_next_one_completes_it(
    points: dict[str, int], monkeypatch: pytest.MonkeyPatch, kind: Kind, neighbour: Neighbour
) -> None:
    options = replace(OPTIONS, neighbour=neighbour)
    monkeypatch.setattr(saves, "SHARED_LIMIT", 8_000)  # several notes, writes and files for one mailbox
    monkeypatch.setattr(saves, "BATCH_BYTES", 15_000)
    monkeypatch.setattr(placement, "_MOST_OPEN", 2)
    memory = MemoryDriver()
    memory.make_dirs(os.path.dirname(ROOT_DIRECTORY))
    await make_store(memory, kind)
    first = memory.tree
    whole = copy.deepcopy(first)
    disk, acknowledged = await restore(whole, kind, (), options)
    assert acknowledged
    before, after = await contents(first, kind), await contents(whole, kind)
    assert {name: [row[0] for row in rows(after, name)] for name in after} == {
        "INBOX": [1, 5, 7], "New": [3, 8, 9, 11, 12, 20], "Work": [2, 4],
    }  # fmt: skip
    assert after["New"][0] == (b"\xab" * 16, 4711, 30)
    assert [message[5] for message in after["New"][1]][1:3] == ["a letter", "another letter"]
    kinds, gone, here = disk.driver.kinds, dead(), Process.this
    every = [Point(nth) for nth in range(len(kinds) + 1)]
    every += [Point(nth, torn=True) for nth, kind_of_op in enumerate(kinds, 1) if kind_of_op == "append"]
    chosen = every if EVERY else every[:: max(1, len(every) // SOME)]
    for point in chosen:
        where = f"{point} of {len(kinds)}, after {kinds[max(point.nth - 1, 0)]}"
        tree = copy.deepcopy(first)
        monkeypatch.setattr(Process, "this", classmethod(lambda cls: gone))
        died, acknowledged = await restore(tree, kind, point.plan(), options)
        monkeypatch.setattr(Process, "this", here)
        at_once = await contents(tree, kind)
        left = await next_mount(tree, kind, options)
        assert left == [], where
        then = await contents(tree, kind)
        for name in after:
            assert rows(then, name) == rows(at_once, name), f"{where}: {name} has changed later"
            assert rows(then, name) in (rows(before, name), rows(after, name)), f"{where}: half of {name}"
        if acknowledged:
            assert then == after, where
        assert died.driver.crashed or acknowledged, where
        _, acknowledged = await restore(tree, kind, (), options)
        assert acknowledged, where
        assert await contents(tree, kind) == after, f"{where}: not completed"
        assert await next_mount(tree, kind, options) == [], where
    points[f"restore-{kind.value}-{neighbour.value}"] = len(chosen)
