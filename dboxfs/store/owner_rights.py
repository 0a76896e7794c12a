"""Open a store with the rights of its owner, if the process is root's.

The owner of a store can put symbolic links into it: in the tree of mailboxes, in place of an index or of
attachments.  With root's rights, dboxfs would follow them to any file.  Then a mount with ``allow_other`` (or
a program of root's that copies the store) would show the owner files that only root may read, and a writable
mount would write to them.  With the uid and gid of the owner, and no other group, a link only leads to files
that the owner can reach anyway.  Dovecot does the same: its processes run as the user.  Commands that read or
change one store do it, too: what they have read of a store is given to its owner.

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
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import FileSystem, Permissions, ops
from dboxfs.fsapi.drivers.acting import acting_as, give_up_groups, may_act_as
from dboxfs.fsapi.drivers.tenant import TenantDriver
from dboxfs.store.details_cache import DEFAULT_LIMIT
from dboxfs.store.location import Location
from dboxfs.store.opening import open_store
from dboxfs.store.store import Store

Owner = tuple[int, int]
"""Uid and gid."""

TO_MOUNT = "open the way for its owner, or mount it without rw and allow_other"
"""What to do about a store that its owner can't reach, and that shall be mounted."""


@asynccontextmanager
async def open_owned_store(
    fs: FileSystem,
    location: Location,
    *,
    strict: bool,
    warn: Callable[[str], None],
    advice: str = TO_MOUNT,
    follow: bool = True,
    cache_dir: str | None = None,
    table_size: int = DEFAULT_LIMIT,
) -> AsyncIterator[Store]:
    """The store at *location*, opened as :func:`~dboxfs.store.opening.open_store` does, with the rights of
    its owner.

    :param strict: never use root's rights, unless it is root's own store.
    :param warn: called with one line, if another user's store is opened with root's rights.
    :param advice: what to do if *strict* refuses the store.
    :raises NoSuchStore: it can't be read; *strict*: the owner can't reach it.
    """
    async with (
        owned_files(fs, location.root, strict=strict, warn=warn, advice=advice) as (files, owner),
        open_store(
            files, location, follow=follow, cache_dir=cache_dir, table_size=table_size, cache_fs=fs
        ) as store,
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
async def owned_files(
    fs: FileSystem, root: str, *, strict: bool, warn: Callable[[str], None], advice: str = TO_MOUNT
) -> AsyncIterator[tuple[FileSystem, Owner | None]]:
    """Reach the files of the store at *root* with the rights of its owner; gives the owner, too (None:
    unknown).

    :param strict, warn, advice: as for :func:`open_owned_store`.
    :raises NoSuchStore: *strict*: the owner can't reach it.
    """
    owner = await _owner(fs, root)
    if owner is None or not needs_rights_of(owner) or not fs.capabilities.owners:
        yield fs, owner
        return
    driver = TenantDriver(fs.driver, owner, depth=fs.driver.depth)
    async with fs.sharing(driver) as owned:
        obstacle = await _obstacle(owned, root, owner)
        if obstacle is None:
            yield owned, owner
            return
    if strict:
        raise NoSuchStore(
            f"{root}: {obstacle}, and with root's rights links in it would lead anywhere; {advice}"
        )
    warn(_unguarded(root, obstacle))
    yield fs, owner


def owner_to_read_as(path: str, warn: Callable[[str], None]) -> Owner | None:
    """The owner of the tree at *path*, with whose rights it is to be read; None: with those of the process.

    :param warn: called with one line, if another user's tree is read with root's rights.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None  # reading it reports the error
    owner = (found.st_uid, found.st_gid)
    if not needs_rights_of(owner):
        return None
    if not give_up_groups() or not may_act_as(*owner):
        warn(_unguarded(path, _cannot_act(owner)))
        return None
    try:
        with acting_as(*owner):
            os.stat(path)
    except OSError as exc:
        warn(_unguarded(path, _cannot_reach(owner, exc)))
        return None
    return owner


@asynccontextmanager
async def owned_target(fs: FileSystem, root: str) -> AsyncIterator[FileSystem]:
    """Write the new directory *root*, which is there, with the rights of its owner.

    A directory that root has made for another user is that user's from the first moment on, and root would
    follow the links that the user puts into it.  If the owner can't get there, no links can be put into it.
    """
    async with owned_files(fs, root, strict=False, warn=_nothing) as (files, _):
        yield files


async def refuse_planted_links(fs: FileSystem, path: str) -> None:
    """Refuse to make the new directory *path* where a link of another user leads.

    Root would follow it into a directory that the user could not write.  Root's own links are followed.

    :raises NoSuchStore: *path*, or a part of it, is such a link.
    """
    if os.geteuid() != 0 or not fs.capabilities.owners:
        return
    parts = path.split("/")
    for end in range(2, len(parts) + 1):
        part = "/".join(parts[:end])
        try:
            found = await fs.run(ops.Stat(part, follow=False))
        except OSError:
            return  # making the directory reports the error
        if stat.S_ISLNK(found.st_mode) and found.st_uid != 0:
            raise NoSuchStore(
                f"{part}: a link that uid {found.st_uid} has made, and root would make the store where it "
                "leads; name that directory itself"
            )


async def make_for_owner(fs: FileSystem, path: str, owner: Owner) -> None:
    """Make the directory *path* for *owner*, with root's rights, if *owner* can't.

    Only where none but root can put a link into the way: else nothing is made, and the owner's own attempt
    gives the error.

    :param fs: has root's rights.
    :raises OSError: it can't be made.
    """
    missing = list[str]()
    while True:
        try:
            found = await fs.run(ops.Stat(path, follow=False))
            break
        except FileNotFoundError:
            missing.append(path)
            path = os.path.dirname(path)
    if not missing or not await _only_root_changes(fs, path, found):
        return
    for one in reversed(missing):
        await fs.run(ops.Mkdir(one, Permissions(0o700, owner[1], owner[0])))


async def _only_root_changes(fs: FileSystem, path: str, found: os.stat_result) -> bool:
    """Whether *path* and the directories above it are root's, and no other user can change these names."""
    kept = 0  # in a directory like /tmp others can make names, but can't replace root's
    while True:
        loose = found.st_mode & 0o022 and not found.st_mode & kept
        if found.st_uid != 0 or not stat.S_ISDIR(found.st_mode) or loose:
            return False
        if path == "/":
            return True
        kept = stat.S_ISVTX
        path = os.path.dirname(path)
        found = await fs.run(ops.Stat(path, follow=False))


def _nothing(text: str) -> None:
    """A new directory that its owner can't reach has no links."""


def needs_rights_of(owner: Owner) -> bool:
    """Whether this process has more rights than *owner*: it is root's, and the owner is not root."""
    return owner[0] != 0 and os.geteuid() == 0


async def _obstacle(owned: FileSystem, root: str, owner: Owner) -> str | None:
    """Why the store can't be opened with its owner's rights; None: it can."""
    if not give_up_groups() or not may_act_as(*owner):
        return _cannot_act(owner)
    try:
        await owned.stat(os.path.join(root, "."))
    except OSError as exc:
        return _cannot_reach(owner, exc)
    return None


def _cannot_act(owner: Owner) -> str:
    return f"this process can't act as its owner (uid {owner[0]})"


def _cannot_reach(owner: Owner, error: OSError) -> str:
    return f"its owner (uid {owner[0]}) can't get there ({error.strerror})"


def _unguarded(path: str, obstacle: str) -> str:
    return f"{path}: {obstacle}: read with root's rights, wherever links in it lead"
