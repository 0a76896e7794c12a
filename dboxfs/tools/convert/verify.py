"""Compares a destination with its source as a whole; both are read again.

For each mailbox: guid, uidvalidity, next uid, highest modseq, uids, flags, keywords, modseqs; for each
message its bytes as a reader gets them (decompressed, attachments put back), received and saved dates and
the metadata that are kept.  A message that was left out is not compared.  One that the source itself can't
show (damaged, encrypted) is compared as it is stored.  If even that can't be read, it is reported and the
comparison goes on, since a repetition would not change it.

The kernel may serve these reads from its cache.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Container, Mapping
from hashlib import blake2b
from typing import TypeVar

from dboxfs.dbox import Metadata
from dboxfs.errors import DboxfsError, FormatError
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.store import Store
from dboxfs.store.write.results import side_by_side
from dboxfs.tools.convert.errors import VerifyFailed
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot
from dboxfs.tools.convert.source import reason

T = TypeVar("T")

_AT_ONCE = 16
_PIECE = 1 << 20
_KEPT_LINES = (b"G", b"R", b"V", b"P", b"O")


async def verify(
    source: Store,
    made: Store,
    portraits: Mapping[str, MailboxSnapshot],
    left_out: Container[tuple[str, int]],
    count: Callable[[int, int], None],
    tell: Callable[[str], None],
) -> None:
    """Compare *made* with *source*.

    :param portraits: of the mailboxes that were carried over.
    :param left_out: mailbox and uid of messages that were not carried over.
    :param count: called with the number of messages that were compared, and of their bytes.
    :param tell: called with a line for each message of the source that can't be read for the comparison.
    :raises VerifyFailed: at the first difference.
    """
    names, expected = ({name for name in store.folders if name} for store in (made, source))
    boxes = {name for name in names if _box(made, name) is not None}
    different = (names ^ expected) | (portraits.keys() - boxes)
    if different:
        shown = source.location.display_name(min(different))
        raise VerifyFailed(f"{shown}: a mailbox that only one of both has")
    try:
        subscribed = await source.subscribed()
    except OSError:  # the conversion has left them out and reported it
        subscribed = frozenset()
    if subscribed != await made.subscribed():
        raise VerifyFailed("the subscriptions differ")
    origins = _Origins()
    for name, portrait in portraits.items():
        here, there = _box(source, name), _box(made, name)
        if here is None or there is None:
            shown = source.location.display_name(name)
            raise VerifyFailed(f"{shown}: the mailbox is gone")
        await _Comparison(portrait, here, there, left_out, tell, origins).run(count)
    origins.check()


def _box(store: Store, name: str) -> Mailbox | None:
    return store.folders[name].mailbox if name in store.folders else None


class _Origins:
    """The original mailboxes.  Copies with a record each may become one, which has that of one of them.

    In memory: 8 bytes a message, and those that are not what they were.
    """

    def __init__(self) -> None:
        self._had = array("Q")
        self._others: list[tuple[int, str]] = []

    def add(self, metadata: Metadata, made: Metadata, where: str) -> None:
        """Compare that of a message, now or when all are known."""
        was = metadata.orig_mailbox
        self._had.append(self._digest(metadata.guid, was))
        if was is not None and was != made.orig_mailbox:
            self._others.append((self._digest(metadata.guid, made.orig_mailbox), where))

    def check(self) -> None:
        """
        :raises VerifyFailed: a message has one that no copy of it had.
        """
        had = frozenset(self._had if self._others else ())
        for now, where in self._others:
            if now not in had:
                raise VerifyFailed(f"{where}the original mailbox differs")

    @staticmethod
    def _digest(guid: bytes | None, mailbox: bytes | None) -> int:
        """A message and a mailbox as 64 bits."""
        text = b"%r %r" % (guid, mailbox)
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class _Comparison:
    """One mailbox, in the source and in the destination."""

    def __init__(
        self,
        portrait: MailboxSnapshot,
        here: Mailbox,
        there: Mailbox,
        left_out: Container[tuple[str, int]],
        tell: Callable[[str], None],
        origins: _Origins,
    ) -> None:
        self._origins = origins
        self._portrait = portrait
        self._here = here
        self._there = there
        self._left_out = left_out
        self._tell = tell

    async def run(self, count: Callable[[int, int], None]) -> None:
        portrait, there = self._portrait, self._there
        for what, was, now in (
            ("guid", portrait.guid, there.guid),
            ("uidvalidity", portrait.uid_validity, there.uid_validity),
            ("next uid", portrait.next_uid, there.uid_next),
            ("highest modseq", portrait.highest_modseq, there.highest_modseq),
        ):
            if what != "uidvalidity" or was:  # a mailbox without one got a new one: readers need it
                self._same(what, was, now)
        kept = [uid for uid in portrait.uids.tolist() if (portrait.name, uid) not in self._left_out]
        self._same("uids", kept, there.uids.tolist())
        await self._there.scan()
        await self._here.scan()
        for first in range(0, len(kept), _AT_ONCE):
            sizes: list[int] = []

            async def one(_: int, uid: int, sizes: list[int] = sizes) -> None:
                sizes.append(await self._message(uid))

            await side_by_side(one, kept[first : first + _AT_ONCE])
            count(len(sizes), sum(sizes))

    def _same(self, what: str, was: object, now: object, uid: int | None = None) -> None:
        if was != now:
            where = f"uid {uid}: " if uid is not None else ""
            differ = "differ" if what.endswith("s") else "differs"
            raise VerifyFailed(f"{self._here.display_name}: {where}the {what} {differ}")

    async def _message(self, uid: int) -> int:
        """Compare one message; returns the number of bytes that were compared."""
        here, there = self._here, self._there
        self._same("flags", here.flags(uid), there.flags(uid), uid)
        self._same("keywords", here.keywords(uid), there.keywords(uid), uid)
        if self._portrait.modseqs is not None:
            self._same("modseq", here.modseq(uid), there.modseq(uid), uid)
        try:
            return await self._text(uid)
        except _SourceError:
            pass  # the source can't show the message: compare the stored bytes
        try:
            return await self._stored(uid)
        except _SourceError as exc:
            self._tell(f"{here.display_name}: uid {uid} could not be compared: {exc}")
            return 0

    async def _text(self, uid: int) -> int:
        """Dates, metadata and text, as readers get them."""
        here, there = self._here, self._there
        body = await _ours(here.open(uid))
        try:
            was, metadata = await _ours(here.facts_of(uid)), (await _ours(here.details(uid))).metadata
            if was.damaged:
                raise _SourceError("its dates can't be read")
            now, made = (
                await self._theirs(there.facts_of(uid), uid),
                await self._theirs(there.details(uid), uid),
            )
            other = await self._theirs(there.open(uid), uid)
            try:
                for offset in range(0, body.size, _PIECE):
                    piece = await _ours(body.read(_PIECE, offset))
                    self._same("text", piece, await self._theirs(other.read(_PIECE, offset), uid), uid)
                self._same("size", (was.size, body.size), (now.size, other.size), uid)
                self._same("received date", was.received, now.received, uid)
                self._same("saved date", was.saved, now.saved, uid)
            finally:
                other.close()
        finally:
            body.close()
        self._lines(metadata, made.metadata, uid)
        return body.size

    async def _stored(self, uid: int) -> int:
        """Metadata and text as they are stored: the source can't show the message."""
        was = await _ours(self._here.open_record(uid))
        try:
            now = await self._theirs(self._there.open_record(uid), uid)
            try:
                size = was.record.stored_size
                self._same("stored size", size, now.record.stored_size, uid)
                for offset in range(0, size, _PIECE):
                    count = min(_PIECE, size - offset)
                    piece = await _ours(was.handle.read(count, was.record.body_offset + offset))
                    other = now.handle.read(count, now.record.body_offset + offset)
                    self._same("stored text", piece, await self._theirs(other, uid), uid)
                self._lines(was.record.metadata, now.record.metadata, uid)
            finally:
                now.close()
        finally:
            was.close()
        return size

    def _lines(self, metadata: Metadata, made: Metadata, uid: int) -> None:
        added = {b"G"} if metadata.guid is None else set()
        try:
            _ = metadata.received
        except FormatError:
            added.add(b"R")
        for key in _KEPT_LINES:
            if key not in added:
                self._same(f"{key.decode()} line", metadata.get(key), made.get(key), uid)
        self._origins.add(metadata, made, f"{self._here.display_name}: uid {uid}: ")

    async def _theirs(self, read: Awaitable[T], uid: int) -> T:
        """Read from the destination.

        :raises VerifyFailed: the destination can't be read.
        """
        try:
            return await read
        except (DboxfsError, OSError) as exc:
            raise VerifyFailed(f"{self._here.display_name}: uid {uid}: {reason(exc)}") from exc


class _SourceError(Exception):
    """The source can't show a message; ``str()`` says why."""


async def _ours(read: Awaitable[T]) -> T:
    """Read from the source.

    :raises _SourceError: the source can't show the message.
    """
    try:
        return await read
    except (DboxfsError, OSError) as exc:
        raise _SourceError(reason(exc)) from exc
