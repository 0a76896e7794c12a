"""Read dbox files that may be damaged from end to end; used by ``check`` and ``rescue``.

* :mod:`~dboxfs.store.salvage.window`: the bytes of one file, in bounded memory,
* :mod:`~dboxfs.store.salvage.measure`: the text of one message, counted,
* :mod:`~dboxfs.store.salvage.trailer`: metadata blocks, damaged ones too,
* :mod:`~dboxfs.store.salvage.scan`: every message of a file, and the bytes between them,
* :mod:`~dboxfs.store.salvage.landmarks`, :mod:`~dboxfs.store.salvage.search`,
  :mod:`~dboxfs.store.salvage.boundaries`: for format 2, the end of a damaged record;
  :mod:`~dboxfs.store.salvage.pairs`: the same for format 3,
* :mod:`~dboxfs.store.salvage.effort`: how much work may be spent on guesses.

This package writes nothing and takes no lock.
"""

from dboxfs.store.salvage.found import Found, Gap, MapPlace, Trust
from dboxfs.store.salvage.measure import Measured
from dboxfs.store.salvage.scan import scan_file
from dboxfs.store.salvage.window import Window, open_window

__all__ = ["Found", "Gap", "MapPlace", "Measured", "Trust", "Window", "open_window", "scan_file"]
