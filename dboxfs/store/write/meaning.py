"""Which mailbox a caller means by a name: looked at under the lock of the mailbox.

A mailbox may be deleted and made again under its name before a mount has heard of it.  What a program does
with the messages that it has seen is about the mailbox that it has seen, never about those of the same
numbers in another one.  So a mount says what it means, around each change::

    with meaning((folder.name, box.guid)):
        await writer.replace_flags(folder.name, uid, flags, keywords)

and :meth:`~dboxfs.store.write.session.Work.mailbox` raises :class:`~dboxfs.errors.NoSuchMailbox` where
another one has the name.  Who says nothing (a conversion, the maintenance) means whatever is called so.

What is said holds for the task, and for the tasks that it starts meanwhile.  Requests of a group commit bring
theirs along, also that they mean any: those that contradict each other are no group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_MEANT: ContextVar[Mapping[str, bytes]] = ContextVar("meant", default={})  # noqa: B039 - never changed


def meant() -> Mapping[str, bytes]:
    """The guids of the mailboxes that the caller means, by storage name."""
    return _MEANT.get()


@contextmanager
def meaning(*mailboxes: tuple[str, bytes | None]) -> Iterator[None]:
    """Inside of this the storage name of each mailbox stands for the one with that guid (None: for any), and
    every other name for whatever is called so.
    """
    token = _MEANT.set({name: guid for name, guid in mailboxes if guid is not None})
    try:
        yield
    finally:
        _MEANT.reset(token)


def contradict(one: Mapping[str, bytes | None], other: Mapping[str, bytes | None]) -> bool:
    """Whether a name stands for different mailboxes in both; None: for any."""
    return any(other.get(name, guid) != guid for name, guid in one.items())
