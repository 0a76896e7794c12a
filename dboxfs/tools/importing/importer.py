"""``dboxfs import``: copies mail of another format into a store, new or not.

Mailbox by mailbox, in the order of the uids: a mailbox that is missing is made; one that never had a message
gets guid and UIDVALIDITY of the source; then the messages are saved, many in one transaction
(:mod:`dboxfs.tools.filling`), and at last the mailbox gets the source's next uid, if it is the same mailbox.

=====================================  =====================================================================
a message of the source                in the store
=====================================  =====================================================================
uid                                    kept if it is not below the mailbox's next one, else the next one
guid                                   kept; without one it is made of text, date and mailbox, so that it is
                                       the same at every run
guid that the mailbox has, same text   the same message: nothing is saved
guid that the store has, same text     a copy without bytes of its own
guid of another text                   a new guid, as without one; reported
=====================================  =====================================================================

*Crash*: each transaction is there as a whole or not at all, and the next run finds its messages by their
guids.  So the same command goes on after a kill, saves no message twice, and loses none.  A mailbox that was
made but got no identity yet has no messages: the next run gives it one.

A message that can't be read is reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from dboxfs.errors import DboxfsError
from dboxfs.store.indexes.create import last_uid_validity, set_uid_validity
from dboxfs.store.location import TreeLayout
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.store import Store
from dboxfs.store.write import InvalidName, StoreWriter
from dboxfs.store.write_options import Eol
from dboxfs.tools.filling import make_mailbox
from dboxfs.tools.importing.filled import FilledMailbox, current
from dboxfs.tools.importing.guids import GuidTable
from dboxfs.tools.importing.names import GivenNames
from dboxfs.tools.importing.results import Imported, ImportProgress
from dboxfs.tools.importing.source import Identity, MailSource, SourceMailbox, reason_of
from dboxfs.tools.importing.verify import compare

Report = Callable[[ImportProgress], None]

_TELL_EVERY = 64


class Importer:
    """One import of *source* into *store*, which *writer* writes.

    :param only: the only mailbox to import, parts joined with ``/`` as a mount shows it; for a source without
        mailbox names: the mailbox that gets its messages.
    :param verify: read everything again, and compare.
    :param report: called with the progress now and then.
    """

    def __init__(
        self,
        store: Store,
        writer: StoreWriter,
        source: MailSource,
        *,
        only: str | None = None,
        verify: bool = False,
        report: Report | None = None,
    ) -> None:
        self._store = store
        self._writer = writer
        self._source = source
        self._only = only
        self._verify = verify
        self._report = report
        self._convert = writer.options.eol is Eol.LF
        self._total: int | None = 0
        self._done = 0
        self._names = GivenNames(store, writer.options)
        self._highest_validity = 0
        self.result = Imported()

    async def run(self) -> Imported:
        """Import, or go on where an interrupted run ended.

        :raises OSError, DboxfsError: the store can't be written; the same command goes on later.
        """
        wanted = self._wanted()
        known = GuidTable(self._store)
        self.result.notes += self._source.notes
        for box, name in wanted:
            await self._mailbox(box, name, known)
        await self._keep_validities()
        for parts in sorted(self._source.subscriptions or ()):
            subscribed = self._storage(parts) if self._only is None else None
            if subscribed is not None:
                await self._writer.subscribe(subscribed)
        return self.result

    async def _keep_validities(self) -> None:
        """Record the highest UIDVALIDITY in use, so that no mailbox that is made later gets one of these."""
        disk, location, highest = self._writer.disk, self._store.location, self._highest_validity
        if self._writer.options.alone and highest > await last_uid_validity(disk, location):
            await set_uid_validity(disk, location, highest)

    def _wanted(self) -> list[tuple[SourceMailbox, str]]:
        """The mailboxes to be imported, and their storage names."""
        found = []
        for box in self._source.mailboxes:
            parts = box.parts
            if self._only is not None and self._source.single:
                parts = tuple(self._only.split("/"))
            elif self._only is not None and "/".join(parts) != self._only:
                continue
            name = self._storage(parts)
            if name is not None:
                found.append((box, name))
        return found

    def _storage(self, parts: tuple[str, ...]) -> str | None:
        try:
            return "/".join(self._store.location.names.storage_part(part) for part in parts)
        except ValueError:
            self.result.failed.append(f"{'/'.join(parts)}: no mailbox can have this name")
            return None

    # -- one mailbox -------------------------------------------------------------------------------------

    async def _mailbox(self, source: SourceMailbox, name: str, known: GuidTable) -> None:
        shown = "/".join(source.parts)
        try:
            identity, count = await source.look()
        except (DboxfsError, OSError) as exc:
            self.result.failed.append(f"{shown}: the mailbox was left out: {reason_of(exc)}")
            return
        try:
            free = identity.guid if identity.guid is not None and not self._has(identity.guid) else None
            await make_mailbox(self._writer, name, free)
        except InvalidName as exc:
            self.result.failed.append(f"{shown}: the mailbox was left out: {exc}")
            return
        self._total = None if self._total is None or count is None else self._total + count
        box = await self._box(name)
        if box.uid_next <= 1 and not len(box):
            await self._identify(box, identity, 1)
            box = await self._box(name)
        self.result.mailboxes += 1
        filled = FilledMailbox(self._store, self._writer, self.result, box, known)
        await known.begin(box)
        async with aclosing(source.messages()) as chunks:
            async for chunk in chunks:
                for found in chunk:
                    await filled.take(found)
                    self.progress()
        await filled.flush()
        box = await self._box(name)
        there = {uid: wanted for uid, wanted in filled.named.items() if uid in box}
        self.result.notes += await self._names.give(self._store.folders[name], there)
        bounds = source.bounds()
        if bounds.next_uid and bounds.uid_validity == box.uid_validity:
            await self._identify(box, bounds, bounds.next_uid)
        self.result.notes += source.notes
        if self._verify:
            await self._compare(source, await self._box(name), filled)

    async def _box(self, name: str) -> Mailbox:
        """The present state of a mailbox that exists or was just made.

        :raises NoSuchMailbox: another process has removed it, or the store doesn't show it.
        """
        await self._store.refresh_tree()
        return await current(self._store, name)

    async def _identify(self, box: Mailbox, identity: Identity, next_uid: int) -> None:
        """Give a mailbox the guid, UIDVALIDITY and next uid of the source, as far as they are known."""
        guid = identity.guid
        if guid is not None and guid != box.guid and self._has(guid):
            self.result.notes.append(f"{box.display_name}: another mailbox has its guid: it has a new one")
            guid = None
        if guid not in (None, box.guid) and self._store.location.layout is TreeLayout.INDEX:
            self.result.notes.append(f"{box.display_name}: keeps its guid, which names its directory")
            guid = None
        guid, validity = guid or box.guid, identity.uid_validity or box.uid_validity
        if guid is None or not validity:
            return
        self._highest_validity = max(self._highest_validity, validity)
        if (guid, validity) != (box.guid, box.uid_validity) or next_uid > box.uid_next:
            await self._writer.set_identity(box.name, guid=guid, uid_validity=validity, next_uid=next_uid)

    def _has(self, guid: bytes) -> bool:
        boxes = (folder.mailbox for folder in self._store.folders.values())
        return any(box is not None and box.guid == guid for box in boxes)

    async def _compare(self, source: SourceMailbox, box: Mailbox, filled: FilledMailbox) -> None:
        self.result.verified = self.result.verified or 0

        compared = 0

        def count(size: int) -> None:
            nonlocal compared
            assert self.result.verified is not None
            self.result.verified += 1
            compared += size
            if self._report is not None and self.result.verified % _TELL_EVERY == 0:
                self._report(ImportProgress(self.result.verified, self._total, compared, verifying=True))

        differing = await compare(source, box, filled.uids, filled.saved, convert=self._convert, count=count)
        self.result.told += differing

    def progress(self) -> None:
        """Count one more message of the source."""
        self._done += 1
        if self._report is not None and self._done % _TELL_EVERY == 0:
            self._report(ImportProgress(self._done, self._total, self.result.bytes))
