"""Errors that stop an export."""

from __future__ import annotations

import errno
from typing import ClassVar

from dboxfs.errors import DboxfsError


class TargetTaken(DboxfsError):
    """The directory holds other files, or an interrupted export that the caller didn't ask to resume."""

    errno: ClassVar[int] = errno.EEXIST


class NoPlace(DboxfsError):
    """The format can't hold the name of a mailbox."""

    errno: ClassVar[int] = errno.EINVAL
