"""The hook that lets a read-only mount do without OPEN, a writable one without needless FLUSH requests, and
that makes listings cheap.

A file system that answers OPEN and OPENDIR with ENOSYS gets its READ and READDIRPLUS requests without a
handle, and has to know the inode instead. pyfuse3's handlers are given the handle alone. The hook
(``openless_hook.c``) is a shared object that stands in front of libfuse's ``fuse_session_new`` and has
libfuse call functions that put the inode where the handle is 0; pyfuse3 passes it on as the handle. A pyfuse3
that does that by itself some day (``packaging/upstream``) makes the hook superfluous, and is not disturbed by
it.

The hook also stands in front of ``fuse_reply_open``. An OPEN whose handle has the bit :data:`NO_FLUSH` is
answered with NOFLUSH (libfuse 3.11, Linux 5.16), which pyfuse3 can't set: the kernel then sends no FLUSH when
a descriptor is closed. Without the hook FLUSH comes, and does nothing.

And it stands in front of ``fuse_add_direntry_plus``, to which pyfuse3 gives each entry of a listing from
Python, 2 µs an entry: :meth:`Hook.list` has the next call add many (:mod:`dboxfs.fuse.entries`).

The dynamic linker takes the first definition that it finds, so the hook has to be loaded before pyfuse3, and
for all libraries (RTLD_GLOBAL): :mod:`dboxfs.fuse` does that when it is imported. On mounts that answer OPEN
it does all but the first: their handles are never 0.

The extension is optional: without a compiler or libfuse's headers dboxfs is installed without it. Then, and
where the hook can't be loaded or pyfuse3's table did not go through it, :func:`why_not` says why, and OPEN
is answered as ever.
"""

from __future__ import annotations

import ctypes
import importlib.util
from typing import Final

from msgspec import Struct

_MODULE = "dboxfs.fuse._openless"

NO_FLUSH: Final = 1 << 62
"""A bit of the handle of a file that is closed without FLUSH; ``DBOXFS_NO_FLUSH`` of the hook."""


class Hook(Struct, frozen=True):
    """The loaded hook, or why there is none.

    :param loaded: the shared object; None: requests get no inodes.
    :param missing: why not, in words.
    """

    loaded: ctypes.CDLL | None
    missing: str = ""

    def why_not(self) -> str:
        """Why requests don't get their inodes, in words; empty: they do. Ask after ``pyfuse3.init()``."""
        if self.loaded is None:
            return self.missing
        if not self._count("dboxfs_sessions"):
            return "pyfuse3's handlers did not go through the hook"
        return ""

    @property
    def filled(self) -> int:
        """Requests that were given their inode, since the process began."""
        return self._count("dboxfs_filled")

    @property
    def can_list(self) -> bool:
        """Whether entries of listings go through the hook: known after the first entry."""
        return bool(self._count("dboxfs_entries"))

    def list(self, rows: int, count: int, names: int, above: int) -> None:
        """Have the next entry that pyfuse3 adds be these instead, as many as there is room for.

        :param rows: address of rows of :data:`~dboxfs.vfs.listing.LISTED`.  :param count: at least 1.
        :param names: address of their names.  All of this must stay there until then.
        :param above: bits of all offsets.
        """
        assert self.loaded is not None
        self.loaded.dboxfs_list(
            ctypes.c_void_p(rows), ctypes.c_size_t(count), ctypes.c_void_p(names), ctypes.c_uint64(above)
        )

    @property
    def listed(self) -> int:
        """How many of them there was room for."""
        return self._count("dboxfs_listed")

    def _count(self, name: str) -> int:
        return 0 if self.loaded is None else ctypes.c_ulong.in_dll(self.loaded, name).value


def load(module: str = _MODULE) -> Hook:
    """Load the hook that was built as the extension *module*, for all libraries that are loaded later."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return Hook(None, "dboxfs was installed without its extension (it takes gcc and libfuse3-dev)")
    try:
        # First with RTLD_LOCAL: a hook that doesn't find libfuse must not stand in front of it.
        if not ctypes.CDLL(found.origin, ctypes.RTLD_LOCAL).dboxfs_hook_ready():
            return Hook(None, f"{found.origin}: libfuse's functions are not found behind it")
        return Hook(ctypes.CDLL(found.origin, ctypes.RTLD_GLOBAL))
    except (OSError, AttributeError) as exc:
        return Hook(None, f"{found.origin}: {exc}")


HOOK: Final = load()
"""The hook of this process: the dynamic linker has one global scope a process, so there can't be two."""
