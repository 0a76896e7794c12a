"""dbox files that may be damaged, read from end to end: what ``check`` and ``rescue`` share.

* :mod:`~dboxfs.store.salvage.window`: the bytes of one file, in bounded memory,
* :mod:`~dboxfs.store.salvage.measure`: the text of one message, counted,
* :mod:`~dboxfs.store.salvage.trailer`: metadata blocks, damaged ones too,
* :mod:`~dboxfs.store.salvage.scan`: every message of a file, and what is between them,
* :mod:`~dboxfs.store.salvage.landmarks`, :mod:`~dboxfs.store.salvage.search`,
  :mod:`~dboxfs.store.salvage.boundaries`: format 2, where a damaged record ends;
  :mod:`~dboxfs.store.salvage.pairs`: the same for format 3,
* :mod:`~dboxfs.store.salvage.effort`: how much work may be spent on guesses.

Nothing here writes, and nothing takes a lock.
"""

from dboxfs.store.salvage.found import Found, Gap, MapPlace, Trust
from dboxfs.store.salvage.measure import Measured
from dboxfs.store.salvage.scan import scan_file
from dboxfs.store.salvage.window import Window, open_window

__all__ = ["Found", "Gap", "MapPlace", "Measured", "Trust", "Window", "open_window", "scan_file"]
