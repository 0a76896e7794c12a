"""Which dbox version a store's new messages have, and whether a Dovecot has been at it.

The choice stands in a file of one line, ``dboxfs-version`` in the control directory (the store's root without
``CONTROL=``), where Dovecot looks at nothing of that name::

    version = "3" LF        ; no such file: 2

Messages of both versions are read wherever they are.  Dovecot reads version 2 only: it takes a message of
version 3 for damaged, and its repair leaves such a message out.  So before 3 is written it is looked for
traces of a Dovecot (:func:`trace_of_dovecot`), which dboxfs never makes itself:

* its cache of the mailbox tree (``dovecot.list.index``) or its log of changes (``dovecot.mailbox.log``);
* a cache file of a mailbox with more in it than saved dates (those ``dboxfs convert`` writes);
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
"""What Dovecot reads and writes."""

_NAMES = ("dovecot.list.index", "dovecot.list.index.log", "dovecot.mailbox.log")
_OURS = frozenset({CACHE, KEYWORDS, MODSEQ, MDBOX_HEADER, SDBOX_HEADER, "mdbox", "guid", "hdr-pop3-uidl"})
_CACHE_HEAD = 4096


def version_path(location: Location) -> str:
    """The file that the choice is recorded in."""
    return os.path.join(location.control_dir, "dboxfs-version")


def encode_version(version: int) -> bytes:
    """What it holds."""
    return b"%d\n" % version


async def recorded_version(fs: FileSystem, location: Location) -> int:
    """2 or 3.

    :raises CorruptFile: it holds something else.
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
    """A file that only a Dovecot makes, or that only a Dovecot has written to; None: there is none.

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
    """Whether the cache file that begins like that was made by a conversion, which puts all fields there."""
    try:
        return {field.name for field in CacheFile(data).fields} <= {"date.save"}
    except FormatError:
        return False
