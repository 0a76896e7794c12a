"""The size table through the mount: where it is kept, what the statistics say, and where it may not be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
COUNT = 80


def made(dovecot: Dovecot, driver: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(Append(b"Subject: %d\n\n" % n + b"x" * n) for n in range(COUNT))
    return account


def listed(mounts: Mounts, account: Account, *args: str) -> tuple[dict[str, int], dict[str, int] | None]:
    """Mount, look at every message, unmount; gives the sizes and the counters of the size table."""
    with mounts.foreground(account.location, *args) as (mnt, process):
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(mnt / "INBOX")}
        table = json.loads((mnt / ".dboxfs" / "stats.json").read_text())["size_table"]
        mounts.umount(mnt)
        assert process.wait(timeout=20) == 0
    return sizes, table


@both
def test_sizes_outlive_the_mount(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> None:
    account = made(dovecot, driver)
    expected = {f"{m.uid}.eml": m.physical_size for m in account.fetch()}
    cache = f"--cache-dir={tmp_path / 'cache'}"
    for hits in (0, COUNT, COUNT):
        sizes, table = listed(mounts, account, cache)
        assert sizes == expected
        assert table is not None
        assert table["hits"] == hits


def test_the_default_directory_is_that_of_xdg(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    listed(mounts, made(dovecot, "mdbox"))
    assert len(list((tmp_path / "xdg" / "dboxfs").glob("*.sizes"))) == 1


def test_none_keeps_nothing(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    sizes, table = listed(mounts, made(dovecot, "mdbox"), "--cache-dir", "none")
    assert len(sizes) == COUNT
    assert table is None
    assert not (tmp_path / "xdg").exists()


@both
def test_a_directory_in_the_store_is_refused(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account = made(dovecot, driver)
    done = dboxfs(
        "mount", "--cache-dir", account.root / "cache", account.location, mounts.mountpoint(), timeout=20
    )
    assert done.returncode != 0
    assert "lies inside of" in done.stderr
    assert not (account.root / "cache").exists()


def test_the_table_of_parsed_records_is_bounded_and_counted(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    account = made(dovecot, "sdbox")
    with mounts.foreground(account.location, "--table-size=10", f"--cache-dir={tmp_path / 'cache'}") as (
        mnt,
        _,
    ):
        for uid in range(1, 31):
            for _ in range(2):
                os.getxattr(mnt / "INBOX" / f"{uid}.eml", "user.dbox.location")
        table = json.loads((mnt / ".dboxfs" / "stats.json").read_text())["location_table"]
    assert (table["entries"], table["limit"], table["hits"], table["evicted"]) == (10, 10, 30, 20)
