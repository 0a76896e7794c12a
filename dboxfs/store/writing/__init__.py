"""Writing a store, as a plain library; ``PROTOCOL.md`` beside this file says how, step by step."""

from dboxfs.store.writing.errors import (
    DovecotNeedsVersion2,
    IndexMissing,
    InvalidName,
    MailboxExists,
    MailboxInUse,
    RefusedMessage,
    StoreExists,
    Superseded,
)
from dboxfs.store.writing.maintain import Maintained
from dboxfs.store.writing.message import (
    BodySource,
    BytesSource,
    Coded,
    CopyAs,
    HandleSource,
    NewMessage,
    Source,
)
from dboxfs.store.writing.naming import Namer, Wanted
from dboxfs.store.writing.newstore import init_store
from dboxfs.store.writing.options import Eol, Fsync, LockMethod, Neighbour, WriteOptions
from dboxfs.store.writing.outcome import Copied, Saved
from dboxfs.store.writing.purge import Purged, PurgeProgress
from dboxfs.store.writing.spool import Spool
from dboxfs.store.writing.versions import with_version
from dboxfs.store.writing.writer import StoreWriter

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
    "PurgeProgress",
    "Purged",
    "RefusedMessage",
    "Saved",
    "Source",
    "Spool",
    "StoreExists",
    "StoreWriter",
    "Superseded",
    "Wanted",
    "WriteOptions",
    "init_store",
    "with_version",
]
