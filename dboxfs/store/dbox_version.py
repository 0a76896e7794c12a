"""The dbox version of a store's new messages, and traces of a Dovecot in the store.

The version is recorded in a file of one line, ``dboxfs-version`` in the control directory (the store's root
without ``CONTROL=``).  Dovecot ignores a file of that name::

    version = "3" LF        ; no such file: 2

dboxfs reads messages of both versions in any store.  Dovecot reads version 2 only: it takes a message of
version 3 for damaged, and its repair leaves such a message out.  So before dboxfs writes version 3 it looks
for traces of a Dovecot (:func:`trace_of_dovecot`), which dboxfs never makes itself:

* its cache of the mailbox tree (``dovecot.list.index``) or its log of changes (``dovecot.mailbox.log``);
* a cache file of a mailbox with other fields than saved dates (``dboxfs convert`` writes only those);
* an index with an extension that dboxfs doesn't write.

Each of them appears as soon as a mail client has logged in or ``doveadm`` has looked at a message.
"""

from __future__ import annotations

import os

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.extensions import CACHE, KEYWORDS, MODSEQ
from dboxfs.index.mailbox import MDBOX_HEADER, SDBOX_HEADER
from dboxfs.store.location import Location
from dboxfs.store.mailbox import Mailbox

DEFAULT = 2
"""The version that Dovecot reads and writes."""

_NAMES = ("dovecot.list.index", "dovecot.list.index.log", "dovecot.mailbox.log")
_OURS = frozenset({CACHE, KEYWORDS, MODSEQ, MDBOX_HEADER, SDBOX_HEADER, "mdbox", "guid", "hdr-pop3-uidl"})
_CACHE_HEAD = 4096


def version_path(location: Location) -> str:
    """The path of the file with the recorded version."""
    return os.path.join(location.control_dir, "dboxfs-version")


def encode_version(version: int) -> bytes:
    """The content of that file."""
    return b"%d\n" % version


async def recorded_version(fs: FileSystem, location: Location) -> int:
    """The recorded version, 2 or 3.

    :raises CorruptFile: the file has another content.
    :raises OSError: it can't be read.
    """
    path = version_path(location)
    (found,) = await fs.peek([Peek(path, ((0, 16),), nofollow=True)])
    if isinstance(found, FileNotFoundError | NotADirectoryError):
        return DEFAULT
    if not isinstance(found, PeekResult):
        raise found
    for version in (2, 3):
        if found.chunks[0].strip() == b"%d" % version:
            return version
    raise CorruptFile(path, 0, f"no dbox version: {found.chunks[0]!r}, expected 2 or 3")


async def trace_of_dovecot(fs: FileSystem, location: Location, boxes: dict[str, Mailbox]) -> str | None:
    """The path of a file that only a Dovecot makes or has written to; None: there is none.

    :param boxes: the mailboxes of the store, by storage name.
    """
    directories = dict.fromkeys((location.root, location.index or location.root, location.control_dir))
    paths = [os.path.join(directory, name) for directory in directories for name in _NAMES]
    for path, found in zip(paths, await fs.peek([Peek(path, ()) for path in paths]), strict=True):
        if isinstance(found, PeekResult):
            return path
    for name, box in boxes.items():
        state = box.state
        if state is not None and any(extension.name not in _OURS for extension in state.extensions):
            return os.path.join(location.index_path(name), "dovecot.index.log")
    caches = [location.cache_path(name) for name in boxes]
    asked = [Peek(path, ((0, _CACHE_HEAD),)) for path in caches]
    for path, found in zip(caches, await fs.peek(asked), strict=True):
        if isinstance(found, PeekResult) and not _only_saved_dates(found.chunks[0]):
            return path
    return None


def _only_saved_dates(data: bytes) -> bool:
    """Whether the cache file that begins with *data* has only saved dates; a writer of dboxfs puts all fields
    there.
    """
    try:
        return {field.name for field in CacheFile(data).fields} <= {"date.save"}
    except FormatError:
        return False
