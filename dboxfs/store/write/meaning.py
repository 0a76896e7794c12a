"""The mailbox, and the message, that a caller means by a name, checked under the lock of the mailbox.

A mailbox may be deleted and made again under its name before the mount notices.  A program's change is meant
for the messages that it has seen, never for messages with the same uids in another mailbox.  So the mount
says for each change which mailbox it means::

    with meaning((folder.name, box.guid)):
        await writer.replace_flags(folder.name, uid, flags, keywords)

and :meth:`~dboxfs.store.write.session.Work.mailbox` raises :class:`~dboxfs.errors.NoSuchMailbox` if another
mailbox has the name.  A caller that says nothing (a conversion, the maintenance) means any mailbox with that
name.

Another mount may give a message another name before this mount notices.  A request that names a message
(unlink, rename) is about the one that has the name, so the mount says which name it means (:func:`called`),
and :meth:`~dboxfs.store.write.session.Work.mailbox` raises :class:`~dboxfs.store.write_errors.Superseded` if
the message has another one.

The meaning holds for the task, and for the tasks that it starts meanwhile.  A request of a group commit
carries its own meaning, also the meaning "any"; requests that contradict each other form no group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from msgspec import Struct

from dboxfs.store.folder import Folder


class Called(Struct, frozen=True):
    """Message *uid* of a mailbox (storage name), which a program has named *name*."""

    mailbox: str
    uid: int
    name: bytes


_MEANT: ContextVar[Mapping[str, bytes]] = ContextVar("meant", default={})  # noqa: B039 - never changed
_CALLED: ContextVar[Called | None] = ContextVar("called", default=None)


def meant() -> Mapping[str, bytes]:
    """The guids of the mailboxes that the caller means, by storage name."""
    return _MEANT.get()


@contextmanager
def meaning(*mailboxes: tuple[str, bytes | None]) -> Iterator[None]:
    """Inside this context a storage name in *mailboxes* means the mailbox with that guid (None: any); every
    other name means any mailbox, and the change depends on no message's name.
    """
    tokens = _MEANT.set({name: guid for name, guid in mailboxes if guid is not None}), _CALLED.set(None)
    try:
        yield
    finally:
        _MEANT.reset(tokens[0])
        _CALLED.reset(tokens[1])


def called_message() -> Called | None:
    """The message whose name the caller's change depends on; None: it depends on no name."""
    return _CALLED.get()


@contextmanager
def called(folder: Folder, uid: int, name: bytes) -> Iterator[None]:
    """Inside this context a change in the mailbox of *folder* is only made while message *uid* of it is
    called *name*, or gone.
    """
    token = _CALLED.set(Called(folder.name, uid, name))
    try:
        yield
    finally:
        _CALLED.reset(token)


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
