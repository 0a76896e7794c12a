"""``dboxfs export``: writes a store as Maildir, mbox or plain files.

* :mod:`~dboxfs.tools.exporting.exporter`: the whole export, and what a crash after each step leaves,
* :mod:`~dboxfs.tools.exporting.formats`: the protocol of the formats ``maildir``, ``mbox`` and ``eml``.
"""

from dboxfs.tools.exporting.eml import EmlFormat
from dboxfs.tools.exporting.errors import NoPlace, TargetTaken
from dboxfs.tools.exporting.exporter import Exporter
from dboxfs.tools.exporting.formats import Format
from dboxfs.tools.exporting.maildir import MaildirFormat
from dboxfs.tools.exporting.mbox import MboxFormat, needs_directories
from dboxfs.tools.exporting.results import Exported, ExportProgress

__all__ = [
    "EmlFormat",
    "ExportProgress",
    "Exported",
    "Exporter",
    "Format",
    "MaildirFormat",
    "MboxFormat",
    "NoPlace",
    "TargetTaken",
    "needs_directories",
]
