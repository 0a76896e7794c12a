"""Flags and keywords that are set through a mount which has not yet seen what Dovecot has just changed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dboxfs.store.watch import Callback, Watched, Watcher
from dboxfs.store.write import WriteOptions
from dboxfs.vfs.options import MountOptions
from tests.fuse.inside import aside, mounted
from tests.fuse_rw.rw import ONE, TWO, both
from tests.live.dovecot import Account, Dovecot


def _deaf(self: Watcher, directory: str, key: str, callback: Callback) -> Watched:
    """Says that it watches, and never reports."""
    return Watched.STILL


@asynccontextmanager
async def unaware(
    account: Account, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Path, Path]]:
    """A writable mount that sees only what itself does, and a message in it, ``\\Draft`` and ``$Old``, which
    Dovecot has made ``\\Flagged`` and ``$New`` since."""
    monkeypatch.setattr(Watcher, "add", _deaf)
    account.save(ONE)
    account.doveadm("flags replace", r"\Draft $Old", "mailbox", "INBOX", "uid", "1")
    async with mounted(account, mountpoint, options=MountOptions(write=WriteOptions())) as mnt:
        path = mnt / "INBOX" / "1.eml"
        assert await aside(lambda: shown(path)) == (r"\Draft", "$Old")
        account.doveadm("flags replace", r"\Flagged $New", "mailbox", "INBOX", "uid", "1")
        assert await aside(lambda: shown(path)) == (r"\Draft", "$Old")
        yield mnt, path


def shown(path: Path) -> tuple[str, str]:
    flags, keywords = (os.getxattr(path, f"user.dbox.{name}").decode() for name in ("flags", "keywords"))
    return flags, keywords


@both
@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [("flags", r"\Seen", (r"\Seen", "$New")), ("keywords", "$Mine", (r"\Flagged", "$Mine"))],
)
async def test_who_sets_flags_or_keywords_changes_the_others_not(
    dovecot: Dovecot,
    tmp_path: Path,
    driver: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    wanted: tuple[str, str],
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    async with unaware(account, tmp_path / "mnt", monkeypatch) as (_, path):
        await aside(lambda: os.setxattr(path, f"user.dbox.{name}", value.encode()))
        assert await aside(lambda: shown(path)) == wanted
    (message,) = account.fetch("INBOX")
    assert (message.flags, message.keywords) == wanted


@both
@pytest.mark.parametrize("temporary", [False, True], ids=["written", "renamed"])
async def test_what_an_editor_saves_has_the_flags_that_the_old_one_has_by_then(
    dovecot: Dovecot, tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch, temporary: bool
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")

    def edit(path: Path) -> None:
        backup, new = path.with_name("1.eml~"), path.with_name("new" if temporary else path.name)
        path.rename(backup)
        new.write_bytes(TWO)
        if temporary:
            new.rename(path)
        backup.unlink()

    async with unaware(account, tmp_path / "mnt", monkeypatch) as (_, path):
        await aside(lambda: edit(path))
        assert await aside(lambda: shown(path)) == (r"\Flagged", "$New")
    (message,) = account.fetch("INBOX")
    assert (message.text, message.flags, message.keywords) == (TWO, r"\Flagged", "$New")
