"""One mailbox: its index, its messages, and what is known of each.

A :class:`Mailbox` shows what Dovecot would show: the messages of the index state, less those whose expunge
somebody asked for (Dovecot executes such a request before it shows the mailbox again).  ``uids`` is
replaced, never changed, so an array that somebody holds stays what it was.

Facts (exact size, dates) are read from the message files once: for one message when somebody asks for it
(:meth:`facts_of`), for all of them in the background when a listing begins (:meth:`scan`).  When the index
was rebuilt they are read again: Dovecot may have repaired the files.

A message that isn't where the index says may have been expunged or moved a moment ago.  So the index is
followed once more before a message counts as damaged.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import trio

from dboxfs.dbox import Metadata
from dboxfs.errors import CorruptFile, DboxfsError, EncryptedMessage, NoSuchMailbox, NoSuchMessage
from dboxfs.fsapi import FileSystem
from dboxfs.index.mailbox import MailboxHeader, guids, mailbox_header, map_uid, map_uids, save_dates
from dboxfs.index.state import IndexState
from dboxfs.store import saved_dates
from dboxfs.store.attrs import DAMAGED, KNOWN, Facts, FactTable, Uids
from dboxfs.store.backend import MessageFiles, Opened, Scanned
from dboxfs.store.body import Body, open_body, settled
from dboxfs.store.details_cache import LocationTable
from dboxfs.store.indexes.follow import NOTHING, Delta, IndexFiles
from dboxfs.store.location import Kind, Location
from dboxfs.store.mailbox_names import display_name
from dboxfs.store.mdbox.read import MdboxFiles, MdboxStorage
from dboxfs.store.prefetch import AheadFiles
from dboxfs.store.saved_dates import SavedDates, load_saved_dates
from dboxfs.store.sdbox.read import SdboxFiles
from dboxfs.store.size_recall import CachePlaces, Recall
from dboxfs.store.size_table import SizeTables
from dboxfs.store.walk import Walk
from dboxfs.util.coalesce import Joined

FLAG_NAMES = (
    (0x01, "\\Answered"),
    (0x02, "\\Flagged"),
    (0x04, "\\Deleted"),
    (0x08, "\\Seen"),
    (0x10, "\\Draft"),
)
"""System flags in the order in which Dovecot prints them (mail-index section 3)."""

_BATCH = 256
_BATCHES_AT_ONCE = 4
_KEEP_EVERY = 16384  # rows; then each time that a scan has doubled what is known
_NO_UIDS: Uids = np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True)
class Details:
    """What only the metadata tell.  ``location``: path below the root, offset, bytes of the record."""

    metadata: Metadata
    location: str


class Mailbox:
    """A selectable mailbox.  Made and kept up to date by :class:`dboxfs.store.Store`.

    :param report: told of damage and of files that can't be read, with the message that it is about.
    :param resync: follows the index of the mailbox now, and tells whoever has to know what changed.
    :param ahead: the store's table of files that are opened ahead (sdbox).
    :param sizes: where facts are kept beyond this mount; None: nowhere.
    :param records: the store's table of parsed records.
    :ivar identity: guid and uid_validity of what is shown.
    :ivar index: the index files, followed.  A writer of this process uses them too.
    :ivar shown_next: of the uids below it ``uids`` has those that are there; ``uid_next`` may be further.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        name: str,
        storage: MdboxStorage | None,
        *,
        report: Callable[[str, Exception], None],
        resync: Callable[[Mailbox], Awaitable[None]],
        ahead: AheadFiles | None = None,
        sizes: SizeTables | None = None,
        records: LocationTable[Details] | None = None,
    ) -> None:
        self.name = name
        self.display_name = display_name(name, utf8=location.utf8)
        self.uids: Uids = _NO_UIDS
        self.shown_next = 1
        self.facts = FactTable()
        self.scanning = False
        self._scan_began = 0.0
        self._scan_todo = 0
        self._fresh = 0
        self.refreshing = Joined()
        self._fs = fs
        self._location = location
        self.index = IndexFiles(fs, location.index_path(name))
        self.identity: tuple[bytes | None, int] = (None, 0)
        self._header: MailboxHeader | None = None
        self._report = report
        self._resync = resync
        self._progress = trio.Event()
        self._ahead = Walk(self._prefetch)
        self.files: MessageFiles
        if storage is None:
            self.files = SdboxFiles(fs, location, name, ahead, self._rebuilds)
        else:
            self.files = MdboxFiles(storage, self._map_uids, self._map_uid, self._guids)
        self._records: LocationTable[Details] = records if records is not None else LocationTable()
        self._owner = object()  # of what is in that table; another one when the mailbox changes
        self._recall = Recall(sizes, self.files) if sizes is not None else None

    # -- the mailbox ---------------------------------------------------------------------------

    @property
    def state(self) -> IndexState | None:
        """The index state; None while the mailbox has no index (Dovecot makes one when it opens it)."""
        return self.index.state

    @property
    def index_directory(self) -> str:
        """The directory to watch for changes."""
        return self.index.directory

    @property
    def guid(self) -> bytes | None:
        """16 bytes; None while the mailbox has no index."""
        return self._header.guid if self._header is not None else None

    @property
    def uid_validity(self) -> int:
        return self.state.uid_validity if self.state is not None else 0

    @property
    def uid_next(self) -> int:
        return self.state.next_uid if self.state is not None else 1

    @property
    def highest_modseq(self) -> int:
        return self.state.highest_modseq if self.state is not None else 1

    @property
    def deleted(self) -> bool:
        """Dovecot has marked the index as deleted."""
        return self.state is not None and self.state.deleted

    @property
    def changed_ns(self) -> int:
        """When the index was last written: ns since the epoch."""
        return self.index.log_mtime_ns

    @property
    def unseen(self) -> int:
        """Visible messages without ``\\Seen``."""
        state = self.state
        if state is None:
            return 0
        rows = state.rows_of(self.uids)
        return int(np.count_nonzero((state.flags[rows[rows >= 0]] & 0x08) == 0))

    def __len__(self) -> int:
        return len(self.uids)

    def __contains__(self, uid: int) -> bool:
        return self.facts.row(uid) >= 0

    async def refresh(self) -> Delta:
        """Follow the index on disk.  One at a time: :class:`Store` sees to that.

        :raises CorruptFile: the index is damaged; the mailbox stays as it was.
        """
        known = self.index.state is not None
        return self.take(await self.index.refresh(), known=known)

    def take(self, delta: Delta, *, known: bool = True) -> Delta:
        """Show what the index has now; gives *delta*, what changed in it, in terms of what is shown.

        :param known: there was an index before.
        """
        state = self.index.state
        if state is None:
            self.uids, self._header, self.facts, self.shown_next = _NO_UIDS, None, FactTable(), 1
            self.identity = (None, 0)
            return delta
        before_it = self.identity
        self._header = mailbox_header(state)
        self.identity = (self.guid, state.uid_validity)
        uids = state.uids
        pending = state.pending_expunges
        if len(pending):
            uids = np.setdiff1d(uids, np.asarray(pending, np.uint32), assume_unique=True)
        before = self.uids
        if len(uids) != len(self.uids) or not np.array_equal(uids, self.uids):
            self.uids = uids  # a part of the state's column, of which no entry ever changes
        delta = _visible(delta, before, self.uids)
        if before_it != self.identity or (delta.reloaded and known):
            self.facts = FactTable()  # another mailbox, or one that was rebuilt and its files repaired
        self.facts.sync(self.uids)
        self.shown_next = state.next_uid
        if delta.reloaded or (self._location.kind is Kind.SDBOX and len(delta.updated)):
            self._owner = object()  # an altmove is an update of the message's flags
        if delta.reloaded or len(delta.appended):
            self.files.forget()
        return delta

    async def refresh_dates(self) -> Uids:
        """sdbox: Dovecot may have remembered saved dates since.  The uids whose date changed."""
        state = self.state
        if self._location.kind is not Kind.SDBOX or state is None:
            return _NO_UIDS
        return await saved_dates.look_again(self._fs, self._cache_path, state, self.facts)

    async def exists(self) -> bool:
        """Whether the directory of the index is there (always, where there never was an index)."""
        return self.state is None or await self.index.exists()

    def gone(self) -> None:
        """The mailbox is no more: it has no messages, for whoever still holds it."""
        self.uids = _NO_UIDS
        self.facts = FactTable()

    # -- facts ---------------------------------------------------------------------------------

    async def facts_of(self, uid: int) -> Facts:
        """Exact size and dates of *uid*, read from its file if they aren't known yet, or if it was damaged.

        :raises NoSuchMessage: the mailbox doesn't have it.
        :raises NoSuchMailbox: the mailbox isn't where it was.
        :raises OSError: its file can't be read.
        """
        error: Exception | None = None
        for _ in range(2):  # again if the mailbox was reloaded meanwhile
            facts = self._known(uid)
            if facts.known and not facts.damaged:
                return facts
            table = self.facts
            error = (await self._look_at(np.array([uid], np.uint32), saved_dates.FEW)).get(uid)
            if table is self.facts:
                break
        facts = self._known(uid)
        if facts.known:
            return facts
        raise (
            error
            if isinstance(error, OSError | NoSuchMailbox)
            else OSError(errno.EIO, f"uid {uid} can't be read")
        )

    def _known(self, uid: int) -> Facts:
        facts = self.facts.get(uid)
        if facts is None:
            raise NoSuchMessage(f"{self.display_name}: no message with uid {uid}")
        return facts

    async def scan(self) -> None:
        """Read the facts of all messages of which nothing is known; returns when that is done.

        What can't be read is reported, not raised.
        """
        while self.scanning:
            await self.wait_scan()
        self.scanning = True
        self._scan_began, self._scan_todo = trio.current_time(), self.facts.unknown
        try:
            await self._take_remembered()
            todo = self.facts.unknown_uids()
            dates = await self._saved_dates(todo, saved_dates.ALL)
            batches = iter([todo[i : i + _BATCH] for i in range(0, len(todo), _BATCH)])
            async with trio.open_nursery() as nursery:
                for _ in range(_BATCHES_AT_ONCE):
                    nursery.start_soon(self._scan_batches, batches, dates)
        finally:
            self.scanning = False
            self._advance()
        await self.keep_sizes()

    @property
    def scan_rate(self) -> float:
        """Messages a second that the scan that runs gets known; 0: none runs."""
        seconds = trio.current_time() - self._scan_began
        done = self._scan_todo - self.facts.unknown
        return max(done, 0) / seconds if self.scanning and seconds > 0 else 0.0

    async def _take_remembered(self) -> None:
        """What an earlier mount has read needn't be read again."""
        table, guid, state = self.facts, self.guid, self.state
        if self._recall is None or guid is None or state is None or not table.unknown:
            return

        def advance() -> bool:
            self._advance()
            return not self._replaced(table)

        cache: CachePlaces | None = None
        if self._location.kind is Kind.SDBOX:
            cache = CachePlaces(
                partial(saved_dates.offsets_of, state),
                saved_dates.cache_seq(state),
                lambda uids: self._saved_dates(uids, saved_dates.ALL),
            )
        await self._recall.take(table, guid, self.uid_validity, cache, advance)

    async def keep_sizes(self, *, final: bool = False) -> None:
        """Write new facts into the size table, if they are many enough.  *final*: the mount ends."""
        if self._recall is not None and self.guid is not None:
            await self._recall.keep(self.facts, self.guid, self.uid_validity, final=final)

    async def _scan_batches(self, batches: Iterator[Uids], dates: SavedDates | None) -> None:
        for batch in batches:
            await self._scan_batch(batch, dates)
            self._advance()
            self._fresh += len(batch)
            if self._fresh >= max(_KEEP_EVERY, len(self.facts) - self.facts.unknown - self._fresh):
                self._fresh = 0
                await self.keep_sizes()

    async def _look_at(self, uids: Uids, limit: int) -> dict[int, Exception]:
        return await self._scan_batch(uids, await self._saved_dates(uids, limit))

    async def _scan_batch(self, uids: Uids, dates: SavedDates | None) -> dict[int, Exception]:
        """Read the facts of *uids* into the table; gives what went wrong, by uid."""
        table = self.facts
        answers = {scanned.uid: scanned for scanned in await self._read_facts(uids)}
        if any(scanned.error is not None for scanned in answers.values()):
            await self._resync(self)  # maybe it is expunged or moved, and we only haven't heard of it yet
            failed = [uid for uid, scanned in answers.items() if scanned.error is not None]
            again = np.array([uid for uid in failed if uid in self], np.uint32)
            answers.update((scanned.uid, scanned) for scanned in await self._read_facts(again))
            if any(scanned.error is not None for scanned in answers.values()) and await self._is_away():
                return dict.fromkeys(uids.tolist(), NoSuchMailbox(self.display_name))
        if self._replaced(table):
            return {}
        for uid, scanned in answers.items():
            if uid in self:
                self._take(scanned, dates)
        return {uid: scanned.error for uid, scanned in answers.items() if scanned.error is not None}

    def _replaced(self, table: FactTable) -> bool:
        return self.facts is not table

    async def _read_facts(self, uids: Uids) -> list[Scanned]:
        if not len(uids):
            return []
        try:
            return await self.files.scan(uids)
        except OSError as exc:
            return [Scanned(uid, None, None, exc) for uid in uids.tolist()]
        except CorruptFile as exc:  # not a message but the map: nothing can be found
            self._report("", exc)
            return [Scanned(uid, Facts(DAMAGED, 0, 0, 0), None, None) for uid in uids.tolist()]

    def _take(self, scanned: Scanned, dates: SavedDates | None) -> None:
        facts = scanned.facts
        if scanned.error is None and facts is not None:
            saved = dates.get(scanned.uid) if dates is not None else None
            facts = facts if saved is None else replace(facts, saved=saved)
            self.facts.put(scanned.uid, facts, scanned.mark if self._recall is not None else None)
            if dates is not None:
                saved_dates.remember(self.facts, scanned.uid, dates)
        elif isinstance(scanned.error, DboxfsError):
            self.facts.put(scanned.uid, facts or Facts(DAMAGED, 0, 0, 0))
            self._report(f"{self.display_name}: uid {scanned.uid}", scanned.error)

    def _advance(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def wait_scan(self) -> None:
        """Wait until a scan that runs has made some progress.  Returns at once when none runs."""
        if self.scanning:
            await self._progress.wait()

    # -- one message ---------------------------------------------------------------------------

    async def open(self, uid: int) -> Body:
        """The bytes of *uid*.  What is open goes on reading after an expunge or a purge.

        :raises NoSuchMessage: the mailbox doesn't have it (any more).
        :raises CorruptFile: it is damaged, or its file is missing.
        :raises EncryptedMessage: it is ciphertext.
        :raises OSError: its file can't be opened or read.
        """
        try:
            opened = await self.open_record(uid)
            body = open_body(self._fs, opened, self._location.attachments, self._suffix(uid))
        except EncryptedMessage as exc:
            self._report(f"{self.display_name}: uid {uid}", exc)
            raise
        except CorruptFile as exc:
            facts = self._known(uid)
            self.facts.put(uid, Facts(DAMAGED, facts.size, facts.received, facts.saved))
            self._report(f"{self.display_name}: uid {uid}", exc)
            raise
        return body

    async def open_record(self, uid: int) -> Opened:
        """The record of *uid* as it is stored, settled; give it back with its ``close``.

        :raises NoSuchMessage, CorruptFile, OSError: as :meth:`open`.
        """
        opened = await self._open(uid)
        try:
            return await settled(opened)
        except BaseException:
            opened.close()
            raise

    async def _open(self, uid: int) -> Opened:
        """Open *uid*; what can't be found is looked for again in a fresh index."""
        self._known(uid)
        try:
            return await self.files.open(uid)
        except (CorruptFile, NoSuchMessage):
            await self._resync(self)
        self._known(uid)
        try:
            return await self.files.open(uid)
        except NoSuchMessage as exc:
            if await self._is_away():
                raise
            path = str(exc).rpartition(": ")[0]
            if not path.startswith("/"):
                path = self.index.log_path
            raise CorruptFile(path, 0, "the index names this message, but its file is missing") from exc

    async def _is_away(self) -> bool:
        """Whether the mailbox isn't where it was: it was renamed or deleted, and nobody has told us yet.

        Its files are no damage then.
        """
        for path in (self._location.mailbox_path(self.name), self.index_directory):
            try:
                await self._fs.stat(path)
            except FileNotFoundError:
                return True
            except OSError:  # nobody can say
                return False
        return False

    def _suffix(self, uid: int) -> str:
        if self._location.kind is Kind.MDBOX or self.guid is None:
            return ""
        return f"-{self.guid.hex()}-{uid}"

    def open_now(self, uid: int) -> Body | None:
        """The bytes of *uid* if everything that :meth:`open` needs is in memory; None: ``open`` it is.

        Opening message after message in the order of the mailbox makes the next ones come ahead.
        """
        row = self.facts.row(uid)
        facts = self.facts.at(row) if row >= 0 else None
        if facts is None or facts.state != KNOWN:
            return None
        body = self.files.open_now(uid, facts.size)
        self._ahead.opened(row, useful=self.files.ahead_pays)
        return body

    def _prefetch(self, first: int, last: int) -> None:
        uids = self.facts.uids[first:last]
        self.files.prefetch(uids, self.facts.columns(slice(first, last)).size.tolist())

    async def details(self, uid: int) -> Details:
        """What the message's own metadata say.

        :raises NoSuchMessage, CorruptFile, OSError: as :meth:`open`.
        """
        owner, place = self._owner, self.files.place_now(uid)
        if place is not None and not self._known(uid).damaged:
            known = self._records.get((owner, uid, place))
            if known is not None:
                return known
        opened = await self._open(uid)
        try:
            details = Details(opened.record.metadata, self.files.where(opened))
        finally:
            opened.close()
        place = self.files.place_now(uid)
        if place is not None and self._owner is owner:
            self._records.put((owner, uid, place), details)
        return details

    def flags(self, uid: int) -> tuple[str, ...]:
        """System flags as IMAP names, in Dovecot's order."""
        state, row = self._row(uid)
        value = int(state.flags[row])
        return tuple(name for bit, name in FLAG_NAMES if value & bit)

    def keywords(self, uid: int) -> tuple[str, ...]:
        """Keywords in the order in which the mailbox learnt them."""
        state, row = self._row(uid)
        return state.keywords(row)

    def modseq(self, uid: int) -> int:
        state, row = self._row(uid)
        return state.modseq(row)

    def _row(self, uid: int) -> tuple[IndexState, int]:
        state = self.state
        row = state.row_of(uid) if state is not None else -1
        if state is None or row < 0:
            raise NoSuchMessage(f"{self.display_name}: no message with uid {uid}")
        return state, row

    # -- what the message files ask ------------------------------------------------------------

    def _map_uids(self, uids: Uids) -> tuple[np.ndarray, np.ndarray]:
        """(map_uid, save_date) of *uids*; zeros for those that the index doesn't have."""
        numbers, dates = np.zeros(len(uids), np.uint32), np.zeros(len(uids), np.uint32)
        state = self.state
        if (
            state is not None
            and (of_row := map_uids(state)) is not None
            and (saved := save_dates(state)) is not None
        ):
            rows = state.rows_of(uids)
            found = rows >= 0
            numbers[found] = of_row[rows[found]]
            dates[found] = saved[rows[found]]
        return numbers, dates

    def _map_uid(self, uid: int) -> int:
        """The map uid of *uid*; 0 if the index has none."""
        state = self.state
        row = state.row_of(uid) if state is not None else -1
        return map_uid(state, row) if state is not None and row >= 0 else 0

    def _guids(self, uids: Uids) -> npt.NDArray[np.uint8]:
        """The GUIDs that the index has of *uids*, uint8[n, 16]; zeros for those that it has none of."""
        found, state = np.zeros((len(uids), 16), np.uint8), self.state
        column = guids(state) if state is not None else None
        if state is not None and column is not None:
            rows = state.rows_of(uids)
            found[rows >= 0] = column[rows[rows >= 0]]
        return found

    def _rebuilds(self) -> int:
        """sdbox: how often Dovecot has rebuilt the index."""
        return self._header.rebuild_count if self._header is not None else 0

    @property
    def _cache_path(self) -> str:
        return self._location.cache_path(self.name)

    async def _saved_dates(self, uids: Uids, limit: int) -> SavedDates | None:
        """sdbox: what Dovecot remembers of when *uids* were saved; None: the files say it."""
        if self._location.kind is not Kind.SDBOX or self.state is None:
            return None
        return await load_saved_dates(self._fs, self._cache_path, self.state, uids, limit)


def _visible(delta: Delta, before: Uids, after: Uids) -> Delta:
    """*delta* in terms of what is shown, not of what the index holds."""
    if before is after and not delta:
        return NOTHING
    return Delta(
        np.setdiff1d(after, before, assume_unique=True),
        np.setdiff1d(before, after, assume_unique=True),
        np.intersect1d(delta.updated, after, assume_unique=True) if len(delta.updated) else delta.updated,
        delta.reloaded,
    )
