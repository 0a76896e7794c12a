"""The tree of folders follows what Dovecot does, and what can't be read is never taken for empty."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from dboxfs.errors import CorruptFile, NoSuchMessage
from dboxfs.fsapi import DirEntry, FileSystem
from dboxfs.store import Store
from dboxfs.store.watch import Callback, Watched, Watcher
from tests.live.dovecot import Account, Dovecot
from tests.store.opened import box_of, make_folder, names, opened, soon

MESSAGE = b"Subject: x\n\nbody\n"
SPLIT = ":INDEX={home}/index:CONTROL={home}/control"
LOCATIONS = pytest.mark.parametrize(
    "location",
    ["sdbox:{home}/mail", "mdbox:{home}/mail", "sdbox:{home}/mail" + SPLIT, "mdbox:{home}/mail" + SPLIT],
)


def made(dovecot: Dovecot, location: str) -> Account:
    account = dovecot.account(location)
    for name in ("Work", "Work/Sub"):
        account.doveadm("mailbox create", name)
        account.save(MESSAGE, name)
    account.save(MESSAGE)
    return account


def guid(account: Account, name: str) -> str:
    return account.status()[name].guid


@LOCATIONS
async def test_what_dovecot_does_to_mailboxes_is_followed(dovecot: Dovecot, location: str) -> None:
    account = made(dovecot, location)
    async with opened(account) as (store, told):
        assert names(store) == {"INBOX!", "Work!", "Work/Sub!"}
        before = guid(account, "Work/Sub")
        account.doveadm("mailbox rename", "Work", "Job/Old")
        await soon(lambda: names(store) == {"INBOX!", "Job", "Job/Old!", "Job/Old/Sub!"})
        await soon(lambda: len(box_of(store, "Job/Old/Sub")) == 1)
        sub = box_of(store, "Job/Old/Sub")
        assert sub.guid is not None
        assert sub.guid.hex() == before
        account.save(MESSAGE, "Job/Old/Sub")
        await soon(lambda: len(sub) == 2)
        account.doveadm("mailbox delete", "Job/Old")
        await soon(lambda: names(store) == {"INBOX!", "Job", "Job/Old", "Job/Old/Sub!"})
        assert {"Work", "Work/Sub", "Job/Old"} <= set(told.gone)


@LOCATIONS
async def test_a_mailbox_made_again_under_its_name_is_another_one(dovecot: Dovecot, location: str) -> None:
    account = made(dovecot, location)
    async with opened(account) as (store, _):
        for _ in range(3):
            account.doveadm("mailbox delete", "Work/Sub")
            account.doveadm("mailbox create", "Work/Sub")
            account.save(MESSAGE, "Work/Sub")
            account.save(MESSAGE, "Work/Sub")
            status = account.status()["Work/Sub"]
            wanted = (bytes.fromhex(status.guid), status.uidvalidity, 2)

            def right(wanted: tuple[bytes, int, int] = wanted) -> bool:
                box = store.folders["Work/Sub"].mailbox if "Work/Sub" in store.folders else None
                return box is not None and (box.guid, box.uid_validity, len(box)) == wanted

            await soon(right)
            assert (await box_of(store, "Work/Sub").facts_of(1)).size == len(MESSAGE)


@LOCATIONS
async def test_names_that_trade_places_while_nobody_looks(dovecot: Dovecot, location: str) -> None:
    account = made(dovecot, location)
    async with opened(account, follow=False) as (store, _):
        account.doveadm("mailbox rename", "Work", "Job")
        account.doveadm("mailbox create", "Work")
        account.doveadm("mailbox create", "Work/Sub")
        account.save(MESSAGE, "Work")
        account.save(MESSAGE, "Work")
        expected = {name: status.guid for name, status in account.status().items()}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.follow)

            def right() -> bool:
                boxes = {folder.name: folder.mailbox for folder in store.folders.values()}
                return {
                    name: box.guid.hex() if box.guid else "" for name, box in boxes.items() if box is not None
                } == expected

            await soon(right)
            account.save(MESSAGE, "Work/Sub")
            account.save(MESSAGE, "Job")
            await soon(
                lambda: [len(box_of(store, name)) for name in ("Work", "Work/Sub", "Job")] == [2, 1, 2]
            )
            nursery.cancel_scope.cancel()


async def test_directories_that_dovecot_does_not_list_are_not_shown(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    tree = account.root / "mailboxes"
    for name in (".hidden", "~tilde", "bad&", "dbox-Mails"):
        make_folder(account, tree / name / "dbox-Mails")
    (tree / "file").write_text("no folder")
    (tree / "dangling").symlink_to("nowhere")
    listed = {name.replace("&-", "&") for name in account.mailboxes()}
    async with opened(account) as (store, _):
        assert {name.rstrip("!") for name in names(store)} == listed
        assert "dbox-Mails" not in listed


async def test_links_are_followed_but_not_in_circles(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    tree = account.root / "mailboxes"
    moved = account.home / "elsewhere"
    shutil.move(tree / "Work", moved)
    (tree / "Work").symlink_to(moved)
    (moved / "circle").symlink_to(tree)
    async with opened(account) as (store, _):
        assert names(store) == {"INBOX!", "Work!", "Work/Sub!"}
        (moved / "circle").unlink()  # Dovecot goes round until the kernel stops it, and complains
        make_folder(account, moved / "Later" / "dbox-Mails")
        await soon(lambda: "Work/Later!" in names(store))
        account.save(MESSAGE, "Work")
        await soon(lambda: len(box_of(store, "Work")) == 2)


async def test_a_tree_that_is_a_link_itself_is_followed(dovecot: Dovecot) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    shutil.move(account.root / "mailboxes", account.home / "boxes")
    (account.root / "mailboxes").symlink_to(account.home / "boxes")
    async with opened(account) as (store, _):
        account.doveadm("mailbox create", "Later")
        await soon(lambda: "Later!" in names(store))


async def test_a_deep_tree_is_walked_to_its_end(tmp_path: Path) -> None:
    depth = 1200
    (tmp_path / "mailboxes").mkdir()
    at = os.open(tmp_path / "mailboxes", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=at)
        inner = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        async with opened(str(tmp_path)) as (store, _):
            assert len(store.folders) == depth + 1
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "mailboxes"], check=True)  # too deep for shutil.rmtree


async def test_inbox_in_a_place_of_its_own(dovecot: Dovecot) -> None:
    for split in ("", ":INDEX={home}/index"):
        account = made(dovecot, "sdbox:{home}/mail:INBOX={home}/inbox" + split)
        async with opened(account) as (store, _):
            assert names(store) == {"INBOX!", "Work!", "Work/Sub!"}
            refreshed = store._tree_checked
            account.save(MESSAGE)
            await soon(lambda: len(box_of(store)) == 2)
            assert store._tree_checked == refreshed  # mail is no reason to look at all folders again
            assert (await box_of(store).facts_of(2)).size == len(MESSAGE)


class FaultyFs(FileSystem):
    """A file system on which one directory can't be listed while ``broken`` is its name."""

    broken = "/none"

    async def listdir(self, path: str) -> list[DirEntry]:
        if path.endswith(self.broken):
            raise PermissionError(13, "Permission denied", path)
        return await super().listdir(path)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[FaultyFs]:
    monkeypatch.setattr("tests.store.opened.FileSystem", FaultyFs)
    monkeypatch.setattr(FaultyFs, "broken", "/none")
    return FaultyFs


async def test_a_folder_that_becomes_unreadable_stays_as_it_was(
    dovecot: Dovecot, faulty: type[FaultyFs], caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    async with opened(account) as (store, told):
        for broken in ("/mailboxes", "/Work"):
            faulty.broken = broken
            for _ in range(3):
                await store.refresh_tree()
            assert names(store) == {"INBOX!", "Work!", "Work/Sub!"}
            assert told.gone == []
            folder = store.folders[broken[1:].removeprefix("mailboxes")]
            with pytest.raises(PermissionError):
                await store.check(folder)
            assert [broken in record.getMessage() for record in caplog.records] == [True]
            caplog.clear()
        faulty.broken = "/none"
        await store.refresh_tree()
        await store.check(store.folders["Work"])
        assert not store.root.error


async def test_a_folder_that_never_was_readable_is_an_error_not_empty(
    dovecot: Dovecot, faulty: type[FaultyFs]
) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    faulty.broken = "/Work"
    async with opened(account) as (store, _):
        assert names(store) == {"INBOX!", "Work"}
        with pytest.raises(PermissionError):
            await store.check(store.folders["Work"])
        await store.check(store.folders["INBOX"])


async def test_a_mailbox_whose_index_is_damaged_is_an_error_not_empty(
    dovecot: Dovecot, caplog: pytest.LogCaptureFixture
) -> None:
    account = made(dovecot, "sdbox:{home}/mail")
    log = account.root / "mailboxes/Work/dbox-Mails/dovecot.index.log"
    good = log.read_bytes()
    log.write_bytes(b"\0" * 100)
    async with opened(account) as (store, _):
        for _ in range(3):
            with pytest.raises(CorruptFile, match=r"dovecot\.index\.log: damaged at offset 0"):
                await store.check(store.folders["Work"])
            await store.refresh_mailbox(store.folders["Work"])
        await store.check(store.folders["INBOX"])
        assert len(caplog.records) == 1
        assert list(store.index_errors) == ["Work"]
        log.write_bytes(good)
        await soon(lambda: len(box_of(store, "Work")) == 1)
        await store.check(store.folders["Work"])
        assert store.index_errors == {}


def _blind(self: Watcher, directory: str, key: str, callback: Callback) -> Watched:
    return Watched.NO


@LOCATIONS
async def test_without_inotify_whoever_looks_sees_it(
    dovecot: Dovecot, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "add", _blind)
    account = made(dovecot, location)
    async with opened(account) as (store, _):

        async def looked(name: str, check: object) -> None:
            with trio.fail_after(1.5):
                while True:
                    if name in store.folders:
                        await store.check(store.folders[name])
                    await store.check(store.root)
                    if callable(check) and check():
                        return
                    await trio.sleep(0.05)

        account.save(MESSAGE)
        await looked("INBOX", lambda: len(box_of(store)) == 2)
        account.doveadm("mailbox rename", "Work", "Job")
        await looked("Job", lambda: names(store) == {"INBOX!", "Job!", "Job/Sub!"})
        account.save(MESSAGE, "Job/Sub")
        await looked("Job/Sub", lambda: len(box_of(store, "Job/Sub")) == 2)
        assert not store.is_watched(store.root)
        assert not store.is_watched(store.folders["INBOX"])


@pytest.mark.expected_log("Rebuilding index")
async def test_a_mailbox_without_an_index_gets_one_later(dovecot: Dovecot) -> None:
    for split in ("", SPLIT):
        account = made(dovecot, "sdbox:{home}/mail" + split)
        bare = account.root / "mailboxes" / "Bare" / "dbox-Mails"
        make_folder(account, bare)
        async with opened(account) as (store, _):
            assert len(box_of(store, "Bare")) == 0
            assert box_of(store, "Bare").guid is None
            account.status()  # Dovecot makes the index when it first looks
            account.save(MESSAGE, "Bare")

            async def check(store: Store = store) -> None:
                with trio.fail_after(1):
                    while len(box_of(store, "Bare")) == 0:
                        await store.check(store.folders["Bare"])
                        await trio.sleep(0.02)

            await check()
            account.save(MESSAGE, "Bare")
            await check()
            assert box_of(store, "Bare").guid is not None


@LOCATIONS
async def test_a_store_that_is_replaced_as_a_whole_is_read_anew(dovecot: Dovecot, location: str) -> None:
    account = made(dovecot, location)
    root, away = account.root, account.home / "away"
    async with opened(account) as (store, _):
        assert len(box_of(store)) == 1
        root.rename(away)
        shutil.copytree(away, account.home / "new")

        async def keep_looking() -> None:
            while True:
                await store.check(store.root)
                await trio.sleep(0.05)

        with trio.fail_after(2), pytest.raises(OSError, match="Input/output error"):
            await keep_looking()
        assert names(store) == {"INBOX!", "Work!", "Work/Sub!"}  # not empty
        assert len(box_of(store)) == 1
        (account.home / "new").rename(root)
        subprocess.run(["chown", "-R", "--reference", away, root], check=True)
        account.save(MESSAGE * 7)

        async def seen() -> bool:
            await store.check(store.folders["INBOX"])
            return len(box_of(store)) == 2

        with trio.fail_after(2):
            while not await seen():
                await trio.sleep(0.05)
        assert (await box_of(store).facts_of(2)).size == len(MESSAGE * 7)


async def test_messages_of_a_mailbox_that_was_just_deleted_are_gone_not_damaged(
    dovecot: Dovecot, caplog: pytest.LogCaptureFixture
) -> None:
    for location in ("sdbox:{home}/mail", "sdbox:{home}/mail" + SPLIT):
        account = made(dovecot, location)
        async with opened(account, follow=False) as (store, _):
            box = box_of(store, "Work/Sub")
            account.doveadm("mailbox delete", "Work/Sub")
            with pytest.raises(NoSuchMessage):
                await box.facts_of(1)
            with pytest.raises(NoSuchMessage):
                await box.open(1)
            assert "Work/Sub!" not in names(store)
    assert caplog.records == []
