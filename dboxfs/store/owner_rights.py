"""Open a store with the rights of its owner, if the process is root's.

The owner of a store can put symbolic links into it: in the tree of mailboxes, in place of an index or of
attachments.  With root's rights, dboxfs would follow them to any file.  Then a mount with ``allow_other`` (or
a program of root's that copies the store) would show the owner files that only root may read, and a writable
mount would write to them.  With the uid and gid of the owner, and no other group, a link only leads to files
that the owner can reach anyway.  Dovecot does the same: its processes run as the user.

::

    not root's process, or root's own store    the rights of the process
    no files of this machine (objects)         the same: no link leads out of them
    the owner can reach the root directory     those of the owner
    the owner can't (a directory above it is   refused if others may read it or mail is written;
    closed: a copy below /root), or root can't else those of the process, and one warning
    act as the owner (no CAP_SETUID)

The owner is read once before, and compared with the owner of the opened store.  So a root that is a link, and
meanwhile leads elsewhere, is refused.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.drivers.acting import give_up_groups, may_act_as
from dboxfs.fsapi.drivers.tenant import TenantDriver
from dboxfs.store.details_cache import DEFAULT_LIMIT
from dboxfs.store.location import Location
from dboxfs.store.opening import open_store
from dboxfs.store.store import Store

Owner = tuple[int, int]
"""Uid and gid."""


@asynccontextmanager
async def open_owned_store(
    fs: FileSystem,
    location: Location,
    *,
    strict: bool,
    warn: Callable[[str], None],
    cache_dir: str | None = None,
    table_size: int = DEFAULT_LIMIT,
) -> AsyncIterator[Store]:
    """The store at *location*, opened and followed as :func:`~dboxfs.store.opening.open_store` does, with the
    rights of its owner.

    :param strict: never use root's rights, unless it is root's own store.
    :param warn: called with one line, if another user's store is opened with root's rights.
    :raises NoSuchStore: it can't be read; *strict*: the owner can't reach it.
    """
    owner = await _owner(fs, location.root)
    async with (
        _files(fs, location.root, owner, strict=strict, warn=warn) as files,
        open_store(files, location, cache_dir=cache_dir, table_size=table_size, cache_fs=fs) as store,
    ):
        check_owner(store, owner)
        yield store


def check_owner(store: Store, owner: Owner | None) -> None:
    """Check that *store* belongs to the owner with whose rights it was opened.

    :param owner: uid and gid; None: they were unknown.
    :raises NoSuchStore: it belongs to another user.
    """
    if owner is not None and (store.owner.st_uid, store.owner.st_gid) != owner:
        raise NoSuchStore(f"{store.location.root}: its owner was changed meanwhile; try again")


async def _owner(fs: FileSystem, root: str) -> Owner | None:
    try:
        found = await fs.stat(root)
    except OSError:
        return None  # opening the store reports the error
    return found.st_uid, found.st_gid


@asynccontextmanager
async def _files(
    fs: FileSystem, root: str, owner: Owner | None, *, strict: bool, warn: Callable[[str], None]
) -> AsyncIterator[FileSystem]:
    if owner is None or owner[0] == 0 or os.geteuid() != 0 or not fs.capabilities.owners:
        yield fs
        return
    driver = TenantDriver(fs.driver, owner, depth=fs.driver.depth)
    async with fs.sharing(driver) as owned:
        obstacle = await _obstacle(owned, root, owner)
        if obstacle is None:
            yield owned
            return
    if strict:
        raise NoSuchStore(
            f"{root}: {obstacle}, and with root's rights links in it would lead anywhere; "
            "open the way for its owner, or mount it without rw and allow_other"
        )
    warn(f"{root}: {obstacle}: read with root's rights, wherever links in it lead")
    yield fs


async def _obstacle(owned: FileSystem, root: str, owner: Owner) -> str | None:
    """Why the store can't be opened with its owner's rights; None: it can."""
    if not give_up_groups() or not may_act_as(*owner):
        return f"this process can't act as its owner (uid {owner[0]})"
    try:
        await owned.stat(os.path.join(root, "."))
    except OSError as exc:
        return f"its owner (uid {owner[0]}) can't get there ({exc.strerror})"
    return None
