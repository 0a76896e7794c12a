"""What staged files ask for, and the order in which they become messages.

A file asks for the uid that its attribute says; without one for the number of a name ``<uid>.eml``.  Those
whose uids can be given come first, in that order; the others follow in the order of their names.

Pure: nothing here looks at a store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dboxfs.store.names.of_mailbox import number_of
from dboxfs.store.write import NewMessage, Wanted
from dboxfs.vfs.draft import Draft


def asked_uid(draft: Draft) -> int | None:
    """The uid that a file asks for."""
    return draft.brought.uid if draft.brought.uid is not None else number_of(draft.name)


class StagedOrder(NamedTuple):
    """A staged file, as far as its place in the order depends on it.

    ``uid``: the one that it asks for, or 0; ``only_by_name``: its name says it, and no attribute.
    """

    uid: int
    only_by_name: bool
    name: bytes
    inode: int

    @classmethod
    def of(cls, draft: Draft) -> StagedOrder:
        return cls(asked_uid(draft) or 0, draft.brought.uid is None, draft.name, draft.inode)


def in_order(files: Iterable[StagedOrder], next_uid: int) -> list[tuple[StagedOrder, int | None]]:
    """Files in the order of their new uids, each with the uid that it asks for; None: it can't get that."""
    last, kept, others = next_uid - 1, list[tuple[StagedOrder, int | None]](), list[StagedOrder]()
    for some in sorted(files):
        if some.uid <= last:
            others.append(some)
        else:
            kept.append((some, some.uid))
            last = some.uid
    return kept + [(some, None) for some in others]


def new_message(draft: Draft, uid: int | None, wanted: Wanted | None) -> NewMessage:
    """The message that a staged file becomes, with what it brings."""
    brought = draft.brought
    return NewMessage(
        draft.source(),
        brought.received if brought.received is not None else draft.created,
        brought.flags,
        brought.keywords,
        uid=uid,
        saved=brought.saved,
        guid_text=brought.guid,
        orig_mailbox=brought.orig_mailbox,
        pop3_uidl=brought.pop3_uidl,
        wanted=wanted,
    )
