"""A range of one file is appended to another, by the kernel where it can."""

from __future__ import annotations

import errno
import fcntl
import os

from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import Appended, os_error

_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_PIECE = 1 << 20


def copy_range(op: ops.CopyRange) -> Appended:
    """Append a range of another file; an error after the first byte is part of the answer.

    :raises OSError: nothing was written; EBUSY: the file does not end where it should.
    """
    if os.fstat(op.fd).st_size != op.expected:
        raise os_error(errno.EBUSY)
    flags = fcntl.fcntl(op.fd, fcntl.F_GETFL)
    # copy_file_range refuses files that are open for appending; the place to write to is known anyway.
    fcntl.fcntl(op.fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
    try:
        return _copy(op)
    finally:
        fcntl.fcntl(op.fd, fcntl.F_SETFL, flags)


def _copy(op: ops.CopyRange) -> Appended:
    done = 0
    try:
        while done < op.size:
            count = os.copy_file_range(
                op.source_fd, op.fd, op.size - done, op.offset + done, op.expected + done
            )
            if count == 0:
                break
            done += count
    except OSError as error:
        if error.errno in _NO_COPY and done == 0:
            return _copy_by_hand(op)
        return Appended(done, error)
    return Appended(done, None)


def _copy_by_hand(op: ops.CopyRange) -> Appended:
    done = 0
    try:
        while done < op.size:
            piece = os.pread(op.source_fd, min(_PIECE, op.size - done), op.offset + done)
            if not piece:
                break
            done += os.pwrite(op.fd, piece, op.expected + done)
    except OSError as error:
        return Appended(done, error)
    return Appended(done, None)
