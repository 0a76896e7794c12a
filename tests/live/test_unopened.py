"""A read-only mount whose kernel opens nothing: as few requests as promised, and the same bytes as ever."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dboxfs.errors import MountError
from dboxfs.fuse import kernels
from dboxfs.fuse import mount as fuse_mount
from dboxfs.vfs.options import MountOptions, Opens
from tests.fuse.inside import aside, mounted
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs
from tests.live.test_entries import within_a_second
from tests.stress import readers

BOTH = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
COUNT = 400


def made(dovecot: Dovecot, driver: str, count: int = COUNT) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail:ALT={{home}}/alt")
    account.append(Append(readers.message(n)) for n in range(1, count + 1))
    return account


def requests(mnt: Path) -> dict[str, int]:
    """How often the kernel has asked, without what it takes to find that out."""
    found: dict[str, int] = json.loads((mnt / ".dboxfs/stats.json").read_bytes())["requests"]
    return found


def asked_by(mnt: Path, before: dict[str, int]) -> dict[str, int]:
    """The requests since *before*, but for the two or three that read the statistics."""
    now = requests(mnt)
    left = {name: now[name] - before[name] for name in now}
    return {"read": left["read"] - 1} | {
        name: left[name] for name in ("open", "release", "opendir", "readdir", "getattr", "flush")
    }


def read_all(mnt: Path, names: list[str]) -> None:
    for name in names:
        assert readers.is_whole((mnt / "INBOX" / name).read_bytes()), name


@BOTH
def test_a_walk_costs_a_few_requests_and_a_second_one_none(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account = made(dovecot, driver)
    mnt = mounts.mount(account.location, "open=none")
    names = sorted(os.listdir(mnt / "INBOX"), key=lambda name: int(name.split(".")[0]))
    assert len(names) == COUNT
    first = requests(mnt)
    read_all(mnt, names)
    asked = asked_by(mnt, first)
    assert asked["read"] <= 0.05 * COUNT
    assert asked["release"] == asked["opendir"] == asked["readdir"] == asked["getattr"] == 0
    second = requests(mnt)
    read_all(mnt, names)
    assert set(os.listdir(mnt / "INBOX")) == set(names)
    assert set(asked_by(mnt, second).values()) == {0}


@BOTH
def test_what_is_appended_expunged_and_renamed_is_in_a_listing_that_the_kernel_keeps(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account = made(dovecot, driver, 3)
    mnt = mounts.mount(account.location, "open=none")

    def becomes(directory: Path, names: set[str]) -> None:
        within_a_second(lambda: set(os.listdir(directory)) == names)

    becomes(mnt / "INBOX", {"1.eml", "2.eml", "3.eml"})
    becomes(mnt, {"INBOX"})
    account.save(readers.message(4))
    becomes(mnt / "INBOX", {"1.eml", "2.eml", "3.eml", "4.eml"})
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "2")
    becomes(mnt / "INBOX", {"1.eml", "3.eml", "4.eml"})
    account.doveadm("mailbox create", "Work")
    becomes(mnt, {"INBOX", "Work"})
    account.doveadm("mailbox rename", "Work", "Job")
    becomes(mnt, {"INBOX", "Job"})
    account.doveadm("mailbox delete", "Job")
    becomes(mnt, {"INBOX"})


@BOTH
def test_a_control_file_has_its_size_and_says_what_is_now(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    mnt = mounts.mount(made(dovecot, driver, 2).location, "open=none")
    path = mnt / ".dboxfs" / "stats.json"
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        before = file.read()
    assert len(before) == size > 0
    assert json.loads(path.read_bytes())["requests"]["lookup"] > json.loads(before)["requests"]["lookup"]
    deleted = ["deleted"] if driver == "mdbox" else []
    files = ["events", "locks", "metrics", "stats.json", "store.json"]
    trees = [*deleted, "flagged", "keyword", "parts", "raw", "since", "unseen"]
    assert sorted(os.listdir(path.parent)) == sorted([*files, *trees])
    assert len((path.parent / "store.json").read_bytes()) > 100


@BOTH
def test_readers_in_all_orders_get_all_bytes_while_dovecot_changes_everything(
    dovecot: Dovecot, mounts: Mounts, driver: str
) -> None:
    account = made(dovecot, driver, 200)
    mnt = mounts.mount(account.location, "open=none")
    orders = readers.ORDERS[:-1]
    report, hang = readers.read_all(
        mnt / "INBOX", 3.0, 5, lambda until: readers.disturb(account, driver, 201, until), orders
    )
    assert report.wrong == []
    assert hang == 0
    assert report.read > 200


@pytest.mark.expected_log("files are opened one by one")
async def test_on_a_kernel_that_is_not_safe_files_are_opened_and_a_line_says_so(
    dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "mdbox", 2)
    monkeypatch.setattr(fuse_mount, "why_not_safe", lambda *_: kernels.why_not_safe("6.12.10", ""))
    caplog.set_level("INFO")
    async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=Opens.AUTO)) as mnt:

        def read() -> dict[str, int]:
            assert readers.is_whole((mnt / "INBOX/1.eml").read_bytes())
            return requests(mnt)

        assert (await aside(read))["open"] == 2
    assert [line for line in caplog.messages if "opened one by one" in line and "6.12.64" in line]


async def test_who_asks_for_a_mount_without_open_gets_one_or_an_error(
    dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = made(dovecot, "sdbox", 1)
    monkeypatch.setattr(fuse_mount, "why_not_safe", lambda *_: kernels.why_not_safe("6.12.10", ""))
    with pytest.RaisesGroup(pytest.RaisesExc(MountError, match="open=none"), flatten_subgroups=True):
        async with mounted(account, tmp_path / "mnt", options=MountOptions(opens=Opens.NONE)):
            pass


@pytest.mark.parametrize(
    ("driver", "opens", "asked"), [("sdbox", "auto", 2), ("sdbox", "none", 1), ("mdbox", "auto", 1)]
)
def test_an_sdbox_is_opened_unless_it_is_asked_for(
    dovecot: Dovecot, mounts: Mounts, driver: str, opens: str, asked: int
) -> None:
    """By default whoever has a message open reads it after an expunge, also if nothing was read of it."""
    account = made(dovecot, driver, 2)
    mnt = mounts.mount(account.location, f"open={opens}")
    with (mnt / "INBOX/2.eml").open("rb") as file:
        account.doveadm("expunge", "mailbox", "INBOX", "uid", "2")
        within_a_second(lambda: os.listdir(mnt / "INBOX") == ["1.eml"])
        if opens == "auto":
            assert file.read() == readers.message(2)
    assert requests(mnt)["open"] == asked


def test_a_writable_mount_is_always_opened(dovecot: Dovecot, mounts: Mounts) -> None:
    account = made(dovecot, "sdbox", 1)
    refused = dboxfs("mount", "-o", "rw,open=none", account.location, mounts.mountpoint())
    assert refused.returncode == 2
    assert "open=none" in refused.stderr
    mnt = mounts.mount(account.location, "rw")
    assert readers.is_whole((mnt / "INBOX/1.eml").read_bytes())
    assert requests(mnt)["open"] == 2
