"""Temporary files of a save whose mailbox another program has renamed meanwhile.

They lie in the directory that the mailbox has now, under the name that they were made with, which no other
file has.  The directory is looked for in the whole tree: this happens only after a save that has failed so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dboxfs.store.tree import scan_tree
from dboxfs.store.write.session import Work


async def discard_moved(work: Work, temporaries: Sequence[str]) -> None:
    """Remove temporary files that are not in their place, wherever their mailbox is by now.  Never fails."""
    names = [os.path.basename(path) for path in temporaries]
    tree = await scan_tree(work.fs, work.location, lambda _: None)
    boxes = [work.location.mailbox_path(item.name) for item in tree.walk() if item.selectable]
    await work.disk.discard([os.path.join(box, name) for box in boxes for name in names])
