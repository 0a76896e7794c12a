"""``dboxfs check``: everything in a store compared with everything else, and nothing written.

* :mod:`~dboxfs.store.checking.check`: the whole check, in its order,
* :mod:`~dboxfs.store.checking.findings`: what it reports,
* :mod:`~dboxfs.store.checking.advice`: what it advises,
* :mod:`~dboxfs.store.checking.tree`: the directories of the mailboxes,
* :mod:`~dboxfs.store.checking.indexes`: one index, of a mailbox or the map,
* :mod:`~dboxfs.store.checking.singles`: the ``u.N`` files of a mailbox,
* :mod:`~dboxfs.store.checking.storage`: the ``m.N`` files and the map,
* :mod:`~dboxfs.store.checking.readable`: whether a reader would show a message,
* :mod:`~dboxfs.store.checking.owners`: which mailboxes have a message of the storage,
* :mod:`~dboxfs.store.checking.references`: mailboxes against the map,
* :mod:`~dboxfs.store.checking.broken`: what Dovecot kept of damaged files,
* :mod:`~dboxfs.store.checking.leftovers`: files that nobody needs any more.
"""

from dboxfs.store.checking.check import Checked, CheckOptions, check_store
from dboxfs.store.checking.findings import Finding, Severity

__all__ = ["CheckOptions", "Checked", "Finding", "Severity", "check_store"]
