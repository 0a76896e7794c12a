"""``dboxfs rescue``: a store made anew from the dbox files of a damaged one, which is only read.

* :mod:`~dboxfs.tools.rescue.rescue`: the whole way,
* :mod:`~dboxfs.tools.rescue.events`: what it reports,
* :mod:`~dboxfs.tools.rescue.loose`: the files of no store,
* :mod:`~dboxfs.tools.rescue.index_facts`: what the indexes still know,
* :mod:`~dboxfs.tools.rescue.rows`: every message that the files have, in a few bytes each,
* :mod:`~dboxfs.tools.rescue.scan_files`: the files, read,
* :mod:`~dboxfs.tools.rescue.place`: which message belongs where,
* :mod:`~dboxfs.tools.rescue.sources`: the text of a message, to be saved
  (:mod:`~dboxfs.tools.packing`, :mod:`~dboxfs.tools.guarded`),
* :mod:`~dboxfs.tools.rescue.write_store`: the new store, written.
"""

from dboxfs.tools.rescue.events import LOSSES, Event, Rescued
from dboxfs.tools.rescue.loose import find_source
from dboxfs.tools.rescue.rescue import DAMAGED_MAILBOX, Progress, RescueOptions, rescue_store

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
