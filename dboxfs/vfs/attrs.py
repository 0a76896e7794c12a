"""Attributes of everything in the mount, and how long the kernel may keep them.

Sizes and dates are exact, a message never changes, and what changes is invalidated, so the kernel may keep
all of it for a long time (:data:`LONG`).  Three exceptions: a message whose size isn't known yet when its
directory is read (its entry is given, its attributes have to be asked for); a damaged message, which may be
repaired; and a directory that can't be watched (both :data:`SHORT`).
"""

from __future__ import annotations

import stat

import pyfuse3

from dboxfs.store import Facts, Folder, Store
from dboxfs.vfs.options import ViewOptions

LONG = 86400.0
"""Seconds for what is invalidated when it changes."""

SHORT = 0.5
"""Seconds for what nobody tells us about."""

_NS = 1_000_000_000


class Attributes:
    """Makes pyfuse3 attributes for one mount."""

    def __init__(self, store: Store, options: ViewOptions, mounted_at: int) -> None:
        self._uid = store.owner.st_uid if options.uid is None else options.uid
        self._gid = store.owner.st_gid if options.gid is None else options.gid
        self._file_mode = stat.S_IFREG | ((0o600 if options.writable else 0o400) & ~options.umask)
        self._dir_mode = stat.S_IFDIR | ((0o700 if options.writable else 0o500) & ~options.umask)
        self._mounted_ns = mounted_at * _NS

    def _entry(self, inode: int, mode: int, nlink: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        entry.st_mode = pyfuse3.ModeT(mode)
        entry.st_nlink = nlink
        entry.st_uid = self._uid
        entry.st_gid = self._gid
        entry.st_blksize = 4096
        entry.entry_timeout = entry.attr_timeout = LONG
        return entry

    def folder(self, folder: Folder, inode: int) -> pyfuse3.EntryAttributes:
        """A directory.  Its times are those of the last change of the mailbox's index."""
        entry = self._entry(inode, self._dir_mode, 2 + len(folder.children))
        changed = folder.mailbox.changed_ns if folder.mailbox is not None else 0
        changed = changed or self._mounted_ns
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = changed
        entry.st_blocks = 0
        return entry

    def message(self, inode: int, facts: Facts) -> pyfuse3.EntryAttributes:
        """A message: mtime = received, ctime = saved, and enough blocks for its bytes."""
        entry = self.template()
        fill(entry, inode, facts.size, facts.received, facts.saved)
        if facts.damaged:
            entry.attr_timeout = SHORT
        return entry

    def template(self) -> pyfuse3.EntryAttributes:
        """An entry for messages, to be filled with :func:`fill` again and again."""
        return self._entry(0, self._file_mode, 1)

    def control_dir(self, inode: int) -> pyfuse3.EntryAttributes:
        """The control directory."""
        entry = self._entry(inode, self._dir_mode, 2)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._mounted_ns
        return entry

    def control_file(self, inode: int) -> pyfuse3.EntryAttributes:
        """A control file: no size, like a file in /proc."""
        entry = self._entry(inode, self._file_mode, 1)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._mounted_ns
        return entry


def fill(entry: pyfuse3.EntryAttributes, inode: int, size: int, received: int, saved: int) -> None:
    """Make *entry* the attributes of one message (bytes, seconds since the epoch)."""
    entry.st_ino = pyfuse3.InodeT(inode)
    entry.st_size = size
    entry.st_blocks = (size + 511) >> 9
    entry.st_mtime_ns = entry.st_atime_ns = received * _NS
    entry.st_ctime_ns = saved * _NS
