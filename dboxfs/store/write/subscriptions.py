"""Changing the file ``subscriptions`` (mailbox-layout section 9, PROTOCOL section 9).

The writer puts the whole new content into ``subscriptions.lock``, whose existence is the lock, and renames it
over the file.  An existing file keeps its version; a new one gets version 2.
"""

from __future__ import annotations

import os
import re

from dboxfs.fsapi import ops
from dboxfs.store.indexes.locks import SUBSCRIPTIONS_STALE, take_exclusive
from dboxfs.store.write.session import Work

_VERSION_2 = b"V\t2\n"
_ESCAPES = {b"\x01": b"\x011", b"\t": b"\x01t", b"\r": b"\x01r", b"\n": b"\x01n", b"\0": b"\x010"}


def changed_subscriptions(data: bytes | None, name: str, *, subscribed: bool) -> bytes | None:
    """The file's new content; None if it has to be no other."""
    version_2 = data is None or not data or data.startswith(_VERSION_2)
    if version_2:
        line = b"\t".join(_escape(os.fsencode(part)) for part in name.split("/"))
    else:
        line = os.fsencode(name)
    lines = (data or b"").removeprefix(_VERSION_2).split(b"\n")
    found = [old for old in lines if old]
    if (line in found) == subscribed:
        return None
    wanted = [*found, line] if subscribed else [old for old in found if old != line]
    head = _VERSION_2 + b"\n" if version_2 else b""
    return head + b"".join(old + b"\n" for old in wanted)


def _escape(part: bytes) -> bytes:
    return re.sub(rb"[\x01\t\r\n\0]", lambda match: _ESCAPES[match[0]], part)


async def subscribe(work: Work, name: str, *, subscribed: bool) -> bool:
    """Subscribe to a mailbox, or unsubscribe; False: it was so already.

    :raises StoreBusy: another program is changing the file.
    """
    disk = work.disk
    path, name = work.location.subscriptions_path, work.location.subscribed_as + name
    lock = await take_exclusive(disk, path + ".lock", SUBSCRIPTIONS_STALE)
    try:
        data = changed_subscriptions(await disk.read_whole(path), name, subscribed=subscribed)
        if data is None:
            return False
        await lock.append(data)
        await lock.sync()
        await disk.run(ops.Rename(lock.path, path))
        await disk.sync_dir(os.path.dirname(path))
        return True
    finally:
        await lock.close()
        await disk.discard([path + ".lock"])
