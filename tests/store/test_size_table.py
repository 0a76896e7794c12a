"""Sizes that outlive the mount: read once, and never believed of a message that they weren't read of."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from dboxfs.errors import FormatError
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import (
    DAMAGED,
    KNOWN,
    Facts,
    FactTable,
    Mailbox,
    Store,
    open_store,
    parse_location,
    size_format,
    size_table,
)
from dboxfs.store.attrs import FactColumns
from dboxfs.store.size_table import SUFFIX
from tests.live.dovecot import Account, Append, Dovecot

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
COUNT = 70  # a mailbox of less than 64 is not worth a table


def message(n: int) -> bytes:
    return b"Subject: %d\n\n" % n + b"x" * (10 * n) + b"\n"


def made(dovecot: Dovecot, driver: str, count: int = COUNT, **settings: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    account.append(Append(message(n), date=f"02-Feb-2020 10:00:{n % 60:02} +0000") for n in range(count))
    return account


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "dboxfs"


@asynccontextmanager
async def mounted(account: Account, cache: Path) -> AsyncIterator[tuple[Store, Mailbox]]:
    async with (
        FileSystem(ThreadsDriver(workers=4), sync=False) as fs,
        open_store(fs, parse_location(account.location), cache_dir=str(cache)) as store,
    ):
        box = store.folders["INBOX"].mailbox
        assert box is not None
        yield store, box


async def scanned(account: Account, cache: Path) -> dict[str, int]:
    """Mount, look at all messages, compare with Dovecot; gives the counters."""
    expected = [(m.uid, m.physical_size, m.received, m.saved) for m in account.fetch()]
    async with mounted(account, cache) as (store, box):
        await box.scan()
        facts = [(uid, await box.facts_of(uid)) for uid in box.uids.tolist()]
        assert store.sizes is not None
        stats = store.sizes.stats()
    assert [(uid, f.size, f.received, f.saved) for uid, f in facts] == expected
    assert {f.state & (KNOWN | DAMAGED) for _, f in facts} == {KNOWN}
    return stats


def file_of(account: Account, uid: int) -> Path:
    return account.root / "mailboxes/INBOX/dbox-Mails" / f"u.{uid}"


def table_of(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


# -- what is remembered ------------------------------------------------------------------------


@BOTH
async def test_the_second_mount_reads_no_message(dovecot: Dovecot, cache: Path, driver: str) -> None:
    account = made(dovecot, driver)
    first = await scanned(account, cache)
    assert (first["hits"], first["saved"]) == (0, 1)
    second = await scanned(account, cache)
    assert (second["hits"], second["misses"], second["loaded"], second["saved"]) == (COUNT, 0, 1, 0)


async def test_an_mdbox_is_listed_from_the_table_without_its_storage_files(
    dovecot: Dovecot, cache: Path
) -> None:
    account = made(dovecot, "mdbox")
    await scanned(account, cache)
    for path in (account.root / "storage").glob("m.*"):
        path.unlink()
    async with mounted(account, cache) as (_, box):
        await box.scan()
        assert box.facts.unknown == 0
        assert [f.size for f in [await box.facts_of(uid) for uid in range(1, 4)]] == [13, 23, 33]


@BOTH
async def test_new_messages_join_what_was_known(dovecot: Dovecot, cache: Path, driver: str) -> None:
    account = made(dovecot, driver)
    await scanned(account, cache)
    account.append([Append(message(500))])
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "3,7")
    stats = await scanned(account, cache)
    assert (stats["hits"], stats["saved"]) == (COUNT - 2, 0)  # so few are written at the end of the mount
    stats = await scanned(account, cache)
    assert (stats["hits"], stats["misses"]) == (COUNT - 1, 0)


@BOTH
async def test_single_messages_that_were_looked_at_are_kept_too(
    dovecot: Dovecot, cache: Path, driver: str
) -> None:
    account = made(dovecot, driver)
    async with mounted(account, cache) as (_, box):
        await box.facts_of(5)
    async with mounted(account, cache) as (_, box):
        await box.facts_of(9)
    assert (await scanned(account, cache))["hits"] == 2


async def test_purge_and_altmove_cost_nothing(dovecot: Dovecot, cache: Path) -> None:
    account = dovecot.account("mdbox:{home}/mail:ALT={home}/alt", mdbox_rotate_size="4k")
    account.append(Append(message(n)) for n in range(COUNT))
    await scanned(account, cache)
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:20")
    account.doveadm("altmove", "mailbox", "INBOX", "uid", "30:50")
    account.purge()
    stats = await scanned(account, cache)
    assert (stats["hits"], stats["misses"]) == (COUNT - 20, 0)


# -- what must not be believed -----------------------------------------------------------------


async def test_a_replaced_file_is_read_again(dovecot: Dovecot, cache: Path) -> None:
    account = made(dovecot, "sdbox")
    await scanned(account, cache)
    new = file_of(account, 2).with_suffix(".new")
    new.write_bytes(file_of(account, 60).read_bytes())
    new.rename(file_of(account, 2))
    async with mounted(account, cache) as (store, box):
        await box.scan()
        assert (await box.facts_of(2)).size == len(message(59))
        assert store.sizes is not None
        assert (store.sizes.hits, store.sizes.misses) == (COUNT - 1, 1)


async def test_a_file_changed_in_place_is_read_again_whatever_its_mtime_says(
    dovecot: Dovecot, cache: Path
) -> None:
    account = made(dovecot, "sdbox")
    await scanned(account, cache)
    path = file_of(account, 2)
    before, data = path.stat(), path.read_bytes()
    at = data.rindex(b"\nR") + 2
    path.write_bytes(data[:at] + b"10000000" + data[at + 8 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    async with mounted(account, cache) as (_, box):
        await box.scan()
        assert (await box.facts_of(2)).received == 0x10000000


@BOTH
async def test_uids_used_again_after_a_restored_backup(
    dovecot: Dovecot, cache: Path, tmp_path: Path, driver: str
) -> None:
    account = made(dovecot, driver)
    backup = tmp_path / "backup"
    shutil.copytree(account.root, backup)
    account.append([Append(message(300))])
    await scanned(account, cache)
    inode = account.root.stat().st_ino
    owner = account.root.stat()
    for path in account.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(backup, account.root, dirs_exist_ok=True)
    for path in [account.root, *account.root.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid)
    account.append([Append(message(400))])
    assert account.root.stat().st_ino == inode
    (last,) = account.fetch(search=f"uid {COUNT + 1}")
    assert last.physical_size == len(message(400))
    stats = await scanned(account, cache)
    assert stats["misses"] >= 1


@BOTH
@pytest.mark.expected_log("Rebuilding", "fscking", "rebuilding")
async def test_after_a_repair_everything_is_read_again(dovecot: Dovecot, cache: Path, driver: str) -> None:
    account = made(dovecot, driver)
    await scanned(account, cache)
    account.force_resync()
    stats = await scanned(account, cache)
    assert stats["hits"] == 0
    assert stats["rejected"] >= 1
    assert (await scanned(account, cache))["hits"] == COUNT


async def test_a_damaged_message_is_never_remembered(dovecot: Dovecot, cache: Path) -> None:
    account = made(dovecot, "sdbox")
    path = file_of(account, 2)
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    async with mounted(account, cache) as (_, box):
        await box.scan()
        assert (await box.facts_of(2)).damaged
    async with mounted(account, cache) as (store, box):
        await box.scan()
        assert (await box.facts_of(2)).damaged
        assert store.sizes is not None
        assert (store.sizes.hits, store.sizes.misses) == (COUNT - 1, 0)


async def test_the_saved_date_that_dovecot_remembers_comes_first(dovecot: Dovecot, cache: Path) -> None:
    account = made(dovecot, "sdbox")
    async with mounted(account, cache) as (_, box):
        await box.scan()
    account.fetch()  # Dovecot puts the dates into its cache
    for uid in range(1, 9):  # and now the files have other ctimes
        os.link(file_of(account, uid), account.root / f"copy{uid}")
    await scanned(account, cache)
    await scanned(account, cache)


# -- the files ---------------------------------------------------------------------------------


async def test_files_are_private(dovecot: Dovecot, cache: Path) -> None:
    await scanned(made(dovecot, "mdbox"), cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(table_of(cache).stat().st_mode) == 0o600


@pytest.mark.parametrize("at", [0, 9, 30, 70, 500, -40, -1])
async def test_a_damaged_table_is_ignored_with_one_line_and_written_anew(
    dovecot: Dovecot, cache: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    account = made(dovecot, "mdbox")
    await scanned(account, cache)
    data = bytearray(table_of(cache).read_bytes())
    data[at] ^= 0x40
    table_of(cache).write_bytes(data)
    stats = await scanned(account, cache)
    assert stats["rejected"] >= 1
    assert len({record.getMessage() for record in caplog.records}) <= 1
    if at >= -40 and at < 0:  # the end of the file: all rows were good
        assert stats["hits"] == COUNT
    else:
        assert table_of(cache).read_bytes() != data
        assert (await scanned(account, cache))["hits"] == COUNT


async def test_a_directory_where_others_can_write_is_not_used(
    dovecot: Dovecot, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "mdbox")
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert (await scanned(account, cache))["saved"] == 0
    assert list(cache.iterdir()) == []
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "sizes are not kept: others can write there, or it is another user's"
    ]


async def test_a_table_of_somebody_else_is_ignored(dovecot: Dovecot, cache: Path) -> None:
    account = made(dovecot, "mdbox")
    await scanned(account, cache)
    os.chown(table_of(cache), dovecot.mail_uid, -1)
    stats = await scanned(account, cache)
    assert stats["hits"] == 0
    assert stats["rejected"] >= 1


@BOTH
async def test_several_daemons_share_a_directory(dovecot: Dovecot, cache: Path, driver: str) -> None:
    account = made(dovecot, driver)
    expected = {m.uid: m.physical_size for m in account.fetch()}

    async def one() -> None:
        async with mounted(account, cache) as (_, box):
            await box.scan()
            assert {uid: (await box.facts_of(uid)).size for uid in box.uids.tolist()} == expected

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one)
    assert [path.suffix for path in cache.iterdir()] == [SUFFIX]
    assert (await scanned(account, cache))["hits"] == COUNT


async def test_a_directory_that_cannot_be_written_costs_one_line(
    dovecot: Dovecot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    stats = await scanned(made(dovecot, "sdbox"), tmp_path / "file" / "cache")
    assert stats["saved"] == 0
    assert len(caplog.records) == 1


async def test_the_oldest_tables_go_first(
    dovecot: Dovecot, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = made(dovecot, "mdbox")
    await scanned(account, cache)
    size = table_of(cache).stat().st_size
    for age in range(1, 5):
        other = cache / f"{age}{SUFFIX}"
        other.write_bytes(bytes(size))
        os.utime(other, (0, table_of_key(cache).stat().st_mtime - 100 * age))
    monkeypatch.setattr(size_table, "DIRECTORY_BYTES", 3 * size)
    await scanned(account, cache)
    assert sorted(path.name for path in cache.iterdir() if len(path.stem) == 1) == ["1.sizes", "2.sizes"]


async def test_of_the_temporaries_in_the_cache_directory_only_our_own_old_ones_go(
    dovecot: Dovecot, cache: Path
) -> None:
    account = made(dovecot, "sdbox")
    await scanned(account, cache)
    names = (".temp.1700000000.P1Q1M1.host", ".temp.somebody-elses")
    for name in names:
        (cache / name).write_bytes(b"")
        os.utime(cache / name, (0, 0))
    await scanned(account, cache)
    assert [name for name in names if (cache / name).exists()] == [".temp.somebody-elses"]


def table_of_key(cache: Path) -> Path:
    (path,) = (path for path in cache.iterdir() if len(path.stem) > 1)
    return path


# -- the format --------------------------------------------------------------------------------

KEY, GENERATION = bytes(range(32)), bytes(range(16))


def rows(uids: list[int], seq: int = 0, size: int = 100) -> size_format.Remembered:
    n = len(uids)
    column = np.arange(n, dtype=np.int64)
    facts = FactColumns(
        np.full(n, KNOWN, np.uint8), column + size, column - 5, column + (1 << 33), column + size + 3
    )
    marks = np.arange(1, n + 1, dtype=np.uint64)
    return size_format.Remembered(np.array(uids, np.uint32), marks, facts, np.arange(n, dtype=np.uint32), seq)


def test_a_block_holds_large_sizes_and_early_dates() -> None:
    header = size_format.encode_header(KEY, GENERATION, 7)
    assert size_format.decode_header(header, KEY, GENERATION) == 7
    given = rows([3, 4, 9])
    found = size_format.decode_block(size_format.encode_block(given, header, 2), header, 2, 7)
    assert found.uids.tolist() == [3, 4, 9]
    assert found.facts.size.tolist() == [100, 101, 102]
    assert found.facts.received.tolist() == [-5, -4, -3]
    assert found.facts.saved.tolist() == [1 << 33, (1 << 33) + 1, (1 << 33) + 2]
    assert found.marks.tolist() == [1, 2, 3]
    assert found.cache_seq == 7


def test_any_changed_byte_of_a_block_is_noticed() -> None:
    header = size_format.encode_header(KEY, GENERATION, 7)
    block = size_format.encode_block(rows([3, 4, 9]), header, 0)
    for at in range(len(block)):
        for bit in (1, 0x80):
            bad = bytearray(block)
            bad[at] ^= bit
            with pytest.raises(FormatError):
                size_format.decode_block(bytes(bad), header, 0, 7)
        with pytest.raises(FormatError):
            size_format.decode_block(block[:at], header, 0, 7)


def test_a_block_counts_only_in_its_place_of_its_file() -> None:
    header = size_format.encode_header(KEY, GENERATION, 7)
    block = size_format.encode_block(rows([1]), header, 0)
    for other, number in ((header, 1), (size_format.encode_header(KEY, GENERATION, 8), 0)):
        with pytest.raises(FormatError):
            size_format.decode_block(block, other, number, 7)


def test_a_file_for_something_else_is_not_used() -> None:
    header = size_format.encode_header(KEY, GENERATION, 7)
    assert size_format.decode_header(header, bytes(32), GENERATION) is None
    assert size_format.decode_header(header, KEY, bytes(16)) is None
    assert size_format.decode_header(header[:8] + b"\x63" + header[9:], KEY, GENERATION) is None


def test_a_key_is_its_store_its_mailbox_and_its_uidvalidity() -> None:
    keys = {
        size_format.Key(root, dev, ino, guid, validity).digest()
        for root in ("/a", "/b") for dev in (1, 2) for ino in (1, 2)
        for guid in (bytes(16), bytes(15) + b"\1") for validity in (1, 2)
    }  # fmt: skip
    assert len(keys) == 32


def test_a_mark_changes_with_each_column() -> None:
    def mark(*values: int) -> int:
        return int(size_format.marks_of(*(np.array([value], np.uint64) for value in values))[0])

    assert len({mark(1, 2, 3), mark(2, 1, 3), mark(1, 3, 2), mark(1, 2, 4), mark(0, 2, 3), mark(1, 2)}) == 6
    many = size_format.marks_of(np.arange(1 << 16, dtype=np.uint64), np.zeros(1 << 16, np.uint64))
    assert len(np.unique(many)) == 1 << 16


def test_merging_prefers_what_is_fresh_and_forgets_what_is_gone() -> None:
    fresh, old = rows([2, 5], seq=1, size=100), rows([1, 2, 3, 9], seq=2, size=700)
    both = size_format.merged(fresh, [old], np.array([1, 2, 5, 9], np.uint32))
    assert both.uids.tolist() == [1, 2, 5, 9]
    assert both.facts.size.tolist() == [700, 100, 101, 703]
    assert both.cached_at.tolist() == [size_format.NOT_CACHED, 0, 1, size_format.NOT_CACHED]


@BOTH
async def test_uids_that_somebody_holds_stay_what_they_were(
    dovecot: Dovecot, cache: Path, driver: str
) -> None:
    account = made(dovecot, driver, 20)
    async with mounted(account, cache) as (store, box):
        held = box.uids
        for change in range(6):
            account.append([Append(message(change))])
            if change % 2:
                account.doveadm("expunge", "mailbox", "INBOX", "uid", str(change))
            await store.refresh_mailbox(store.folders["INBOX"])
            assert held.tolist() == list(range(1, 21))
        assert box.uids.tolist() == [uid for uid in range(1, 27) if uid not in (1, 3, 5)]


# -- the table in memory -----------------------------------------------------------------------


def test_columns_cost_nothing_until_something_is_known() -> None:
    table = FactTable()
    table.sync(np.arange(1, 1_000_001, dtype=np.uint32))
    assert (table.nbytes, table.unknown) == (0, 1_000_000)
    assert table.get(500_000) == Facts(0, 0, 0, 0)
    table.put(500_000, Facts(KNOWN, 1, 2, 3))
    assert (table.nbytes, table.unknown) == (13_000_000, 999_999)
    assert table.get(500_000) == Facts(KNOWN, 1, 2, 3)
    table.put(500_001, Facts(KNOWN, 1, 2, 3, virtual=4))
    assert table.nbytes == 17_000_000
    assert (table.get(500_000), table.get(500_001)) == (Facts(KNOWN, 1, 2, 3), Facts(KNOWN, 1, 2, 3, 4))


def test_values_that_do_not_fit_make_a_column_wide() -> None:
    table = FactTable()
    table.sync(np.array([1, 2, 3], np.uint32))
    small, large, early = (
        Facts(KNOWN, 5, 6, 7), Facts(KNOWN, 1 << 32, 6, 7, 1 << 33), Facts(KNOWN, 5, -1, (1 << 40), 6)
    )  # fmt: skip
    for uid, facts in enumerate((small, large, early), 1):
        table.put(uid, facts)
    assert [table.get(uid) for uid in (1, 2, 3)] == [small, large, early]
    again = FactTable()
    again.sync(table.uids)
    again.put_many(np.arange(3), table.columns())
    assert [again.get(uid) for uid in (1, 2, 3)] == [small, large, early]


def test_a_table_follows_its_mailbox_as_a_dictionary_would() -> None:
    random = np.random.default_rng(3)
    table, model, next_uid = FactTable(), dict[int, Facts](), 1
    present: list[int] = []
    for step in range(300):
        if random.random() < 0.5:
            new = list(range(next_uid, next_uid + int(random.integers(1, 5))))
            next_uid = new[-1] + 1
            present += new
        else:
            present = [uid for uid in present if random.random() < 0.8]
        table.sync(np.array(present, np.uint32))
        for uid in present[:: int(random.integers(1, 4))]:
            model[uid] = Facts(KNOWN, step, step + 1, step + 2, step % 3 * step)
            table.put(uid, model[uid], step % 2)
        model = {uid: facts for uid, facts in model.items() if uid in present}
        for uid in range(1, next_uid + 1):
            expected = model.get(uid, Facts(0, 0, 0, 0)) if uid in present else None
            assert table.get(uid) == expected
        assert table.unknown == len(present) - len(model)
        assert table.unknown_uids().tolist() == [uid for uid in present if uid not in model]
