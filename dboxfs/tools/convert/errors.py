"""What ends a conversion before its end."""

from __future__ import annotations

import errno
from typing import ClassVar

from dboxfs.errors import DboxfsError


class SourceChanged(DboxfsError):
    """The source is not what it was when the conversion began; the destination stays unfinished."""

    errno: ClassVar[int] = errno.ESTALE


class OtherConversion(DboxfsError):
    """The destination holds an interrupted conversion of another source, or into another format."""

    errno: ClassVar[int] = errno.EEXIST


class VerifyFailed(DboxfsError):
    """What was written is not what was read; the destination stays unfinished."""

    errno: ClassVar[int] = errno.EIO


class HiddenMail(DboxfsError):
    """The source has mail that it doesn't show; a conversion would be one of less than that."""

    errno: ClassVar[int] = errno.EINVAL


class Unfit(DboxfsError):
    """A message that can't be read, or not be written in the format of the destination."""
