"""Mail of a dbox store, such as a generation of an archive, as a source of an import.

Every message is read when its turn comes; one above 256 KiB is a chunk of its own, and held in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from msgspec import Struct, field

from dboxfs.errors import DboxfsError, FormatError
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.names.read import NameReader
from dboxfs.store.store import Store
from dboxfs.tools.importing.source import (
    MESSAGES_AT_ONCE,
    READ_WHOLE,
    Arrival,
    Identity,
    Incoming,
    MailSource,
    NoArrival,
    reason_of,
)


class StoreMailbox(Struct):
    """A mailbox of *store*; ``parts``: its name as a mount shows it.

    ``reader``: knows the names of its files.
    """

    store: Store
    box: Mailbox
    parts: tuple[str, ...]
    reader: NameReader
    notes: Sequence[str] = field(default_factory=list)

    async def look(self) -> tuple[Identity, int | None]:
        """What the index says."""
        await self.store.check(self.store.folders[self.box.name])
        await self.box.scan()
        return self.bounds(), len(self.box)

    def bounds(self) -> Identity:
        """The mailbox's identity."""
        return Identity(self.box.guid, self.box.uid_validity, self.box.uid_next)

    async def messages(self) -> AsyncGenerator[list[Arrival], None]:
        """The messages by uid; small ones some at a time."""
        chunk: list[Arrival] = []
        size = 0
        for uid in self.box.uids.tolist():
            found = await self._message(uid)
            chunk.append(found)
            size += found.size if isinstance(found, Incoming) else 0
            if len(chunk) >= MESSAGES_AT_ONCE or size > READ_WHOLE:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    async def _message(self, uid: int) -> Arrival:
        box, where = self.box, f"{self.box.display_name}: uid {uid}"
        try:
            facts, details = await box.facts_of(uid), await box.details(uid)
            body = await box.open(uid)
            try:
                text = await body.read(body.size, 0)
            finally:
                body.close()
            if len(text) != body.size:
                return NoArrival(where, f"it ends {body.size - len(text)} bytes too early")
            metadata = details.metadata
            return Incoming(
                where, text, uid, metadata.guid, facts.received, facts.saved, box.flag_bits(uid),
                box.keywords(uid), metadata.orig_mailbox, self._name(uid), metadata.pop3_uidl,
            )  # fmt: skip
        except (DboxfsError, FormatError, OSError) as exc:
            return NoArrival(where, reason_of(exc))

    def _name(self, uid: int) -> bytes:
        return self.reader.names.name(self.store.folders[self.box.name], uid)


async def store_source(store: Store) -> MailSource:
    """All mailboxes of *store*, which stays open as long as the source is used.

    :raises OSError: the names of its files, or its subscriptions, can't be read.
    """
    reader = NameReader(store)
    await reader.load()
    coding = store.location.names

    def parts(name: str) -> tuple[str, ...]:
        return tuple(coding.shown_part(part) for part in name.split("/"))

    boxes = [
        StoreMailbox(store, folder.mailbox, parts(name), reader)
        for name, folder in sorted(store.folders.items())
        if folder.mailbox is not None
    ]
    subscribed = frozenset(parts(name) for name in await store.subscribed())
    return MailSource("a store", boxes, subscribed)
