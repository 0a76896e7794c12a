"""The mailstore as a plain library: ``Store``, ``Folder``, ``Mailbox``, bodies.  Knows nothing of FUSE."""

from dboxfs.store.attrs import DAMAGED, KNOWN, UNKNOWN, Facts, FactTable
from dboxfs.store.body import Body
from dboxfs.store.details import Details
from dboxfs.store.folder import Folder, Listener
from dboxfs.store.indexes.delta import Delta
from dboxfs.store.location import Kind, Location
from dboxfs.store.mail_location import parse_location
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.opening import open_store
from dboxfs.store.store import Store

__all__ = [
    "DAMAGED",
    "KNOWN",
    "UNKNOWN",
    "Body",
    "Delta",
    "Details",
    "FactTable",
    "Facts",
    "Folder",
    "Kind",
    "Listener",
    "Location",
    "Mailbox",
    "Store",
    "open_store",
    "parse_location",
]
