"""Reads the attributes of messages (exact size, dates) from their files into a mailbox's table.

It reads one message on request (:meth:`AttrReader.facts_of`), and all of them in the background when a
listing begins (:meth:`AttrReader.scan`).  Attributes that an earlier mount has read come from the size table.

A message that isn't where the index says may have been expunged or moved a moment ago, so the index is read
once more before a message counts as damaged.  Answers that arrive after the mailbox's table was replaced are
dropped.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import trio
from msgspec.structs import replace

from dboxfs.errors import CorruptFile, DboxfsError, NoSuchMailbox
from dboxfs.index.state import IndexState
from dboxfs.store import saved_dates
from dboxfs.store.attrs import DAMAGED, FactColumns, Facts, FactTable, Uids
from dboxfs.store.backend import MessageFiles, Scanned
from dboxfs.store.saved_dates import SavedDates
from dboxfs.store.size_recall import Recall

_BATCH = 256
_BATCHES_AT_ONCE = 4
_KEEP_EVERY = 16384  # rows; then each time that a scan has doubled the known rows


class ReadMailbox(Protocol):
    """The mailbox whose messages are read."""

    facts: FactTable
    display_name: str

    @property
    def state(self) -> IndexState | None:
        """The index state."""
        ...

    @property
    def guid(self) -> bytes | None:
        """16 bytes; None while there is no index."""
        ...

    @property
    def uid_validity(self) -> int: ...

    def __contains__(self, uid: int) -> bool: ...

    def known(self, uid: int) -> Facts:
        """
        :raises NoSuchMessage: the mailbox doesn't have it.
        """
        ...

    async def resync(self) -> None:
        """Read the index now."""
        ...

    async def is_away(self) -> bool:
        """Whether the mailbox is gone from its place."""
        ...


class AttrReader:
    """The reader of one mailbox.

    :param recall: keeps facts beyond this mount; None: they are not kept.
    :param report: called for damage and files that can't be read, with the name of the message.
    :ivar scanning: whether a scan is running.
    """

    def __init__(
        self,
        box: ReadMailbox,
        files: MessageFiles,
        recall: Recall | None,
        report: Callable[[str, Exception], None],
    ) -> None:
        self._box = box
        self._files = files
        self._recall = recall
        self._report = report
        self.scanning = False
        self._began = 0.0
        self._todo = 0
        self._fresh = 0
        self._progress = trio.Event()

    async def facts_of(self, uid: int) -> Facts:
        """Exact size and dates of *uid*, read from its file if they aren't known yet, or if it was damaged.

        :raises NoSuchMessage: the mailbox doesn't have it.
        :raises NoSuchMailbox: the mailbox is gone from its place.
        :raises OSError: its file can't be read.
        """
        error: Exception | None = None
        for _ in range(2):  # again if the mailbox was reloaded meanwhile
            facts = self._box.known(uid)
            if facts.known and not facts.damaged:
                return facts
            table = self._box.facts
            error = (await self._look_at(np.array([uid], np.uint32), saved_dates.READ_FOR_FEW)).get(uid)
            if table is self._box.facts:
                break
        facts = self._box.known(uid)
        if facts.known:
            return facts
        raise (
            error
            if isinstance(error, OSError | NoSuchMailbox)
            else OSError(errno.EIO, f"uid {uid} can't be read")
        )

    async def scan(self) -> None:
        """Read the facts of all messages whose facts are unknown; returns when that is done.

        Errors are reported, not raised.
        """
        while self.scanning:
            await self.wait_scan()
        self.scanning = True
        self._began, self._todo = trio.current_time(), self._box.facts.unknown
        try:
            await self._take_remembered()
            todo = self._box.facts.unknown_uids()
            dates = await self._files.saved_dates(todo, saved_dates.READ_FOR_ALL)
            batches = [todo[i : i + _BATCH] for i in range(0, len(todo), _BATCH)]
            rest = iter(batches)
            if len(batches) <= 1:  # most mailboxes of a site: tasks would take longer than the work
                await self._scan_batches(rest, dates)
            else:
                async with trio.open_nursery() as nursery:
                    for _ in range(min(_BATCHES_AT_ONCE, len(batches))):
                        nursery.start_soon(self._scan_batches, rest, dates)
        finally:
            self.scanning = False
            self._advance()
        await self.keep_sizes()

    @property
    def rate(self) -> float:
        """Messages a second that the running scan reads; 0: no scan is running."""
        seconds = trio.current_time() - self._began
        done = self._todo - self._box.facts.unknown
        return max(done, 0) / seconds if self.scanning and seconds > 0 else 0.0

    async def _take_remembered(self) -> None:
        """Take the facts that an earlier mount has read from the size table."""
        table, guid, state = self._box.facts, self._box.guid, self._box.state
        if self._recall is None or guid is None or state is None or not table.unknown:
            return

        def advance() -> bool:
            self._advance()
            return not self._replaced(table)

        await self._recall.take(table, guid, self._box.uid_validity, self._files.cache_places(), advance)

    async def keep_sizes(self, *, final: bool = False) -> None:
        """Write new facts into the size table, if there are enough of them.  *final*: the mount ends."""
        if self._recall is not None and self._box.guid is not None:
            await self._recall.keep(self._box.facts, self._box.guid, self._box.uid_validity, final=final)

    async def _scan_batches(self, batches: Iterator[Uids], dates: SavedDates | None) -> None:
        for batch in batches:
            await self._scan_batch(batch, dates)
            self._advance()
            self._fresh += len(batch)
            if self._fresh >= max(_KEEP_EVERY, len(self._box.facts) - self._box.facts.unknown - self._fresh):
                self._fresh = 0
                await self.keep_sizes()

    async def _look_at(self, uids: Uids, limit: int) -> dict[int, Exception]:
        return await self._scan_batch(uids, await self._files.saved_dates(uids, limit))

    async def _scan_batch(self, uids: Uids, dates: SavedDates | None) -> dict[int, Exception]:
        """Read the facts of *uids* into the table; gives the errors, by uid."""
        table = self._box.facts
        answers = {scanned.uid: scanned for scanned in await self._read_facts(uids)}
        if any(scanned.error is not None for scanned in answers.values()):
            await self._box.resync()  # it may have been expunged or moved a moment ago
            failed = [uid for uid, scanned in answers.items() if scanned.error is not None]
            again = np.array([uid for uid in failed if uid in self._box], np.uint32)
            answers.update((scanned.uid, scanned) for scanned in await self._read_facts(again))
            if any(scanned.error is not None for scanned in answers.values()) and await self._box.is_away():
                return dict.fromkeys(uids.tolist(), NoSuchMailbox(self._box.display_name))
        if self._replaced(table):
            return {}
        good = [one for one in answers.values() if one.error is None and one.facts is not None]
        self._take(good, dates)
        for uid, scanned in answers.items():
            if isinstance(scanned.error, DboxfsError) and uid in self._box:
                self._box.facts.put(uid, scanned.facts or Facts(DAMAGED, 0, 0, 0))
                self._report(f"{self._box.display_name}: uid {uid}", scanned.error)
        return {uid: scanned.error for uid, scanned in answers.items() if scanned.error is not None}

    def _replaced(self, table: FactTable) -> bool:
        return self._box.facts is not table

    async def _read_facts(self, uids: Uids) -> list[Scanned]:
        if not len(uids):
            return []
        try:
            return await self._files.scan(uids, records=False)
        except OSError as exc:
            return [Scanned(uid, None, None, exc) for uid in uids.tolist()]
        except CorruptFile as exc:  # the map is damaged: no message can be found
            self._report("", exc)
            return [Scanned(uid, Facts(DAMAGED, 0, 0, 0), None, None) for uid in uids.tolist()]

    def _take(self, found: list[Scanned], dates: SavedDates | None) -> None:
        """Put the facts of messages that could be read into the table."""
        uids = np.array([one.uid for one in found], np.uint32)
        rows, there = self._box.facts.rows_of(uids)
        facts = FactColumns.of([one.facts for one in found if one.facts is not None])
        if dates is not None:
            known = dates.of(uids)
            facts = replace(facts, saved=np.where(known >= 0, known, facts.saved))
        marks = np.array([one.mark for one in found], np.uint64)[there] if self._recall is not None else None
        self._box.facts.put_many(rows, facts[there], marks)
        if dates is not None:
            saved_dates.remember(self._box.facts, uids, dates)

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def wait_scan(self) -> None:
        """Wait until the running scan has made some progress.  Returns at once when no scan is running."""
        if self.scanning:
            await self._progress.wait()
