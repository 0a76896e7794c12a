"""The mailbox that a caller means by a name, checked under the lock of the mailbox.

A mailbox may be deleted and made again under its name before the mount notices.  A program's change is meant
for the messages that it has seen, never for messages with the same uids in another mailbox.  So the mount
says for each change which mailbox it means::

    with meaning((folder.name, box.guid)):
        await writer.replace_flags(folder.name, uid, flags, keywords)

and :meth:`~dboxfs.store.write.session.Work.mailbox` raises :class:`~dboxfs.errors.NoSuchMailbox` if another
mailbox has the name.  A caller that says nothing (a conversion, the maintenance) means any mailbox with that
name.

The meaning holds for the task, and for the tasks that it starts meanwhile.  A request of a group commit
carries its own meaning, also the meaning "any"; requests that contradict each other form no group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from dboxfs.store.folder import Folder

_MEANT: ContextVar[Mapping[str, bytes]] = ContextVar("meant", default={})  # noqa: B039 - never changed


def meant() -> Mapping[str, bytes]:
    """The guids of the mailboxes that the caller means, by storage name."""
    return _MEANT.get()


@contextmanager
def meaning(*mailboxes: tuple[str, bytes | None]) -> Iterator[None]:
    """Inside this context a storage name in *mailboxes* means the mailbox with that guid (None: any); every
    other name means any mailbox.
    """
    token = _MEANT.set({name: guid for name, guid in mailboxes if guid is not None})
    try:
        yield
    finally:
        _MEANT.reset(token)


def contradict(one: Mapping[str, bytes | None], other: Mapping[str, bytes | None]) -> bool:
    """Whether a name means different mailboxes in both (None: any, which differs from a guid)."""
    return any(other.get(name, guid) != guid for name, guid in one.items())


def as_seen(*folders: Folder) -> AbstractContextManager[None]:
    """Changes inside apply to the mailboxes that these folders have now.

    If another mailbox has got such a name before the change is made, the change raises
    :class:`~dboxfs.errors.NoSuchMailbox`.
    """
    boxes = ((folder.name, folder.mailbox) for folder in folders)
    return meaning(*((name, box.guid) for name, box in boxes if box is not None))
