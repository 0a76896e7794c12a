"""setattr and setxattr in a writable mount: dates, lengths, flags, keywords, subscriptions."""

from __future__ import annotations

import errno

from pyfuse3 import FUSEError

from dboxfs.store import Facts
from dboxfs.store.write.log_records import check_keywords
from dboxfs.vfs import xattrs
from dboxfs.vfs.commit import flag_bits
from dboxfs.vfs.draft import Upload
from dboxfs.vfs.node import UID_MASK
from dboxfs.vfs.shared import Shared


class Changing:
    """See the module."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._commits = shared.commits

    async def upload(self, upload: Upload, size: int | None, received: int | None) -> None:
        """Cut a file that is being written, or give it a received date; its lock is held.

        :param size: bytes.  :param received: seconds since the epoch.
        """
        if size is not None:
            upload.truncate(size)
        elif received is not None:
            upload.received = received
            if upload.uid is not None and not upload.dirty and upload.handles:
                box = self._commits.box(upload.folder)
                if upload.uid in box and (await box.facts_of(upload.uid)).received != received:
                    upload.uid = await self._commits.redate(upload.folder, upload.uid, received)
                    self._commits.became(upload.inode, upload.folder, upload.uid)
                    if upload.inode >> 63 == 0:
                        self._shared.notifier.entry(self._shared.inodes.of(upload.folder), upload.name)

    async def message(self, inode: int, facts: Facts, size: int | None, received: int | None) -> None:
        """The same for a message that nobody writes.

        :raises FUSEError: EOPNOTSUPP: another length.
        """
        if size is not None and size != facts.size:
            raise FUSEError(errno.EOPNOTSUPP)
        if received is not None and size is None and received != facts.received:
            folder, uid = self._shared.folder(inode), inode & UID_MASK
            name = self._shared.names.name(folder, uid)
            await self._commits.redate(folder, uid, received)
            self._shared.notifier.entry(self._shared.inodes.of(folder), name)

    async def xattr(self, now: int, upload: Upload | None, name: str, value: bytes) -> None:
        """Set ``user.dbox.<name>``.

        :param now: the inode of the message, or directory.
        :param upload: the file being written that it is; None: it is none.
        :raises FUSEError: EINVAL: no such attribute, or no such value; EPERM: it can't be set.
        """
        message = upload is not None or (now >> 32 != 0 and now & UID_MASK != 0)
        if message and name in ("flags", "keywords"):
            words = _words(value)
            flags = flag_bits(words) if name == "flags" else None
            if upload is not None and upload.uid is None:
                _check_keywords(words if flags is None else [])
                upload.flags = upload.flags if flags is None else flags
                upload.keywords = upload.keywords if flags is not None else tuple(words)
            else:
                await self._commits.set_flags(now, flags, words if flags is None else None)
        elif not message and name == "subscribed" and now >> 32:
            if value not in (b"0", b"1"):
                raise FUSEError(errno.EINVAL)
            await self._shared.writer.subscribe(self._shared.folder(now).name, value == b"1")
        elif name in (xattrs.MESSAGE if message else xattrs.folder_names(self._shared.folder(now))):
            raise FUSEError(errno.EPERM)
        else:
            raise FUSEError(errno.EINVAL)


def _check_keywords(words: list[str]) -> None:
    """
    :raises FUSEError: EINVAL: one of them can't be a keyword.
    """
    try:
        check_keywords(words)
    except ValueError:
        raise FUSEError(errno.EINVAL) from None


def _words(value: bytes) -> list[str]:
    """
    :raises FUSEError: EINVAL: no text.
    """
    try:
        return value.decode("utf-8").split()
    except UnicodeDecodeError:
        raise FUSEError(errno.EINVAL) from None
