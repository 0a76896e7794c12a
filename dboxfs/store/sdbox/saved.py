"""Saved dates of messages that are put back into an sdbox: a cache file where the mailbox has none.

An sdbox has two places for the date when a message was saved: the ctime of ``u.N``, which no process can set,
and Dovecot's cache file (``date.save``).  That file is Dovecot's: the writer makes it only where there is
none, and only while it holds the lock of the mailbox's log.  Dovecot holds that lock too when it makes the
file.  The index says whether a cache file is in use (the reset_id of its extension ``cache``): a cache file
that no index refers to was left by a crash between the two steps, and is replaced::

    1  dovecot.index.cache with the dates, under its name   no index refers to it: Dovecot does not use it
    2  the transaction with the messages, the extension     messages and dates are there
       ``cache``, and the offset of each date

If the mailbox has a cache file already, the dates are lost: readers then see when the messages came.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dboxfs.index import payload
from dboxfs.index.cachefile import encode_saved_dates
from dboxfs.index.log import RecordType, encode_record
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write.results import now_seconds

CACHE = "dovecot.index.cache"
_WIDTH = 4


async def keep_saved_dates(index: IndexLog, dates: Sequence[tuple[int, int]]) -> list[bytes]:
    """Make a cache file for messages that will come with the next transaction of a locked mailbox.

    :param dates: uid, ascending, and seconds since the epoch, of each message that brings its date.
    :return: further records for that transaction; empty: there is a cache file, and the dates are lost.
    :raises OSError: it can't be written.
    """
    if not dates or any(extension.name == "cache" for extension in index.state.extensions):
        return []
    seq = now_seconds()
    saved = np.array([when for _, when in dates], np.uint32)
    data, offsets = encode_saved_dates(saved, indexid=index.state.indexid, file_seq=seq)
    disk = index.file.disk
    await disk.replace(os.path.join(index.directory, CACHE), data)
    intro = payload.ext_intro("cache", reset_id=seq, record_size=_WIDTH, record_align=_WIDTH)
    places = zip((uid for uid, _ in dates), offsets.tolist(), strict=True)
    records = payload.ext_rec_update((uid, at.to_bytes(_WIDTH, "little")) for uid, at in places)
    return [
        encode_record(RecordType.EXT_INTRO, intro, external=True),
        encode_record(RecordType.EXT_REC_UPDATE, records, external=True),
    ]
