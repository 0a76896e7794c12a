"""``dboxfs import``: copies a copied tree, Maildir or mbox into a store.

* :mod:`~dboxfs.tools.importing.importer`: the whole import; ``filled``: one mailbox,
* :mod:`~dboxfs.tools.importing.guids`: which messages the store has already,
* :mod:`~dboxfs.tools.importing.source`: the protocol of the sources ``maildir``, ``mbox`` and ``tree``,
* :mod:`~dboxfs.tools.importing.detect`: the format of SOURCE,
* :mod:`~dboxfs.tools.importing.verify`: compares the store with the source.
"""

from dboxfs.tools.importing.detect import KINDS, find_source
from dboxfs.tools.importing.errors import NoSource
from dboxfs.tools.importing.importer import Importer
from dboxfs.tools.importing.new_store import is_begun, make_store
from dboxfs.tools.importing.results import Imported, ImportProgress

__all__ = [
    "KINDS",
    "ImportProgress",
    "Imported",
    "Importer",
    "NoSource",
    "find_source",
    "is_begun",
    "make_store",
]
