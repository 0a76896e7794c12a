"""What ends an export before its end."""

from __future__ import annotations

import errno
from typing import ClassVar

from dboxfs.errors import DboxfsError


class TargetTaken(DboxfsError):
    """The directory holds something already: other files, or an interrupted export that is not to go on."""

    errno: ClassVar[int] = errno.EEXIST


class NoPlace(DboxfsError):
    """A mailbox whose name the format can't have."""

    errno: ClassVar[int] = errno.EINVAL
