"""Every kind of store that sites have: read, checked, converted both ways, rescued without its indexes.

Each pair of properties is in one store (``DBOXFS_MATRIX=all``); otherwise each property is in one.
Expected is what the real Dovecot says of its own store, whichever version is installed.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from dboxfs.dbox.crypt import KeyRing
from dboxfs.dbox.dcrypt_keys import load_keys
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Location, open_store, parse_location
from tests import counted
from tests.live.crypt_keys import Keys, global_keys
from tests.live.dovecot import Account, Dovecot, Fetched
from tests.live.equal import Expected, Tally, assert_shows
from tests.live.matrix import Cell, each_value, fill, pairwise, private_keys
from tests.live.mounts import Mounts, dboxfs

CELLS = pairwise() if os.environ.get("DBOXFS_MATRIX") == "all" else each_value()

Row = tuple[str, int, str, bytes, str, str, int]
"""Mailbox, uid, guid, text, flags, keywords, received date."""


@pytest.fixture(scope="module")
def keys(dovecot_daemon: Dovecot) -> Keys:
    return global_keys(dovecot_daemon)


def row(name: str, message: Fetched) -> Row:
    marks = " ".join(sorted(message.flags.split())), " ".join(sorted(message.keywords.split()))
    return (name, message.uid, message.guid, message.text, *marks, message.received)


async def rows_of(location: Location) -> list[Row]:
    """What dboxfs reads of a store."""
    found: list[Row] = []
    async with FileSystem(ThreadsDriver(workers=4)) as fs, open_store(fs, location, follow=False) as store:
        for folder in store.folders.values():
            box = folder.mailbox
            if box is None:
                continue
            for uid in box.uids.tolist():
                body = await box.open(uid)
                text = await body.read(body.size, 0)
                body.close()
                details = await box.details(uid)
                marks = " ".join(sorted(box.flags(uid))), " ".join(sorted(box.keywords(uid)))
                received = (await box.facts_of(uid)).received
                guid = (details.metadata.guid or b"").decode()
                found.append((box.display_name, uid, guid, text, *marks, received))
    return sorted(found)


def without_indexes(account: Account, to: Path) -> Path:
    """A copy of all that belongs to the store, without any index."""
    shutil.copytree(account.home, to, symlinks=True)
    for path in list(to.rglob("dovecot*")):
        if ".index" in path.name:
            path.unlink()
    return to


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_a_store_of_each_kind(
    dovecot: Dovecot, mounts: Mounts, keys: Keys, tally: Tally, tmp_path: Path, cell: Cell,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    account = fill(dovecot, cell, keys)
    expected = Expected.of(account)
    wanted = sorted(row(name, m) for name, messages in expected.messages.items() for m in messages)
    options, attached, key = [], list[str | Path](), list[str | Path]()
    private = private_keys(account, cell, keys)
    if private is not None:
        options.append(f"crypt_key={private}")
        key = ["--crypt-key", private]
    if cell.attachments != "none":
        options.append(f"attachments={account.home}/attachments")
        attached = ["--attachments", account.home / "attachments"]
    assert_shows(mounts.mount(account.location, ",".join(options)), expected, tally)

    is_clean(account.location, *attached)

    ring = None if private is None else KeyRing(load_keys(private.read_bytes()))
    await converts_both_ways(account.location, [*attached, *key], cell, tmp_path, ring, wanted)
    await is_rescued(account, key, cell, tmp_path, ring, wanted)
    counts = counted.of(pytestconfig, "messages in stores of the matrix")
    counts[str(cell)] = len(wanted)


def is_clean(*store: str | Path) -> None:
    """``check`` has no complaint about a store."""
    done = dboxfs("check", *store)
    assert done.stdout.splitlines()[-1].startswith("0 errors, 0 warnings"), done.stdout
    assert done.returncode == 0


async def converts_both_ways(
    source: str,
    attached: list[str | Path],
    cell: Cell,
    tmp_path: Path,
    ring: KeyRing | None,
    wanted: list[Row],
) -> None:
    other = "mdbox" if cell.driver == "sdbox" else "sdbox"
    there, back = tmp_path / "there", tmp_path / "back"
    for given, to, driver, more in ((source, there, other, attached), (str(there), back, cell.driver, [])):
        done = dboxfs("convert", given, to, "--format", driver, "--verify", *more)
        assert done.returncode == 0, done.stderr
        assert f"verified: {len(wanted)} messages" in done.stdout
        assert await rows_of(replace(parse_location(str(to)), keys=ring)) == wanted
        is_clean(to)


def texts(rows: list[Row]) -> Counter[bytes]:
    return Counter(one[3] for one in rows)


async def is_rescued(
    account: Account,
    key: list[str | Path],
    cell: Cell,
    tmp_path: Path,
    ring: KeyRing | None,
    wanted: list[Row],
) -> None:
    """Without an index nobody knows flags and uids; every text of every mailbox is there."""
    copy, to = without_indexes(account, tmp_path / "copy"), tmp_path / "rescued"
    location = account.location.replace(str(account.home), str(copy))
    attached = list(key)
    if cell.attachments != "none":
        attached += ["--attachments", copy / "attachments"]
    done = dboxfs("rescue", location, to, "--format", cell.driver, *attached)
    assert done.returncode in (0, 1), done.stderr
    found = await rows_of(replace(parse_location(str(to)), keys=ring))
    if cell.driver == "sdbox":
        assert texts(found) == texts(wanted), done.stdout
    else:  # copies are references of indexes
        assert set(texts(found)) == set(texts(wanted)), done.stdout
