"""Make an empty store that Dovecot opens without a warning: ``dboxfs init``.

The parts are made in this order, so that a crash leaves an empty directory, or a store that lacks only parts
that Dovecot makes by itself: root; the directories of indexes and control files elsewhere; with dbox version
3 the record of that (``dboxversion``); mdbox: ``storage/`` with the map; ``mailboxes/``; with LAYOUT=index an
empty list index; INBOX, whole, with its index; with LAYOUT=index its name in the list index.
"""

from __future__ import annotations

import os
from shlex import quote

from dboxfs.errors import NoSuchStore
from dboxfs.fsapi import FileSystem, Permissions, ops
from dboxfs.store.dbox_version import DEFAULT, encode_version, version_path
from dboxfs.store.indexes.create import make_map
from dboxfs.store.location import Location, TreeLayout
from dboxfs.store.owner_rights import make_for_owner, owned_target, refuse_planted_links
from dboxfs.store.write.list_index import make_list_index
from dboxfs.store.write.mailboxes import MailboxTree
from dboxfs.store.write.session import Work
from dboxfs.store.write_errors import StoreExists
from dboxfs.store.write_options import WriteOptions

ROOT = Permissions(0o700)


async def init_store(
    fs: FileSystem,
    location: Location,
    permissions: Permissions = ROOT,
    options: WriteOptions | None = None,
) -> None:
    """Make an empty store at *location*, with an empty INBOX.

    :param permissions: of the root, if it must be made; an existing (empty) root keeps its own.  All files
        of the store get the root's owner, group and modes.
    :raises StoreExists: there are files already, in the root or in the place of the indexes, the INBOX or the
        alternative storage.
    :raises NoSuchStore: the directory above is missing, or can't be written.
    """
    await _refuse_used(fs, location)
    await make_root(fs, location.root, permissions)
    owner = await _empty_root(fs, location.root)
    work = Work(fs, location, owner, options or WriteOptions())
    for path in (location.index, location.control):
        if path is not None:
            await work.disk.make_dirs(path)
    if work.options.dbox_version != DEFAULT:
        await work.disk.replace(version_path(location), encode_version(work.options.dbox_version))
    if work.mdbox:
        await make_map(work.disk, location, work.map, contended=False)
    await work.disk.make_dirs(location.tree)
    if location.layout is TreeLayout.INDEX:
        await make_list_index(work, contended=False)
    await MailboxTree(work, _nothing_to_expunge).create("INBOX")
    for path in (location.tree, location.root):
        await work.disk.sync_dir(path)


async def init_owned_store(
    fs: FileSystem, location: Location, permissions: Permissions, options: WriteOptions
) -> None:
    """Make an empty store with the rights of the owner of its root: a link in the way leads no further.

    Directories outside of the root that only root can make are made for the owner.

    :param fs: has the rights of the process.  :param permissions: as for :func:`init_store`.
    :raises StoreExists, NoSuchStore: as :func:`init_store`.
    """
    await _refuse_used(fs, location)
    await make_root(fs, location.root, permissions)
    async with owned_target(fs, location.root) as files:
        if files is not fs:
            status = await fs.stat(location.root)
            inbox = None if location.inbox is None else os.path.dirname(location.inbox)
            for path in (location.index, location.control, inbox):
                if path is not None:
                    await make_for_owner(fs, path, (status.st_uid, status.st_gid))
        await init_store(files, location, permissions, options)


def nowhere(root: str) -> NoSuchStore:
    """The error when *root* can't be made because the directory above is missing."""
    above = os.path.dirname(root)
    return NoSuchStore(f"{root}: there is no directory {above}; make it with: mkdir -p {quote(above)}")


async def _refuse_used(fs: FileSystem, location: Location) -> None:
    """Refuse a location outside of the root that has files of another store.

    :raises StoreExists: there are files.
    """
    parts = (location.mailbox_dir, "storage", location.list_index_name, f"{location.list_index_name}.log")
    for directory in (location.index, location.index_cache, location.alt):
        for part in parts if directory is not None else ():
            await _refuse_there(fs, os.path.join(directory or "", part))
    if location.inbox is not None:
        await _refuse_there(fs, location.inbox)


async def _refuse_there(fs: FileSystem, path: str) -> None:
    try:
        await fs.run(ops.Stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return
    raise StoreExists(f"{path}: is there already; a new store needs directories without another one's files")


async def _nothing_to_expunge(name: str, uids: object) -> None:
    """Do nothing: no mailbox is deleted here."""


async def make_root(fs: FileSystem, root: str, permissions: Permissions) -> None:
    """Make the directory of a new store, if it is missing.

    :raises NoSuchStore: the directory above is missing, or can't be written; another user's link is in the
        way, and the process is root's.
    """
    await refuse_planted_links(fs, root)
    try:
        await fs.run(ops.Mkdir(root, permissions))
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise nowhere(root) from None
    except OSError as exc:
        raise NoSuchStore(f"{root}: {exc.strerror}") from exc


async def _empty_root(fs: FileSystem, root: str) -> os.stat_result:
    try:
        if await fs.run(ops.Listdir(root)):
            raise StoreExists(f"{root}: the directory is not empty; a new store needs a new or an empty one")
        return await fs.run(ops.Stat(root))
    except OSError as exc:
        raise NoSuchStore(f"{root}: {exc.strerror}") from exc
