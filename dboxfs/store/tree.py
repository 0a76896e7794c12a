"""The mailbox tree of layout ``fs``: directories below ``mailboxes/`` (mailbox-layout section 2).

A directory is a folder; a folder with the directory ``dbox-Mails`` in it is a mailbox.  With ``INDEX=`` a
folder whose index directory has ``dovecot.index.log`` is a mailbox, too.  The scan reads the directories
themselves, not ``dovecot.list.index``, which is only Dovecot's cache of them.  With LAYOUT=index the list
index is the tree (:mod:`.list_index`), and only its directory is watched.

Symbolic links to directories are followed, as Dovecot does, except to a directory that the path already
went through.  A directory that can't be read is a folder with an ``error``, whose content is unknown.  The
scan itself never fails.  If the whole store disappears during the scan, its results are dropped, and the root
has the error.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping

import trio
from msgspec import Struct, field

from dboxfs.fsapi import DirEntry, FileSystem
from dboxfs.fsapi.ops import os_error
from dboxfs.store.list_index import read_list
from dboxfs.store.location import Location, TreeLayout

_DIRECTORIES_AT_ONCE = 32
_MESSAGE = re.compile(r"u\.[1-9][0-9]{0,9}")


class TreeDirectory(Struct):
    """One directory of the tree: its storage name ("" is the root), and whether it is a mailbox."""

    name: str
    selectable: bool
    error: OSError | None = None
    children: list[TreeDirectory] = field(default_factory=list)
    damage: tuple[str, ...] = ()
    """LAYOUT=index, of the root: faults of the list index, whose nodes are left out."""

    def walk(self) -> list[TreeDirectory]:
        """This directory and all below it, parents first, in the order of their names."""
        out: list[TreeDirectory] = []
        todo = [self]
        while todo:
            found = todo.pop()
            out.append(found)
            todo += sorted(found.children, key=lambda child: child.name, reverse=True)
        return out


async def scan_tree(fs: FileSystem, location: Location, watch: Callable[[str], None]) -> TreeDirectory:
    """Read the whole tree.

    :param watch: called with each directory before it is read, so that no change is missed.
    """
    root = TreeDirectory("", False)
    await _scan(fs, location, watch, root)
    if location.only is not None:
        _leave(root, location.only)
    return root


async def scan_folders(
    fs: FileSystem, location: Location, watch: Callable[[str], None], names: Iterable[str]
) -> list[TreeDirectory] | None:
    """Read some folders and all below them; those that are not there are left out.

    :param names: storage names, none of which is the root's.
    :return: None: only a scan of the whole tree can tell (LAYOUT=index, an INBOX elsewhere, a store that is
        away, a folder above one of them that can't be read).
    """
    elsewhere = location.inbox is not None and "INBOX" in names
    if location.layout is TreeLayout.INDEX or location.only is not None or elsewhere:
        return None
    before = await _seen(fs, location.tree)
    scanner = _Scanner(fs, location, watch, trio.CapacityLimiter(_DIRECTORIES_AT_ONCE))
    found: list[TreeDirectory] = []
    async with trio.open_nursery() as nursery:
        for name in names:
            path = location.folder_path(name)
            above = await _ids_above(fs, location, path)
            if above is None:
                return None
            here = await _seen(fs, path)
            if isinstance(here, FileNotFoundError | NotADirectoryError) or here in above:
                continue
            folder = TreeDirectory(name, False)
            found.append(folder)
            nursery.start_soon(scanner.visit, nursery, folder, path, above)
    return None if isinstance(before, OSError) or await _seen(fs, location.tree) != before else found


async def _ids_above(fs: FileSystem, location: Location, path: str) -> frozenset[tuple[int, int]] | None:
    """Device and inode of each directory above *path*, up to the tree's root; None: one can't be read."""
    ids = set()
    while path != location.tree:
        path = os.path.dirname(path)
        seen = await _seen(fs, path)
        if isinstance(seen, OSError):
            return None
        ids.add(seen)
    return frozenset(ids)


def _leave(folder: TreeDirectory, only: frozenset[str]) -> bool:
    """Keep only these mailboxes below *folder*, and their parents; False: *folder* is neither."""
    folder.children = [child for child in folder.children if _leave(child, only)]
    folder.selectable = folder.selectable and folder.name in only
    return folder.selectable or bool(folder.children)


async def _scan(
    fs: FileSystem, location: Location, watch: Callable[[str], None], root: TreeDirectory
) -> None:
    if location.layout is TreeLayout.INDEX:
        await _listed(fs, location, watch, root)
        return
    before = await _seen(fs, location.tree)
    scanner = _Scanner(fs, location, watch, trio.CapacityLimiter(_DIRECTORIES_AT_ONCE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scanner.visit, nursery, root, location.tree, frozenset())
        if location.inbox is not None:
            nursery.start_soon(scanner.add_inbox, root, location.inbox)
    after = await _seen(fs, location.tree)
    if root.error is None and before != after:  # the tree was replaced or removed during the scan
        root.error = after if isinstance(after, OSError) else os_error(errno.ENOENT, location.tree)
        root.children.clear()


async def _listed(
    fs: FileSystem, location: Location, watch: Callable[[str], None], root: TreeDirectory
) -> None:
    """Fill in *root* from the list index."""
    watch(location.list_index_dir)
    try:
        listed = await read_list(fs, location)
    except OSError as exc:
        root.error = exc
        return
    root.damage = listed.damage
    known = {"": root}
    for name, node in sorted(listed.nodes.items(), key=lambda item: item[0].split("/")):
        known[name] = TreeDirectory(name, node.guid is not None)
        known[name.rpartition("/")[0]].children.append(known[name])


async def _seen(fs: FileSystem, path: str) -> tuple[int, int] | OSError:
    """Device and inode of a directory, or the error."""
    try:
        found = await fs.stat(path)
    except OSError as exc:
        return exc
    return found.st_dev, found.st_ino


def keep_unreadable(
    wanted: dict[str, TreeDirectory], known: Mapping[str, bool], report: Callable[[str, OSError], None]
) -> None:
    """Keep the known folders of directories that can't be read.

    :param wanted: the result of a scan, by name; folders that are kept are added.
    :param known: the folders before the scan, and whether each is a mailbox.
    :param report: called for each directory that can't be read.
    """
    for item in [item for item in wanted.values() if item.error is not None]:
        assert item.error is not None
        report(item.name, item.error)
        item.selectable = known.get(item.name, False)
        above = item.name + "/" if item.name else ""
        for name in known:
            if name.startswith(above) and name not in wanted:
                wanted[name] = TreeDirectory(name, known[name])


async def is_stray(fs: FileSystem, location: Location, name: str) -> bool:
    """Whether a directory of the tree that is no mailbox has files that only a mailbox has.

    False with LAYOUT=index: a parent has no directory.
    """
    if location.layout is TreeLayout.INDEX:
        return False
    try:
        entries = await fs.listdir(location.folder_path(name))
    except OSError:
        return False
    names = {entry.name for entry in entries if not entry.is_dir}
    return "dovecot.index.log" in names or any(_MESSAGE.fullmatch(one) for one in names)


class _Scanner:
    def __init__(
        self, fs: FileSystem, location: Location, watch: Callable[[str], None], limit: trio.CapacityLimiter
    ) -> None:
        self._fs = fs
        self._location = location
        self._watch = watch
        self._limit = limit

    async def visit(
        self, nursery: trio.Nursery, folder: TreeDirectory, path: str, above: frozenset[tuple[int, int]]
    ) -> None:
        """Fill in *folder* from the directory *path*; visits of its children are started in *nursery*."""
        async with self._limit:
            self._watch(path)
            try:
                here = await self._fs.stat(path)
                entries = await self._fs.listdir(path)
            except OSError as exc:
                if folder.name == "" or not isinstance(exc, FileNotFoundError | NotADirectoryError):
                    folder.error = exc
                return
        above |= {(here.st_dev, here.st_ino)}
        for entry in entries:
            if entry.name == self._location.dirname:
                here_too = entry.is_dir or await self._is_folder(path, entry, above)
                folder.selectable = bool(folder.name) and here_too  # no mailbox has this name
            elif not folder.name and self._location.inbox is not None and entry.name == "INBOX":
                continue
            elif await self._is_folder(path, entry, above):
                child = TreeDirectory(f"{folder.name}/{entry.name}" if folder.name else entry.name, False)
                folder.children.append(child)
                nursery.start_soon(self.visit, nursery, child, os.path.join(path, entry.name), above)
        if folder.name and not folder.selectable and self._location.index is not None:
            log = os.path.join(self._location.index_path(folder.name), "dovecot.index.log")
            folder.selectable = await self._exists(folder, log)

    async def add_inbox(self, root: TreeDirectory, path: str) -> None:
        """Add an INBOX outside the tree (``INBOX=``)."""
        inbox = TreeDirectory("INBOX", True)
        if await self._exists(inbox, path) or inbox.error is not None:
            root.children.append(inbox)

    async def _is_folder(self, parent: str, entry: DirEntry, above: frozenset[tuple[int, int]]) -> bool:
        if entry.is_dir:
            return True
        if not entry.is_symlink:
            return False
        try:
            target = await self._fs.stat(os.path.join(parent, entry.name))
        except PermissionError:
            return True  # the visit reports it: mail behind it would be missing in silence
        except OSError:
            return False  # a dangling link is no folder; nor for Dovecot
        return (target.st_mode & 0o170000) == 0o040000 and (target.st_dev, target.st_ino) not in above

    async def _exists(self, folder: TreeDirectory, path: str) -> bool:
        try:
            await self._fs.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            folder.error = exc
            return False
        return True
