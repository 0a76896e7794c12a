"""Recognizes a destination that is the wanted conversion already: the process was killed after its last step.

The journal is gone then, and no file says how the directory was made.  So both stores are compared by
mailboxes, guids, uidvalidities, next uids, uids, flags and keywords.  Messages that are missing in the
destination were left out.  A store that was used since, or has another source, differs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem
from dboxfs.index.columns import UidArray
from dboxfs.store.dbox_version import recorded_version
from dboxfs.store.location import Kind, Location
from dboxfs.store.opening import open_store
from dboxfs.store.store import Store
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot, take_portrait

Missing = dict[str, list[int]]
"""By storage name: uids that the destination does not have."""


async def finished(
    fs: FileSystem, root: str, kind: Kind, version: int, portraits: Mapping[str, MailboxSnapshot]
) -> Missing | None:
    """The messages that the finished conversion in *root* left out; None: *root* holds no such conversion.

    :param portraits: of all mailboxes of the source that can be read.
    """
    location = Location(kind, root)
    try:
        if await recorded_version(fs, location) != version:
            return None
        await fs.stat(location.tree)
        if kind is Kind.MDBOX:
            await fs.stat(location.storage)
        async with open_store(fs, location, follow=False) as made:
            return _compare(made, portraits)
    except (DboxfsError, OSError):
        return None


def _compare(made: Store, portraits: Mapping[str, MailboxSnapshot]) -> Missing | None:
    there = {
        name: take_portrait(name, folder.mailbox.state)
        for name, folder in made.folders.items()
        if folder.mailbox is not None and folder.mailbox.state is not None
    }
    if not there or there.keys() != portraits.keys():
        return None
    missing: Missing = {}
    for name, portrait in portraits.items():
        other = there[name]
        if not np.isin(other.uids, portrait.uids).all():
            return None
        if _part(portrait, other.uids).fingerprint != _part(other, other.uids).fingerprint:
            return None
        left_out = np.setdiff1d(portrait.uids, other.uids, assume_unique=True)
        if len(left_out):
            missing[name] = left_out.tolist()
    return missing


def _part(portrait: MailboxSnapshot, uids: UidArray) -> MailboxSnapshot:
    """*portrait* with these messages only, and without the columns that only an mdbox has."""
    rows = np.flatnonzero(np.isin(portrait.uids, uids))
    return replace(
        portrait,
        uids=portrait.uids[rows],
        flags=portrait.flags[rows],
        keywords=portrait.keywords[rows] if portrait.keywords is not None else None,
        modseqs=None,
        map_uids=None,
        save_dates=None,
        guids=None,
    )
