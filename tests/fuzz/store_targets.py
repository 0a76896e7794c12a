"""Targets of the fuzzer: the small files of a store that are no index, and a mailbox with one odd message."""

from __future__ import annotations

import contextlib
import json
from random import Random
from typing import cast

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind, Location, open_store
from dboxfs.store.dbox_version import recorded_version
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.indexes.create import last_uid_validity
from dboxfs.store.write import WriteOptions
from dboxfs.tools.convert.journal import Batch, Journal
from tests.fuzz.dbox_targets import SAMPLES, TOKENS, make_format2
from tests.fuzz.machine import Target

ROOT = "/store"
BOX = f"{ROOT}/mailboxes/INBOX/dbox-Mails"
_INBOX = SAMPLES / "sdbox" / "mailboxes" / "INBOX" / "dbox-Mails"
_FILES = {path.name: path.read_bytes() for path in sorted(_INBOX.iterdir()) if path.is_file()}
_ROWS: tuple[object, ...] = ([], [[1, 1, 1, "00"]], [[1]], {}, {"k": ["INBOX", 1, "00"]}, {"k": 1})
_VALUES: tuple[object, ...] = (0, -1, 2**70, "x", None, True, *_ROWS)
_LINES = ("convert", "mailbox", "done", "publish")
_KEYS = (*_LINES, "rows", "stored", "shared", "failed", "source", "format", "fingerprints")


def _store(names: dict[str, bytes]) -> MemoryDriver:
    driver = MemoryDriver(nowait=True)
    driver.make_dirs(BOX)
    for path, data in names.items():
        driver.put(path, data)
    return driver


async def run_version(data: bytes, random: Random) -> None:
    async with FileSystem(_store({f"{ROOT}/dboxfs-version": data})) as fs:
        assert await recorded_version(fs, Location(Kind.SDBOX, ROOT)) in (2, 3)


async def run_uid_validity(data: bytes, random: Random) -> None:
    files = {f"{ROOT}/dovecot-uidvalidity": data, f"{ROOT}/dovecot-uidvalidity.6b00cfb8": b""}
    async with FileSystem(_store(files)) as fs:
        disk = Disk(fs, await fs.stat(ROOT), WriteOptions(), ROOT)
        assert 0 <= await last_uid_validity(disk, Location(Kind.SDBOX, ROOT)) < 2**32


class _Lines:
    """A journal's file."""

    def __init__(self, data: bytes) -> None:
        self.path = "/journal"
        self.size = len(data)
        self._data = data

    async def read(self, size: int, offset: int) -> bytes:
        return self._data[offset : offset + size]

    async def cut(self, size: int) -> None:
        assert size <= self.size


async def run_journal(data: bytes, random: Random) -> None:
    batches: list[Batch] = []
    journal = Journal(cast(AppendFile, _Lines(data)), durable=False)
    await journal.load(batches.append, lambda name: None)


def make_journal(random: Random) -> bytes:
    """Lines that are JSON, of the keys that a journal has."""
    lines = []
    for _ in range(random.randrange(5)):
        keys = random.sample(_KEYS, random.randrange(1, len(_KEYS)))
        line: object = {key: random.choice(_VALUES) for key in keys}
        if random.random() < 0.2:
            line = random.choice(_VALUES)
        lines.append(json.dumps(line).encode() + b"\n")
    return b"".join(lines)


async def run_mailbox(data: bytes, random: Random) -> None:
    """A mailbox with *data* as one of its messages: all others can be listed and read as before."""
    files = {f"{BOX}/{name}": text for name, text in _FILES.items()} | {f"{BOX}/u.2": data}
    async with (
        FileSystem(_store(files)) as fs,
        open_store(fs, Location(Kind.SDBOX, ROOT), follow=False) as store,
    ):
        box = store.folders["INBOX"].mailbox
        assert box is not None
        await box.scan()
        for uid in box.uids.tolist():
            facts = await box.facts_of(uid)
            box.flags(uid), box.keywords(uid), box.modseq(uid)
            with contextlib.suppress(DboxfsError):  # of this message alone
                body = await box.open(uid)
                try:
                    assert body.size == facts.size
                    await body.read(1 << 20, 0)
                finally:
                    body.close()
            assert uid == 2 or not facts.damaged


def targets() -> list[Target]:
    """All of them."""
    versions = [b"2\n", b"3\n", b"2"]
    validities = [b"6b00cfb8", b"6b00cfb8\n"]
    journals = [
        b'{"convert":1,"source":"s","format":"sdbox","version":2,"began":1,"fingerprints":{}}\n{"publish":true}\n'
    ]
    pieces = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"\n", b'"rows"', b"1e999", b"\\ud800", b"[" * 200)
    return [
        Target("dboxversion", versions, run_version, (b"2", b"3", b"\n"), None, 1),
        Target("uidvalidity", validities, run_uid_validity, (b"6b00cfb8", b"0", b"\n"), None, 1),
        Target("journal", journals, run_journal, pieces, make_journal, 4),
        Target("mailbox", [_FILES["u.2"]], run_mailbox, TOKENS, make_format2, 2, output=64 << 20),
    ]
