"""The error of a request that is refused although nothing is wrong with the store or the disk.

:class:`Refused` is an OSError, so a caller can handle it by its errno.  It is a class of its own because it
only concerns the program that asked: an OSError of the disk goes into the log (:mod:`dboxfs.fuse.error_map`),
a refusal never does.
"""

from __future__ import annotations

import errno
import os

from dboxfs.errors import DboxfsError


class Refused(OSError):
    """A request that is answered with an errno.  Nothing has changed.

    :param number: the errno.
    """

    errno: int

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))


def errno_of(error: BaseException) -> int:
    """The errno of *error*; EIO for an error that has none."""
    if isinstance(error, DboxfsError | OSError):
        return error.errno or errno.EIO
    return errno.EIO
