"""Records the names of many durable messages of one mailbox, with few syncs.

A name that can't be recorded is logged, and its message is ``<uid>.eml``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from dboxfs.errors import DboxfsError
from dboxfs.store import Folder, Store
from dboxfs.store.names.files import NameFiles
from dboxfs.store.write import Wanted
from dboxfs.store.write.results import side_by_side

log = logging.getLogger(__name__)

TOGETHER = 1000
"""Names that are recorded with one sync, at most."""


async def keep_names(
    store: Store, files: NameFiles, folder: Folder, names: Sequence[tuple[int, Wanted]]
) -> None:
    """Record the names of messages of *folder*: pairs of uid and announced name."""
    todo = [one for one in names if not one[1].confirmed] or names[-1:]
    for at in range(0, len(todo), TOGETHER):
        some = todo[at : at + TOGETHER]
        await side_by_side(partial(_keep, store, files, folder), some)


async def _keep(store: Store, files: NameFiles, folder: Folder, _: int, named: tuple[int, Wanted]) -> None:
    uid, wanted = named
    try:
        await files.confirm(folder, uid, wanted)
    except (OSError, DboxfsError) as exc:
        log.error("%s: the name of uid %d can't be kept: %s", store.display_name(folder), uid, exc)
