"""``dboxfs rescue``: makes a new store from the dbox files of a damaged one, which it only reads.

* :mod:`~dboxfs.tools.rescue.rescue`: the whole rescue, step by step,
* :mod:`~dboxfs.tools.rescue.events`: its reports,
* :mod:`~dboxfs.tools.rescue.loose`: message files without a store,
* :mod:`~dboxfs.tools.rescue.index_facts`: the facts that the indexes still have,
* :mod:`~dboxfs.tools.rescue.rows`: the table of all messages, in a few bytes each,
* :mod:`~dboxfs.tools.rescue.scan_files`: reads the files,
* :mod:`~dboxfs.tools.rescue.place`: finds the mailbox of each message,
* :mod:`~dboxfs.tools.rescue.sources`: the text of a message, to be saved
  (:mod:`~dboxfs.tools.packing`, :mod:`~dboxfs.tools.guarded`),
* :mod:`~dboxfs.tools.rescue.write_store`: writes the new store.
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
