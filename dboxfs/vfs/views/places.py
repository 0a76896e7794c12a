"""Inode numbers of the directories and files that a view shows beside mailboxes and messages.

::

    63 ... 60 | 36 | 35 ... 34 | 33 ......... 3 | 2 ... 0
    1 1 0 1   | 0  | 0         | folder number  | Sub    a directory or file that a mailbox has in this view
    1 1 0 1   | 0  | 1 1       | number                 a content of such a file, where nothing is opened
    1 1 0 1   | 1  | number                              a file or directory that a program keeps beside mail

:mod:`dboxfs.vfs.node` has the others.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from dboxfs.vfs.node import BESIDE

VIEW = BESIDE
_FOREIGN_BIT = 1 << 36
FOREIGN = VIEW | _FOREIGN_BIT

_KINDS = 0b1111 << 60
_PLACES = _KINDS | 0b111 << 34
_CONTENT = VIEW | 0b011 << 34
_CONTENT_MASK = (1 << 34) - 1
_SUB_BITS = 3
_FOLDER_MASK = 0x7FFFFFFF


class Sub(enum.IntEnum):
    """A directory or file that a mailbox has in a view; the value is a part of its inode number."""

    CUR = 1
    NEW = 2
    TMP = 3
    KEYWORDS = 4
    SEQUENCES = 5
    """In the MH view: ``.mh_sequences``."""


DIRECTORIES = {b"cur": Sub.CUR, b"new": Sub.NEW, b"tmp": Sub.TMP}
KEYWORDS_NAME = b"dovecot-keywords"


class MaildirPlace(NamedTuple):
    """``sub`` of the mailbox whose directory has the inode number ``folder``."""

    folder: int
    sub: Sub

    @property
    def inode(self) -> int:
        """Its inode number."""
        return VIEW | (self.folder >> 32) << _SUB_BITS | self.sub


def place_of(inode: int) -> MaildirPlace | None:
    """The directory or file of an inode number; None: it is none that a view adds."""
    if inode & _PLACES != VIEW:
        return None
    number = inode >> _SUB_BITS & _FOLDER_MASK
    return MaildirPlace(number << 32, Sub(inode & (1 << _SUB_BITS) - 1))


def content_inode(number: int) -> int:
    """The inode number of a content of a file that a view makes."""
    return _CONTENT | number & _CONTENT_MASK


def is_content(inode: int) -> bool:
    """Whether it is such a number."""
    return inode & _PLACES == _CONTENT


def is_foreign(inode: int) -> bool:
    """Whether it is a file or directory that a program keeps beside the mail."""
    return inode & (_KINDS | _FOREIGN_BIT) == FOREIGN
