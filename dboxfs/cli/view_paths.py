"""The paths that messages have in a mount with a view, as the mount itself lists them.

A mailbox is found by its guid, which its directory has as an extended attribute; in Maildir++ the mount's
root is INBOX.  A message is found by its inode number, whose lower 32 bits are its uid.  Each directory is
listed once, so later changes are not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

_UID = 0xFFFFFFFF
_ADDED_BY_VIEW = 1 << 63
"""A bit of inode numbers that stand for neither mailboxes nor messages."""

_MAILDIR = ("cur", "new", "tmp")


class ViewPaths:
    """The paths in one mount.

    :param mountpoint: an absolute path.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._directories = {guid: path for path in _directories(mountpoint) if (guid := _guid(path))}
        self._messages: dict[str, Mapping[int, str]] = {}

    def of(self, guid: bytes | None, uid: int, *, is_inbox: bool) -> str | None:
        """The path of a message; None: the mount doesn't show it.

        :param guid: of the mailbox.  :param is_inbox: whether that is INBOX.
        """
        directory = self._directories.get(guid.hex()) if guid is not None else None
        if directory is None and is_inbox:
            directory = self._mountpoint
        if directory is None:
            return None
        if directory not in self._messages:
            self._messages[directory] = dict(_messages(directory))
        return self._messages[directory].get(uid)


def _directories(mountpoint: str) -> Iterator[str]:
    for above, names, _ in os.walk(mountpoint):
        names[:] = [name for name in names if name not in _MAILDIR]
        yield from (os.path.join(above, name) for name in names)


def _guid(directory: str) -> str:
    try:
        return os.getxattr(directory, "user.dbox.guid").decode()
    except OSError:  # no mailbox
        return ""


def _messages(directory: str) -> Iterator[tuple[int, str]]:
    """uid and path of each message of a mailbox."""
    for place in (directory, *(os.path.join(directory, sub) for sub in ("cur", "new"))):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    inode = entry.inode()
                    if inode & _UID and not inode & _ADDED_BY_VIEW:
                        yield inode & _UID, entry.path
        except FileNotFoundError:  # an MH folder has no cur/
            continue
