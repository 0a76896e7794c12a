"""Open a store for a test, with what it logs and tells; wait for what must come within a second."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from dboxfs.fsapi import Driver, FileSystem, ThreadsDriver
from dboxfs.store import Delta, Folder, Listener, Mailbox, Store, open_store, parse_location
from tests.live.dovecot import Account

VISIBLE_WITHIN = 1.0  # seconds


@dataclass(slots=True)
class Told:
    """What the store told its listener: names of folders, and the uids that went and came."""

    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    expunged: list[tuple[str, int]] = field(default_factory=list)
    appended: list[tuple[str, int]] = field(default_factory=list)
    updated: list[tuple[str, int]] = field(default_factory=list)

    def messages(self, folder: Folder, delta: Delta) -> None:
        self.expunged += [(folder.name, uid) for uid in delta.expunged.tolist()]
        self.appended += [(folder.name, uid) for uid in delta.appended.tolist()]
        self.updated += [(folder.name, uid) for uid in delta.updated.tolist()]


@asynccontextmanager
async def opened(
    account: Account | str, *, follow: bool = True, driver: Driver | None = None
) -> AsyncIterator[tuple[Store, Told]]:
    location = parse_location(account if isinstance(account, str) else account.location)
    async with (
        FileSystem(driver or ThreadsDriver(workers=4)) as fs,
        open_store(fs, location, follow=follow) as store,
    ):
        told = Told()
        store.listen(
            Listener(
                told.messages,
                lambda folder: told.gone.append(folder.name),
                lambda folder: told.new.append(folder.name),
            )
        )
        yield store, told


async def soon(check: Callable[[], bool]) -> None:
    """``check`` becomes true within a second from now."""
    with trio.move_on_after(VISIBLE_WITHIN):
        while not check():
            await trio.sleep(0.005)
    assert check()


def box_of(store: Store, name: str = "INBOX") -> Mailbox:
    box = store.folders[name].mailbox
    assert box is not None
    return box


def names(store: Store) -> set[str]:
    """The storage names of all folders; mailboxes end with an exclamation mark."""
    return {
        folder.name + "!" * (folder.mailbox is not None) for folder in store.folders.values() if folder.name
    }


def make_folder(account: Account, path: Path) -> None:
    """A directory and those above it, owned by the mail user as if Dovecot had made them."""
    if not path.exists():
        make_folder(account, path.parent)
        path.mkdir(mode=0o700)
        st = account.home.stat()
        os.chown(path, st.st_uid, st.st_gid)
