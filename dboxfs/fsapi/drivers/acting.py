"""Files are reached with another user's rights: what a process of root's does for somebody (Linux).

setfsuid(2) and setfsgid(2) are the calling thread's own. With them go the capabilities that let root past the
modes of files. The process keeps its supplementary groups: its maker gives them up (setgroups(2)).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_libc = ctypes.PyDLL(None)
"""Called without giving the GIL away: none of these calls waits."""
_ASK = -1
"""No user's number: setfsuid(2) changes nothing, and gives the number that is in force."""


@contextmanager
def acting_as(uid: int | None, gid: int | None) -> Iterator[None]:
    """The calling thread reaches files as this user; what it makes is this user's from its first moment on.

    :param uid: None, or a process that isn't root's: with its own rights.
    """
    if uid is None or os.geteuid() != 0:
        yield
        return
    before_gid = None if gid is None else _libc.setfsgid(gid)
    before = _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(before)
        if before_gid is not None:
            _libc.setfsgid(before_gid)


def may_act_as(uid: int, gid: int) -> bool:
    """Whether :func:`acting_as` takes effect: a root without CAP_SETUID, in a container say, can't do it, and
    the system doesn't tell.
    """
    with acting_as(uid, gid):
        return bool(_libc.setfsuid(_ASK) == uid and _libc.setfsgid(_ASK) == gid)


def give_up_groups() -> bool:
    """The process has no supplementary groups from now on; False: it may not give them up."""
    try:
        os.setgroups([])
    except PermissionError:
        return False
    return True
