"""System calls that answer from memory or say "not now": safe on the event loop's own thread.

* ``openat2(2)`` with RESOLVE_CACHED (Linux 5.12) opens a path whose directories and inode are cached, and
  gives EAGAIN if a disk would be needed.  It is called through ctypes *without* releasing the GIL: the call
  doesn't wait, and passing the GIL to a worker would cost more than the call.
* ``preadv2(2)`` with RWF_NOWAIT (Linux 4.14) reads from the kernel's page cache; EAGAIN if the first page is
  missing, a short answer if a later one is.

On a kernel without these calls both always say "not now", and all operations go to the workers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys

_SYS_OPENAT2 = 437  # the same on every architecture but alpha, which has no Python 3.11 to speak of
_AT_FDCWD = -100
_RESOLVE_CACHED = 0x20
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SCRATCH = 1 << 20


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of <linux/openat2.h>."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class NowaitCalls:
    """The calls and their scratch memory, for one event loop (not thread-safe)."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(_SCRATCH))
        self._how = _OpenHow(_FLAGS, 0, _RESOLVE_CACHED)
        self._how_nofollow = _OpenHow(_FLAGS | os.O_NOFOLLOW, 0, _RESOLVE_CACHED)
        self._pointers = (ctypes.addressof(self._how), ctypes.addressof(self._how_nofollow))
        self._syscall = None
        if sys.platform == "linux":
            self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
            self._syscall.argtypes = (
                ctypes.c_long,
                ctypes.c_int,
                ctypes.c_char_p,
                ctypes.c_void_p,
                ctypes.c_size_t,
            )
            self._syscall.restype = ctypes.c_long

    def open(self, path: str, nofollow: bool = False) -> int | None:
        """A descriptor, or None: opening could wait, or the path is no regular file.

        :raises OSError: as open(2).
        """
        if self._syscall is None:
            return None
        name = os.fsencode(path)
        if b"\0" in name:
            raise OSError(errno.EINVAL, "embedded null byte", path)
        fd = int(self._syscall(_SYS_OPENAT2, _AT_FDCWD, name, self._pointers[nofollow], 24))
        if fd >= 0:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
            return None  # the open by a worker gives the error
        code = ctypes.get_errno()
        if code == errno.EAGAIN:
            return None
        if code in (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.E2BIG):  # old kernel, or a seccomp filter
            self._syscall = None
            return None
        raise OSError(code, os.strerror(code), path)

    def read(self, fd: int, size: int, offset: int) -> bytes | None:
        """Bytes from the kernel's page cache (at most 1 MiB), or None: reading could wait.

        :raises OSError: as preadv2(2); EINVAL: negative size or offset.
        """
        if size < 0 or offset < 0:  # for preadv2 offset -1 means the file's own position
            raise OSError(errno.EINVAL, "negative size or offset")
        view = self._view
        try:
            count = os.preadv(fd, (view[:size],), offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        return bytes(view[:count])
