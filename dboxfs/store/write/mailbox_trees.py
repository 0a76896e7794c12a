"""The directory trees in which a mailbox may have a directory, and the folder above a mailbox.

The caller holds ``mailboxes.lock``.
"""

from __future__ import annotations

import os
from collections.abc import Container

from dboxfs.errors import NoSuchMailbox
from dboxfs.store.disk import Disk
from dboxfs.store.location import Location
from dboxfs.store.write.removing import was_empty
from dboxfs.store.write.session import Work


def trees(location: Location) -> list[str]:
    """The trees; the first one decides whether a mailbox exists."""
    roots = (location.root, location.alt, location.control, location.index)
    found = dict.fromkeys(root for root in roots if root is not None)
    return [os.path.join(root, location.mailbox_dir) for root in found]


async def check_parent(work: Work, name: str, nodes: Container[str] | None) -> None:
    """Check that the folder above mailbox *name* is there.

    :param nodes: the names in the list index, with LAYOUT=index; None: with another layout.
    :raises NoSuchMailbox: another program has renamed or removed it.
    """
    above = os.path.dirname(name)
    if above in ("", "INBOX"):  # which stay
        return
    if nodes is not None:
        is_there = above in nodes
    else:
        there = [await work.disk.exists(os.path.join(tree, above)) for tree in trees(work.location)]
        is_there = any(there)
    if not is_there:
        raise NoSuchMailbox(f"{work.shown(above)}: no such mailbox")


async def remove_empty_parents(disk: Disk, tree: str, name: str) -> None:
    """Remove the directories above mailbox *name* in *tree* that have become empty."""
    parent = os.path.dirname(name)
    while parent and await was_empty(disk, os.path.join(tree, parent)):
        parent = os.path.dirname(parent)
