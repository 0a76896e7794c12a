"""The inode numbers of a site: it maps those of each user's file system into one range.

::

    63 | 62 ...... 32 | 31 ........... 0
    0  | number       | low             a file in a user's store: *low* is the low half of its inode there;
                                        *number* stands for the user and the upper half (the folder number)
    0  | 0            | 1               the root of the mount
    0  | 0            | 2 ...           the site's control directory and its files
    0  | number       | 0               a directory of users with one domain
    kind (4 bits) | session (23 bits) | 36 ... 0    files without a stable number: drafts, deleted messages,
                                        files of views; with kind 1001 those of a user's control directory

*number* (31 bits) is taken from SHA-256 over the user's name and the folder number, which itself comes from
the mailbox's guid: so it is the same in each mount of the site.  Two folders with the same 31 bits (one
chance in 36,000 for each folder of a site of 60,000): the second one that needs a number takes the next free
one.  A number stays with its folder as long as the mount lives, even while the user's store is closed: the
kernel may ask for it at any time.

A session is the time from one opening of a user's store to its closing.  A number with a session is ESTALE
after the session's end.

Concurrency: no method awaits.
"""

from __future__ import annotations

import errno
import hashlib
from typing import NamedTuple

from dboxfs.vfs.errors import Refused
from dboxfs.vfs.node import CONTROL, DRAFTS, ROOT, UID_MASK

SESSIONS = 1 << 23
"""Sessions that can have a number at a time."""

_LOW_BITS = 37
_LOW_MASK = (1 << _LOW_BITS) - 1
_KINDS = 0b1111 << 60
_CONTROL_FILES = 0b1001 << 60
_NUMBER_MASK = 0x7FFFFFFF


class Meant(NamedTuple):
    """The meaning of an inode number of the site.

    :ivar user: the numbers of its user.
    :ivar inode: the inode number in the user's file system.
    """

    user: UserNumbers
    inode: int


class SiteNumbers:
    """All numbers of a site."""

    def __init__(self) -> None:
        self._meant: dict[int, tuple[UserNumbers, int] | bytes] = {}
        self._sessions: dict[int, UserNumbers] = {}
        self._next_session = 1

    def __len__(self) -> int:
        return len(self._meant)

    def domain(self, name: bytes) -> int:
        """The inode number of the directory of a domain."""
        return self._take(b"domain\0" + name, name) << 32

    def meant(self, inode: int) -> Meant:
        """The user, and the number in the user's file system, of an inode number of the site.

        :raises Refused: ESTALE: the number has no meaning any more.
        """
        if inode & DRAFTS:
            user = self._sessions.get(inode >> _LOW_BITS & SESSIONS - 1)
            if user is None:
                raise Refused(errno.ESTALE)
            kind, low = inode & _KINDS, inode & _LOW_MASK
            return Meant(user, low if kind == _CONTROL_FILES else kind | low)
        found = self._meant.get(inode >> 32)
        if not isinstance(found, tuple):
            raise Refused(errno.ESTALE)
        return Meant(found[0], found[1] << 32 | inode & UID_MASK)

    def take(self, user: UserNumbers, folder: int) -> int:
        """Give a folder its number, which it keeps; call it once for each folder."""
        return self._take(b"%s\0%d" % (user.name, folder), (user, folder))

    def _take(self, key: bytes, meant: tuple[UserNumbers, int] | bytes) -> int:
        number = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") & _NUMBER_MASK or 1
        while number in self._meant:
            number = (number + 1) & _NUMBER_MASK or 1
        self._meant[number] = meant
        return number

    def begin(self, user: UserNumbers) -> int:
        """A session of *user* begins; gives its number."""
        while self._next_session in self._sessions or not self._next_session:
            self._next_session = (self._next_session + 1) % SESSIONS
        session, self._next_session = self._next_session, (self._next_session + 1) % SESSIONS
        self._sessions[session] = user
        return session

    def end(self, session: int) -> None:
        """A session ends: numbers with it are ESTALE from now on."""
        self._sessions.pop(session, None)


class UserNumbers:
    """The numbers of one user.

    :ivar name: of the user, as bytes.
    :param is_top: the root of the user's file system is the root of the mount.
    """

    __slots__ = ("_given", "_is_top", "_numbers", "_session", "name")

    def __init__(self, numbers: SiteNumbers, name: bytes, *, is_top: bool = False) -> None:
        self.name = name
        self._is_top = is_top
        self._numbers = numbers
        self._given: dict[int, int] = {}
        self._session = 0

    @property
    def root(self) -> int:
        """The inode number of the user's directory."""
        return self.out(ROOT)

    def begin(self) -> None:
        """A session begins."""
        self._session = self._numbers.begin(self)

    def end(self) -> None:
        """The session has ended."""
        self._numbers.end(self._session)
        self._session = 0

    def base(self, folder: int) -> int:
        """The site's inode number of the folder with this number; a message's uid is added to it."""
        given = self._given.get(folder)
        if given is None:
            given = self._given[folder] = self._numbers.take(self, folder)
        return given << 32

    def out(self, inode: int) -> int:
        """The site's number of an inode of the user's file system."""
        if inode & DRAFTS:
            return inode & _KINDS | self._session << _LOW_BITS | inode & _LOW_MASK
        folder = inode >> 32
        if self._is_top and inode == ROOT:
            return ROOT
        if not folder and inode > CONTROL:
            return _CONTROL_FILES | self._session << _LOW_BITS | inode
        return self.base(folder) | inode & UID_MASK
