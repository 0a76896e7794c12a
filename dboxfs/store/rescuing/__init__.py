"""``dboxfs rescue``: a store made anew from the dbox files of a damaged one, which is only read.

* :mod:`~dboxfs.store.rescuing.rescue`: the whole way,
* :mod:`~dboxfs.store.rescuing.events`: what it reports,
* :mod:`~dboxfs.store.rescuing.loose`: the files of no store,
* :mod:`~dboxfs.store.rescuing.knowledge`: what the indexes still know,
* :mod:`~dboxfs.store.rescuing.table`: every message that the files have, in a few bytes each,
* :mod:`~dboxfs.store.rescuing.harvest`: the files, read,
* :mod:`~dboxfs.store.rescuing.assign`: which message belongs where,
* :mod:`~dboxfs.store.rescuing.texts`: the text of a message, to be saved
  (:mod:`~dboxfs.store.rescuing.packing`, :mod:`~dboxfs.store.rescuing.guarded`),
* :mod:`~dboxfs.store.rescuing.plant`: the new store, written.
"""

from dboxfs.store.rescuing.events import LOSSES, Event, Rescued
from dboxfs.store.rescuing.loose import find_source
from dboxfs.store.rescuing.rescue import DAMAGED_MAILBOX, Progress, RescueOptions, rescue_store

__all__ = [
    "DAMAGED_MAILBOX",
    "LOSSES",
    "Event",
    "Progress",
    "RescueOptions",
    "Rescued",
    "find_source",
    "rescue_store",
]
