"""Binds a change to the mailboxes that its request has seen, not to their names."""

from __future__ import annotations

from contextlib import AbstractContextManager

from dboxfs.store import Folder
from dboxfs.store.write import meaning


def as_seen(*folders: Folder) -> AbstractContextManager[None]:
    """Changes inside apply to the mailboxes that these folders have now.

    If another mailbox has got such a name before the change is made, the change raises
    :class:`~dboxfs.errors.NoSuchMailbox` (:mod:`dboxfs.store.write.meaning`).
    """
    boxes = ((folder.name, folder.mailbox) for folder in folders)
    return meaning(*((name, box.guid) for name, box in boxes if box is not None))
