"""Fills a store with messages, many in one transaction; ``import`` and ``rescue`` write with it.

A :class:`Filling` collects messages for one mailbox and saves them together (``StoreWriter.save``): a crash
leaves all messages of a transaction, or none.  They are saved in the order in which they were added, so that
ascending uids are kept.  Copies of messages that the store has already are collected in the same way and made
without their bytes.

If a text can't be read any more (:class:`~dboxfs.tools.guarded.TextLost`), only its own message is lost: the
others of its transaction are saved without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from msgspec import Struct, field

from dboxfs.store.write import CopyAs, MailboxExists, NewMessage, StoreWriter
from dboxfs.store.write.record import check_text
from dboxfs.tools.guarded import TextLost

T = TypeVar("T")

MOST_MESSAGES = 500
MOST_BYTES = 4 << 20
_KEYWORD = re.compile(r"[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]{1,255}")


def sorted_out(words: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The *words* that Dovecot accepts as keywords, in their order; and the others, sorted."""
    good = tuple(word for word in words if _KEYWORD.fullmatch(word))
    return good, tuple(sorted(set(words) - set(good)))


def line_text(text: bytes | None) -> bytes | None:
    """*text* (a UIDL, the name of a mailbox), or None if it is empty or no line of metadata can hold it."""
    try:
        check_text(text or b"")
    except ValueError:
        return None
    return text or None


async def make_mailbox(writer: StoreWriter, name: str, guid: bytes | None = None) -> bool:
    """Make a mailbox; False: it exists already.

    :param guid: of a mailbox with LAYOUT=index, which keeps the one that it is made with; None: a new one.
    :raises InvalidName: the store can't have a mailbox with this name.
    """
    try:
        await writer.create_mailbox(name, guid=guid)
    except MailboxExists:
        return False
    return True


class _Copies(Struct, Generic[T]):
    """Copies that wait: of messages of mailbox ``source``, ascending by uid."""

    source: str = ""
    uids: list[int] = field(default_factory=list)
    like: dict[int, CopyAs] = field(default_factory=dict)
    tags: list[T] = field(default_factory=list)


class Filling(Generic[T]):
    """Collects messages for mailbox *name* and saves many in one transaction.  For one task at a time.

    :param saved: called for each message that is in the store: its tag, its uid, and whether it is a copy.
    :param lost: called for each message whose text could not be read: its tag, and why.
    :param flushed: called when the texts of the waiting messages are no longer needed.
    """

    def __init__(
        self,
        writer: StoreWriter,
        name: str,
        saved: Callable[[T, int, bool], None],
        lost: Callable[[T, str], None],
        flushed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._writer = writer
        self._saved = saved
        self._lost = lost
        self._flushed = flushed
        self._tags: list[T] = []
        self._numbers: list[int] = []
        self._messages: list[NewMessage] = []
        self._size = 0
        self._copies: _Copies[T] = _Copies()

    @property
    def tags(self) -> list[T]:
        """The tags of the messages that wait."""
        return self._tags

    async def add(self, tag: T, number: int, message: NewMessage, size: int) -> None:
        """Take a message, and save all that wait if they are many.

        :param number: the number of its :class:`~dboxfs.tools.guarded.Guarded` text.
        :param size: bytes of the message that are in memory.
        """
        await self._flush_copies()
        self._tags.append(tag)
        self._numbers.append(number)
        self._messages.append(message)
        self._size += size
        if len(self._messages) >= MOST_MESSAGES or self._size >= MOST_BYTES:
            await self.flush()

    async def copy(self, tag: T, source: str, uid: int, like: CopyAs) -> None:
        """Take a copy of message *uid* of mailbox *source*."""
        await self._flush_messages()
        waiting = self._copies
        if waiting.uids and (waiting.source != source or uid <= waiting.uids[-1]):
            await self._flush_copies()
            waiting = self._copies
        waiting.source = source
        waiting.uids.append(uid)
        waiting.like[uid] = like
        waiting.tags.append(tag)
        if len(waiting.uids) >= MOST_MESSAGES:
            await self._flush_copies()

    async def flush(self) -> None:
        """Save the messages and copies that wait.

        :raises OSError, DboxfsError: the store can't be written; none of them was saved.
        """
        await self._flush_copies()
        await self._flush_messages()

    async def _flush_messages(self) -> None:
        while self._messages:
            try:
                saved = await self._writer.save(self.name, self._messages)
            except TextLost as exc:
                at = self._numbers.index(exc.number)
                self._lost(self._tags[at], exc.reason)
                del self._tags[at], self._numbers[at], self._messages[at]
                continue
            tags, self._tags, self._numbers, self._messages, self._size = self._tags, [], [], [], 0
            for tag, uid in zip(tags, saved.uids, strict=True):
                self._saved(tag, uid, False)
            self._flushed()

    async def _flush_copies(self) -> None:
        waiting, self._copies = self._copies, _Copies()
        if not waiting.uids:
            return
        copied = await self._writer.copy(waiting.source, waiting.uids, self.name, like=waiting.like)
        for tag, uid in zip(waiting.tags, copied.uids, strict=True):
            self._saved(tag, uid, True)
