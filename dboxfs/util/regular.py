"""Opening files in other people's hands, who may put a FIFO in the place of a file."""

from __future__ import annotations

import errno
import os
import stat


def open_regular(path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """open(2) of a regular file.  It never waits, as that of a FIFO would until somebody opens its other end.

    :param flags: as of open(2); O_CLOEXEC is added.  :param mode: of a file that is made.
    :return: a descriptor.
    :raises OSError: EISDIR: it is a directory; EINVAL: it is a FIFO or a device; it can't be opened.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, mode)
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind):
        os.close(fd)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd
