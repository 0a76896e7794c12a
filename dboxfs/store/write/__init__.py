"""Writing a store, as a plain library; ``PROTOCOL.md`` beside this file lists the steps.

The modules of ``sdbox`` and ``mdbox`` use those of this package, and :class:`StoreWriter` uses them.  So the
names of what stands above them (:data:`_ABOVE`) are imported when a module asks for them.
"""

import importlib
from typing import TYPE_CHECKING

from dboxfs.store.write.meaning import meaning
from dboxfs.store.write.message import (
    BodySource,
    BytesSource,
    Coded,
    CopyAs,
    HandleSource,
    NewMessage,
    Source,
    StoredText,
    Twin,
)
from dboxfs.store.write.naming import Namer, Wanted
from dboxfs.store.write.new_store import init_store
from dboxfs.store.write.results import Copied, Saved
from dboxfs.store.write.spool import Spool
from dboxfs.store.write.versions import with_version
from dboxfs.store.write_errors import (
    DovecotNeedsVersion2,
    IndexMissing,
    InvalidName,
    MailboxExists,
    MailboxInUse,
    NoFolderKey,
    RefusedMessage,
    StoreExists,
    Superseded,
    TextGone,
)
from dboxfs.store.write_options import Eol, Fsync, LockMethod, Neighbour, WriteOptions

if TYPE_CHECKING:
    from dboxfs.store.mdbox.purge import Purged, PurgeProgress
    from dboxfs.store.write.maintain import Maintained
    from dboxfs.store.write.writer import StoreWriter

__all__ = [
    "BodySource",
    "BytesSource",
    "Coded",
    "Copied",
    "CopyAs",
    "DovecotNeedsVersion2",
    "Eol",
    "Fsync",
    "HandleSource",
    "IndexMissing",
    "InvalidName",
    "LockMethod",
    "MailboxExists",
    "MailboxInUse",
    "Maintained",
    "Namer",
    "Neighbour",
    "NewMessage",
    "NoFolderKey",
    "PurgeProgress",
    "Purged",
    "RefusedMessage",
    "Saved",
    "Source",
    "Spool",
    "StoreExists",
    "StoreWriter",
    "StoredText",
    "Superseded",
    "TextGone",
    "Twin",
    "Wanted",
    "WriteOptions",
    "init_store",
    "meaning",
    "with_version",
]

_ABOVE = {
    "Maintained": "dboxfs.store.write.maintain",
    "PurgeProgress": "dboxfs.store.mdbox.purge",
    "Purged": "dboxfs.store.mdbox.purge",
    "StoreWriter": "dboxfs.store.write.writer",
}
"""Modules of the names that are imported later."""


def __getattr__(name: str) -> object:
    """A name of a module that stands above ``sdbox`` and ``mdbox``.

    :raises AttributeError: there is no such name.
    """
    if name not in _ABOVE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ABOVE[name]), name)
