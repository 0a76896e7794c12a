"""Errors that stop a conversion, or (:class:`Unfit`) leave out a message."""

from __future__ import annotations

import errno
from typing import ClassVar

from dboxfs.errors import DboxfsError


class SourceChanged(DboxfsError):
    """The source was changed since the conversion began; the destination stays unfinished."""

    errno: ClassVar[int] = errno.ESTALE


class OtherConversion(DboxfsError):
    """The destination holds an interrupted conversion of another source, or into another format."""

    errno: ClassVar[int] = errno.EEXIST


class VerifyFailed(DboxfsError):
    """The written messages differ from the source's; the destination stays unfinished."""

    errno: ClassVar[int] = errno.EIO


class Unfit(DboxfsError):
    """A message can't be read, or can't be written in the format of the destination."""
