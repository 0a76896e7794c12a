"""Stores with messages of dbox version 3: checked, and rescued to both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store
from tests.live import corpus
from tests.live.dovecot import Dovecot
from tests.live.mounts import dboxfs
from tests.store.write.stores import RESYNC, assert_resync_changes_nothing, everything
from tests.tools.check.stores import DRIVERS, check
from tests.tools.rescue.rescued import rescue

TEXTS = [
    *list(corpus.real().values())[:12],
    *(corpus.nasty()[name] for name in ("dbox-file", "mixed-line-ends", "random-bytes", "empty")),
    b"\x1f\x8b begins like a compressed one\n",
]


async def make(root: Path, driver: str) -> None:
    """A store of version 3, with copies and keywords."""
    options = WriteOptions(neighbour=Neighbour.ALONE, dbox_version=3, rotate_size=64 << 10)
    location = Location(Kind(driver), str(root))
    async with FileSystem(ThreadsDriver()) as fs:
        await init_store(fs, location, options=options)
        writer = StoreWriter(fs, location, os.stat(root), options)
        await writer.create_mailbox("Work")
        news = [
            NewMessage(text, received=1_000_000_000 + n, flags=0x08 * (n % 2), keywords=("$One",))
            for n, text in enumerate(TEXTS)
        ]
        saved = await writer.save("INBOX", news)
        await writer.copy("INBOX", saved.uids[:5], "Work")
        await writer.expunge("INBOX", saved.uids[2:3])


async def shown(root: Path) -> dict[str, list[tuple[int, bytes, tuple[str, ...], tuple[str, ...]]]]:
    """uid, text, flags and keywords of every message."""
    found = {}
    async with (
        FileSystem(ThreadsDriver()) as fs,
        open_store(fs, parse_location(str(root)), follow=False) as store,
    ):
        for name, folder in store.folders.items():
            box = folder.mailbox
            if box is None:
                continue
            rows = []
            for uid in box.uids.tolist():
                body = await box.open(uid)
                rows.append(
                    (uid, await body.read(body.size, 0), tuple(box.flags(uid)), tuple(box.keywords(uid)))
                )
                body.close()
            found[name] = rows
    return found


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_store_of_version_3_is_checked_and_comes_back(tmp_path: Path, driver: str) -> None:
    source = tmp_path / "source"
    await make(source, driver)
    report = check(source, "--unused")
    assert (report.status, report.loud()) == (0, [])
    before = await shown(source)
    assert [text for _, text, _, _ in before["INBOX"]] == TEXTS[:2] + TEXTS[3:]
    for target in DRIVERS:
        done = dboxfs("rescue", "--format", target, source, tmp_path / target)
        assert (done.returncode, done.stderr) == (0, "")
        assert await shown(tmp_path / target) == before
        again = check(tmp_path / target, "--unused")
        assert (again.status, again.loud()) == (0, [])
        assert (tmp_path / target / "dboxfs-version").read_text() == "3\n"


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_version_3_is_rescued_to_what_dovecot_reads(
    dovecot: Dovecot, tmp_path: Path, driver: str
) -> None:
    await make(tmp_path / "source", driver)
    done = rescue(dovecot, tmp_path / "source", driver, "--dbox-version", "2")
    assert (done.status, done.codes()) == (0, set())
    after = everything(done.account)
    assert after["INBOX"].texts == TEXTS[:2] + TEXTS[3:]
    assert after["Work"].texts == TEXTS[:5]
    assert_resync_changes_nothing(done.account)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_flipped_byte_is_found_by_check(tmp_path: Path, driver: str) -> None:
    source = tmp_path / "source"
    await make(source, driver)
    (path, *_) = sorted(source.rglob("m.1" if driver == "mdbox" else "u.1"))
    data = path.read_bytes()
    for offset in (60, len(data) // 2):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0x20]) + data[offset + 1 :])
        report = check(source, "--unused")
        assert report.status == 1, offset
        assert str(path) in {finding["path"] for finding in report.loud()}
    path.write_bytes(data)
    assert check(source, "--unused").status == 0
