"""The nonblocking file API: handles, drivers, streams, a page cache.  It knows nothing of mail.

Everything runs on one trio event loop; a driver runs the operations somewhere else and completes them on the
loop in batches.  Start with :class:`FileSystem`; ``handle.py`` has the contract of a handle,
``drivers/base.py`` that of a driver.
"""

from dboxfs.fsapi.cache.cache import PageCache
from dboxfs.fsapi.cache.ksm import Ksm
from dboxfs.fsapi.cache.readahead import Readahead
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.drivers.choice import choose_driver
from dboxfs.fsapi.drivers.faults import Crash, Fault, FaultsDriver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.objects import ObjectsDriver
from dboxfs.fsapi.drivers.threads import ThreadsDriver
from dboxfs.fsapi.drivers.uring import UringDriver
from dboxfs.fsapi.filesystem import FileSystem
from dboxfs.fsapi.handle import Handle
from dboxfs.fsapi.streams import InputStream, OutputStream
from dboxfs.fsapi.types import (
    Capabilities,
    CreateMode,
    DirEntry,
    OpenMode,
    Peek,
    PeekResult,
    Permissions,
)

__all__ = [
    "Capabilities",
    "Crash",
    "CreateMode",
    "DirEntry",
    "Driver",
    "Fault",
    "FaultsDriver",
    "FileSystem",
    "Handle",
    "InputStream",
    "Ksm",
    "MemoryDriver",
    "ObjectsDriver",
    "OpenMode",
    "OutputStream",
    "PageCache",
    "Peek",
    "PeekResult",
    "Permissions",
    "Readahead",
    "ThreadsDriver",
    "UringDriver",
    "choose_driver",
]
