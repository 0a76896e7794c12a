"""``dboxfs check``: compares everything in a store with everything else, and writes nothing.

* :mod:`~dboxfs.tools.check.check`: the whole check, in its order,
* :mod:`~dboxfs.tools.check.findings`: the reported problems,
* :mod:`~dboxfs.tools.check.advice`: the advice in a finding,
* :mod:`~dboxfs.tools.check.tree`: the directories of the mailboxes,
* :mod:`~dboxfs.tools.check.indexes`: one index, of a mailbox or the map,
* :mod:`~dboxfs.tools.check.check_sdbox`: the ``u.N`` files of a mailbox,
* :mod:`~dboxfs.tools.check.check_mdbox`: the ``m.N`` files and the map,
* :mod:`~dboxfs.tools.check.readable`: whether a reader would show a message,
* :mod:`~dboxfs.tools.check.owners`: which mailboxes have a message of the storage,
* :mod:`~dboxfs.tools.check.references`: mailboxes against the map,
* :mod:`~dboxfs.tools.check.broken`: copies of damaged files that Dovecot kept,
* :mod:`~dboxfs.tools.check.leftovers`: files that are no longer needed.
"""

from dboxfs.tools.check.check import Checked, CheckOptions, check_store
from dboxfs.tools.check.findings import Finding, Severity

__all__ = ["CheckOptions", "Checked", "Finding", "Severity", "check_store"]
