"""Attributes of everything in the mount, and how long the kernel may keep them.

Sizes and dates are exact, a message never changes, and what changes is invalidated, so the kernel may keep
all of it for a long time (:data:`LONG`).  The exceptions:

* a message whose size isn't known yet when its directory is read (its entry is given, its attributes have to
  be asked for), and one that is open for writing: the kernel makes its size what was truncated and written,
  and others would find it empty, or cut.  Both 0;
* a file that is being written, where it is not staged: 0;
* a damaged message, which may be repaired; a directory that can't be watched, and names where nobody can tell
  the kernel of them: :data:`SHORT`.
"""

from __future__ import annotations

import stat
from collections.abc import Container
from dataclasses import dataclass

from dboxfs.store import Facts, Folder, Store
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.options import ViewOptions

LONG = 86400.0
"""Seconds for what is invalidated when it changes."""

SHORT = 0.5
"""Seconds for what nobody tells us about."""

NS = 1_000_000_000

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(slots=True)
class Attrs:
    """What stat(2) tells, and for how many seconds the kernel may keep the name and the attributes.

    ``size``: bytes.  ``modified_ns`` (atime too), ``changed_ns``: nanoseconds since the epoch.
    """

    inode: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    entry_timeout: float = LONG
    attr_timeout: float = LONG


class Attributes:
    """Makes attributes for one mount.

    :param mounted_at: seconds since the epoch.
    :param written: the inodes that are open for writing.
    :ivar unopened: the kernel opens nothing. A damaged message then has a byte at least, since it is the READ
        that has to fail, and the kernel sends none for an empty file; control files are looked up each time.
    """

    def __init__(
        self, store: Store, options: ViewOptions, mounted_at: int, kernel: Kernel, written: Container[int]
    ) -> None:
        self._store = store
        self._kernel = kernel
        self._written = written
        self._uid = store.owner.st_uid if options.uid is None else options.uid
        self._gid = store.owner.st_gid if options.gid is None else options.gid
        files, directories = (0o600, 0o700) if options.writable else (0o400, 0o500)
        files = files if options.file_mode is None else options.file_mode
        directories = directories if options.directory_mode is None else options.directory_mode
        self._file_mode = stat.S_IFREG | (files & ~options.umask)
        self._dir_mode = stat.S_IFDIR | (directories & ~options.umask)
        self._mounted_ns = mounted_at * NS
        self.unopened = False

    def folder(self, folder: Folder, inode: int) -> Attrs:
        """A directory.  Its times are those of the last change of its mailbox's index."""
        changed = folder.mailbox.changed_ns if folder.mailbox is not None else 0
        return self._directory(inode, 2 + len(folder.children), changed, folder)

    def control_dir(self, inode: int) -> Attrs:
        """The control directory, which is its owner's alone."""
        attrs = self._directory(inode, 2, 0, None)
        attrs.mode &= ~_OTHERS
        return attrs

    def _directory(self, inode: int, nlink: int, changed: int, folder: Folder | None) -> Attrs:
        attrs = Attrs(inode, self._dir_mode, nlink, self._uid, self._gid)
        attrs.modified_ns = attrs.changed_ns = changed or self._mounted_ns
        above = folder.parent if folder is not None else None
        if not all(self._store.is_watched(some) for some in (folder, above) if some is not None):
            attrs.entry_timeout = attrs.attr_timeout = SHORT
        elif folder is not None and self._kernel.names_expire:
            attrs.entry_timeout = SHORT
        return attrs

    def message(self, inode: int, facts: Facts, folder: Folder | None = None) -> Attrs:
        """A message: mtime = received, ctime = saved, with nanoseconds of its flags and keywords.

        :param folder: that it is in, where its name is answered too.
        """
        attrs = self.messages(folder)
        attrs.inode, attrs.size = inode, facts.size
        attrs.modified_ns, attrs.changed_ns = facts.received * NS, facts.saved * NS + facts.nanoseconds
        if inode in self._written:
            attrs.attr_timeout = 0.0
        elif facts.damaged:
            attrs.attr_timeout, attrs.size = SHORT, self.damaged_size(facts.size)
        return attrs

    def damaged_size(self, size: int) -> int:
        """The size that a damaged message is shown with, of which this is the best guess."""
        return max(size, int(self.unopened))

    def messages(self, folder: Folder | None) -> Attrs:
        """What all messages of *folder* have in common."""
        attrs = Attrs(0, self._file_mode, 1, self._uid, self._gid)
        if folder is not None and (self._kernel.names_expire or not self._store.is_watched(folder)):
            attrs.entry_timeout = SHORT
        return attrs

    def draft(self, inode: int, size: int, modified: int, created: int, *, kept: bool = False) -> Attrs:
        """A file that is being written (seconds since the epoch).

        :param kept: only the kernel's own requests, or what it is told of, change it: it may keep all of it.
        """
        attrs = Attrs(inode, self._file_mode, 1, self._uid, self._gid, size)
        attrs.modified_ns, attrs.changed_ns = modified * NS, created * NS
        if not kept:
            attrs.entry_timeout = attrs.attr_timeout = 0.0
        elif self._kernel.names_expire:
            attrs.entry_timeout = SHORT
        return attrs

    def control_file(self, inode: int, size: int = 0) -> Attrs:
        """A control file: no size, like a file in /proc; a snapshot has one, and another name each time."""
        attrs = Attrs(inode, self._file_mode & ~_OTHERS, 1, self._uid, self._gid, size)
        attrs.entry_timeout = 0.0 if self.unopened else LONG
        attrs.modified_ns = attrs.changed_ns = self._mounted_ns
        return attrs
