"""Attributes of everything in the mount, and how long the kernel may keep them.

Sizes and dates are exact, a message never changes, and every change of an entry is invalidated.  So the
kernel may keep all of it for a long time (:data:`LONG`).  The exceptions:

* 0 seconds for the attributes of a message whose size isn't known yet when its directory is read: the entry
  is listed, and the kernel asks for the attributes;
* 0 for those of a message that is open for writing: the kernel takes the size of the writer's truncate and
  writes for the file's, and other processes would find it empty or short;
* 0 for a draft, except, with ``-o restore``, a staged file or one whose name begins with a dot;
* :data:`SHORT` for a damaged message, which may be repaired, for a directory that can't be watched, and for
  names if they can't be invalidated.
"""

from __future__ import annotations

import stat
from collections.abc import Container

from msgspec import Struct

from dboxfs.store import Facts, Folder, Store
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.options import ViewOptions

LONG = 86400.0
"""Seconds for names and attributes that are invalidated when they change."""

SHORT = 0.5
"""Seconds for names and attributes that may change without an invalidation."""

NS = 1_000_000_000
"""Nanoseconds of a second."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Attrs(Struct):
    """The result of stat(2), and for how many seconds the kernel may keep the name and the attributes.

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
    :ivar unopened: the mount has no OPEN. Then a damaged message is shown with one byte at least: its READ
        has to fail, and the kernel sends none for an empty file. Control files are looked up each time.
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
        """The control directory; only its owner may enter it."""
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

        :param folder: its folder, if the answer is also about its name.
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
        """The size to show for a damaged message; *size*: the best guess."""
        return max(size, int(self.unopened))

    def messages(self, folder: Folder | None) -> Attrs:
        """The attributes that all messages of *folder* have in common."""
        attrs = Attrs(0, self._file_mode, 1, self._uid, self._gid)
        if folder is not None and (self._kernel.names_expire or not self._store.is_watched(folder)):
            attrs.entry_timeout = SHORT
        return attrs

    def draft(self, inode: int, size: int, modified: int, created: int, *, kept: bool = False) -> Attrs:
        """A draft; *modified* and *created* are seconds since the epoch.

        :param kept: every change of it comes through the kernel or is told to it, so the kernel may keep it.
        """
        attrs = Attrs(inode, self._file_mode, 1, self._uid, self._gid, size)
        attrs.modified_ns, attrs.changed_ns = modified * NS, created * NS
        if not kept:
            attrs.entry_timeout = attrs.attr_timeout = 0.0
        elif self._kernel.names_expire:
            attrs.entry_timeout = SHORT
        return attrs

    def control_file(self, inode: int, size: int = 0) -> Attrs:
        """A control file: no size, like a file in /proc; a snapshot has one, and is looked up each time."""
        attrs = Attrs(inode, self._file_mode & ~_OTHERS, 1, self._uid, self._gid, size)
        attrs.entry_timeout = 0.0 if self.unopened else LONG
        attrs.modified_ns = attrs.changed_ns = self._mounted_ns
        return attrs
