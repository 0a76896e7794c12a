"""Comparing a destination with its source, all of it: what both show, read again from the disk.

For each mailbox: guid, uidvalidity, next uid, highest modseq, uids, flags, keywords, modseqs; for each
message its bytes as a reader gets them (decompressed, attachments put back), received and saved dates and
the metadata that are kept.  A message that could not be carried over is known to be missing and is not
looked for.

What is read again may come from the kernel's cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping

from dboxfs.dbox import Metadata
from dboxfs.errors import DboxfsError, EncryptedMessage
from dboxfs.store.converting.errors import VerifyFailed
from dboxfs.store.converting.portrait import Portrait
from dboxfs.store.converting.source import reason
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.store import Store
from dboxfs.store.writing.outcome import side_by_side

_AT_ONCE = 16
_PIECE = 1 << 20
_KEPT_LINES = (b"G", b"R", b"V", b"P", b"O")


async def verify(
    source: Store,
    made: Store,
    portraits: Mapping[str, Portrait],
    left_out: Container[tuple[str, int]],
    count: Callable[[int, int], None],
) -> None:
    """Compare *made* with *source*.

    :param portraits: of the mailboxes that were carried over.
    :param left_out: mailbox and uid of messages that were not.
    :param count: told of messages that were compared, and their bytes.
    :raises VerifyFailed: with the first difference.
    """
    names, expected = ({name for name in store.folders if name} for store in (made, source))
    boxes = {name for name in names if _box(made, name) is not None}
    different = (names ^ expected) | (portraits.keys() - boxes)
    if different:
        raise VerifyFailed(f"{min(different)}: the mailbox is not as it was")
    try:
        subscribed = await source.subscribed()
    except OSError:  # they were left out, and that was told
        subscribed = frozenset()
    if subscribed != await made.subscribed():
        raise VerifyFailed("the subscriptions are not what they were")
    for name, portrait in portraits.items():
        here, there = _box(source, name), _box(made, name)
        if here is None or there is None:
            raise VerifyFailed(f"{name}: the mailbox is gone")
        await _Comparison(portrait, here, there, left_out).run(count)


def _box(store: Store, name: str) -> Mailbox | None:
    return store.folders[name].mailbox if name in store.folders else None


class _Comparison:
    """One mailbox, in the source and in the destination."""

    def __init__(
        self, portrait: Portrait, here: Mailbox, there: Mailbox, left_out: Container[tuple[str, int]]
    ) -> None:
        self._portrait = portrait
        self._here = here
        self._there = there
        self._left_out = left_out

    async def run(self, count: Callable[[int, int], None]) -> None:
        portrait, there = self._portrait, self._there
        for what, was, now in (
            ("guid", portrait.guid, there.guid),
            ("uidvalidity", portrait.uid_validity, there.uid_validity),
            ("next uid", portrait.next_uid, there.uid_next),
            ("highest modseq", portrait.highest_modseq, there.highest_modseq),
        ):
            self._same(what, was, now)
        kept = [uid for uid in portrait.uids.tolist() if (portrait.name, uid) not in self._left_out]
        self._same("list of uids", kept, there.uids.tolist())
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
            raise VerifyFailed(f"{self._here.display_name}: {where}the {what} is not what it was")

    async def _message(self, uid: int) -> int:
        here, there = self._here, self._there
        try:
            self._same("flags", here.flags(uid), there.flags(uid), uid)
            self._same("keywords", here.keywords(uid), there.keywords(uid), uid)
            if self._portrait.modseqs is not None:
                self._same("modseq", here.modseq(uid), there.modseq(uid), uid)
            was, now = await here.facts_of(uid), await there.facts_of(uid)
            for what in ("size", "received", "saved"):
                self._same(what, getattr(was, what), getattr(now, what), uid)
            metadata, made = (await here.details(uid)).metadata, (await there.details(uid)).metadata
            for key in _KEPT_LINES:
                if not (key == b"G" and metadata.guid is None):
                    self._same(f"{key.decode()} line", metadata.get(key), made.get(key), uid)
            self._same("original mailbox", *_boxes(metadata, made), uid)
            await self._bytes(uid)
        except (DboxfsError, OSError) as exc:
            if isinstance(exc, VerifyFailed):
                raise
            raise VerifyFailed(f"{here.display_name}: uid {uid}: {reason(exc)}") from exc
        return was.size

    @staticmethod
    async def _stored(box: Mailbox, uid: int) -> bytes:
        """The hash of the stored bytes of an encrypted message."""
        opened = await box.open_record(uid)
        try:
            record, digest = opened.record, hashlib.sha256()
            for offset in range(0, record.stored_size, _PIECE):
                size = min(_PIECE, record.stored_size - offset)
                digest.update(await opened.handle.read(size, record.body_offset + offset))
            return digest.digest() if record.encrypted else b""
        finally:
            opened.close()

    async def _bytes(self, uid: int) -> None:
        try:
            here = await self._here.open(uid)
        except EncryptedMessage:
            self._same(
                "ciphertext", await self._stored(self._here, uid), await self._stored(self._there, uid), uid
            )
            return
        try:
            there = await self._there.open(uid)
            try:
                self._same("size", here.size, there.size, uid)
                for offset in range(0, here.size, _PIECE):
                    was, now = await here.read(_PIECE, offset), await there.read(_PIECE, offset)
                    self._same("text", was, now, uid)
            finally:
                there.close()
        finally:
            here.close()


def _boxes(metadata: Metadata, made: Metadata) -> tuple[bytes | None, bytes | None]:
    """The original mailbox, if the source had one."""
    was = metadata.orig_mailbox
    return was, made.orig_mailbox if was is not None else None
