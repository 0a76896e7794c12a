"""The effect of log records on a table (mail-index-log sections 3 to 6): ``transactions`` goes through a log,
``messages``, ``keywords`` and ``extensions`` apply one record each, ``context`` has the parts that they
share.
"""

from dboxfs.index.replay.transactions import collect_pending as collect_pending
from dboxfs.index.replay.transactions import replay as replay
