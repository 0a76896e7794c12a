"""One mailbox: its index, its messages, and the facts of each.

A :class:`Mailbox` shows the messages that Dovecot would show: those of the index state without those whose
expunge was requested (Dovecot executes such a request before it shows the mailbox again).  ``uids`` is
replaced, never changed in place, so an array that a caller holds stays the same.

Attributes (exact size, dates) are read from the message files once (``attr_reader.py``), and again after a
rebuild of the index: Dovecot may have repaired the files.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np

from dboxfs.errors import CorruptFile, EncryptedMessage, NoSuchMessage
from dboxfs.fsapi import FileSystem
from dboxfs.index.mailbox import MailboxHeader, mailbox_header
from dboxfs.index.state import IndexState
from dboxfs.store import change_time
from dboxfs.store.attr_reader import AttrReader
from dboxfs.store.attrs import DAMAGED, KNOWN, Facts, FactTable, Uids
from dboxfs.store.backend import Backend, OpenRecord
from dboxfs.store.body import Body, open_body, settled_or_closed, whole
from dboxfs.store.decrypt import decrypting
from dboxfs.store.departed import DepartedMessages
from dboxfs.store.details import Details, DetailsReader
from dboxfs.store.details_cache import DetailsCache
from dboxfs.store.indexes.delta import NOTHING, Delta
from dboxfs.store.indexes.follow import IndexFiles
from dboxfs.store.location import Location
from dboxfs.store.prefetch import Walk
from dboxfs.store.size_recall import Recall
from dboxfs.store.size_table import SizeTables
from dboxfs.util.coalesce import CoalescedRuns

FLAG_NAMES = (
    (0x01, "\\Answered"),
    (0x02, "\\Flagged"),
    (0x04, "\\Deleted"),
    (0x08, "\\Seen"),
    (0x10, "\\Draft"),
)
"""System flags in the order in which Dovecot prints them (mail-index section 3)."""

_NO_UIDS: Uids = np.empty(0, np.uint32)


class Mailbox:
    """A selectable mailbox.  Made and kept up to date by :class:`dboxfs.store.Store`.

    :param report: called for damage and files that can't be read, with the name of the message.
    :param resync: reads the index of the mailbox now, and tells the listeners about changes.
    :param backend: the message files of the store.
    :param sizes: keeps facts beyond this mount; None: they are not kept.
    :param records: the store's table of parsed records.
    :ivar identity: guid and uid_validity of the mailbox that is shown.
    :ivar index: the reader of the index files.  A writer of this process uses it, too.
    :ivar changes: grows with each read of the index: values derived from it may be old then.
    :ivar departed: expunged messages, which may still be open.
    :ivar shown_next: ``uids`` is complete below this uid; ``uid_next`` may be higher.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        name: str,
        backend: Backend,
        *,
        report: Callable[[str, Exception], None],
        resync: Callable[[Mailbox], Awaitable[None]],
        sizes: SizeTables | None = None,
        records: DetailsCache[Details] | None = None,
    ) -> None:
        self.name = name
        self.display_name = location.display_name(name)
        self.uids: Uids = _NO_UIDS
        self.shown_next = 1
        self.changes = 0
        self.facts = FactTable()
        self.refreshing = CoalescedRuns()
        self._fs = fs
        self._location = location
        self.index = IndexFiles(fs, location.index_path(name))
        self.identity: tuple[bytes | None, int] = (None, 0)
        self._header: MailboxHeader | None = None
        self._report = report
        self._resync = resync
        self._ahead = Walk(self._prefetch)
        self.files = backend.mailbox(name, lambda: self.index.state)
        self.departed = DepartedMessages(self.files.departed, self._body)
        kept: DetailsCache[Details] = records if records is not None else DetailsCache()
        self._details = DetailsReader(self, self.files, kept, self._open)
        recall = Recall(sizes, self.files) if sizes is not None else None
        self._attrs = AttrReader(self, self.files, recall, report)

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
        return self.identity[1]

    @property
    def uid_next(self) -> int:
        return self.state.next_uid if self.state is not None else 1

    @property
    def highest_modseq(self) -> int:
        return self.state.highest_modseq if self.state is not None else 1

    @property
    def deleted(self) -> bool:
        """Whether Dovecot has marked the index as deleted."""
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
        """Read the index on disk.  Only one call may run at a time: :class:`Store` makes sure of that.

        :raises CorruptFile: the index is damaged; the mailbox stays as it was.
        """
        known, identity = self.index.state is not None, self.identity
        places = self.departed.note()
        delta = self.take(await self.index.refresh(), known=known)
        if self.identity == identity:
            await self.departed.keep(delta.expunged, places)
        return delta

    def take(self, delta: Delta, *, known: bool = True) -> Delta:
        """Show the current state of the index; gives *delta*, the change of the index, in terms of the shown
        messages.

        :param known: whether there was an index before.
        """
        state = self.index.state
        self.changes += 1
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
            self.uids = uids  # a part of the state's column, whose entries never change
        delta = _visible(delta, before, self.uids)
        if len(delta.expunged):
            self.departed.went(delta.expunged, self.facts)
        if before_it != self.identity:
            self.departed.close()
        if before_it != self.identity or (delta.reloaded and known):
            self.facts = FactTable()  # another mailbox, or a rebuilt one with repaired files
        self.facts.sync(self.uids)
        self.shown_next = state.next_uid
        if delta.reloaded or (self.files.flags_tell_moves and len(delta.updated)):
            self._details.renew()
        if delta.reloaded or len(delta.appended):
            self.files.forget()
        return delta

    async def refresh_dates(self) -> Uids:
        """Read saved dates that Dovecot may have cached since; gives the uids whose date changed."""
        return await self.files.look_again_for_dates(self.facts)

    async def exists(self) -> bool:
        """Whether the directory of the index exists (True if there never was an index)."""
        return self.state is None or await self.index.exists()

    def gone(self) -> None:
        """Make a deleted mailbox empty, for callers that still hold it."""
        self.uids = _NO_UIDS
        self.changes += 1
        self.facts = FactTable()
        self.departed.close()

    # -- attributes ----------------------------------------------------------------------------

    async def facts_of(self, uid: int) -> Facts:
        """Exact size and dates of *uid*, read from its file if they aren't known yet, or if it was damaged.

        :raises NoSuchMessage: the mailbox doesn't have it.
        :raises NoSuchMailbox: the mailbox is gone from its place.
        :raises OSError: its file can't be read.
        """
        return self.changed(await self._attrs.facts_of(uid), uid)

    def changed(self, facts: Facts, uid: int) -> Facts:
        """*facts* of message *uid* with the time of its last change; unchanged if the message is gone."""
        row = self.state.row_of(uid) if self.state is not None else -1
        if self.state is None or row < 0:
            return facts
        nanoseconds = change_time.of_message(self.state, row, uid)
        return Facts(facts.state, facts.size, facts.received, facts.saved, facts.virtual, nanoseconds)

    async def scan(self) -> None:
        """Read the facts of all messages whose facts are unknown; returns when that is done.

        Errors are reported, not raised.
        """
        await self._attrs.scan()

    @property
    def scanning(self) -> bool:
        """Whether a scan is running."""
        return self._attrs.scanning

    @property
    def scan_rate(self) -> float:
        """Messages a second that the running scan reads; 0: no scan is running."""
        return self._attrs.rate

    async def wait_scan(self) -> None:
        """Wait until the running scan has made some progress.  Returns at once when no scan is running."""
        await self._attrs.wait_scan()

    async def keep_sizes(self, *, final: bool = False) -> None:
        """Write new facts into the size table, if there are enough of them.

        :param final: the mount ends: write them all.
        """
        await self._attrs.keep_sizes(final=final)

    def known(self, uid: int) -> Facts:
        """The known facts of *uid*.

        :raises NoSuchMessage: the mailbox doesn't have it.
        """
        facts = self.facts.get(uid)
        if facts is None:
            raise NoSuchMessage(f"{self.display_name}: no message with uid {uid}")
        return facts

    # -- one message ---------------------------------------------------------------------------

    async def open(self, uid: int) -> Body:
        """The bytes of *uid*.  An open body stays readable after an expunge or a purge.

        :raises NoSuchMessage: the mailbox doesn't have it (any more).
        :raises CorruptFile: the message is damaged, or its file is missing.
        :raises EncryptedMessage: the message is encrypted, and there is no key for it.
        :raises OSError: its file can't be opened or read.
        """
        try:
            body = await self._body(await self.open_record(uid), uid)
        except EncryptedMessage as exc:
            self._report(f"{self.display_name}: uid {uid}", exc)
            raise
        except CorruptFile as exc:
            facts = self.known(uid)
            self.facts.put(uid, Facts(DAMAGED, facts.size, facts.received, facts.saved))
            self._report(f"{self.display_name}: uid {uid}", exc)
            raise
        return body

    async def _body(self, opened: OpenRecord, uid: int) -> Body:
        try:
            how = await decrypting(opened, self._location.keys)
        except BaseException:
            opened.close()
            raise
        suffix = self.files.attachment_suffix(uid)
        return open_body(self._fs, opened, self._location.attachments, suffix, how)

    async def read_many(self, uids: Uids) -> list[bytes | memoryview | None]:
        """The bytes of messages, in few operations; None: :meth:`open` gives the error.  Raises as that."""
        facts = self.facts.columns(self.facts.uids.searchsorted(uids))
        plain = np.flatnonzero(facts.state == KNOWN)
        coded = np.flatnonzero((facts.state != KNOWN) & ((facts.state & KNOWN) != 0))
        if len(coded):
            self.files.prefetch(uids[coded], facts.size[coded].tolist())
        found: list[bytes | memoryview | None] = [None] * len(uids)
        bodies = await self.files.read_many(uids[plain], facts.size[plain].tolist())
        for number, body in zip(plain.tolist(), bodies, strict=True):
            found[number] = body
        for number in coded.tolist():
            uid = int(uids[number])
            found[number] = await whole(self.files.open(uid), partial(self._body, uid=uid))
        return found

    async def open_record(self, uid: int) -> OpenRecord:
        """The record of *uid* as it is stored, settled; give it back with its ``close``.

        :raises NoSuchMessage, CorruptFile, OSError: as :meth:`open`.
        """
        return await settled_or_closed(await self._open(uid))

    async def _open(self, uid: int) -> OpenRecord:
        """Open *uid*; a message that is not found is looked up again after a read of the index."""
        self.known(uid)
        try:
            return await self.files.open(uid)
        except (CorruptFile, NoSuchMessage):
            await self.resync()
        self.known(uid)
        try:
            return await self.files.open(uid)
        except NoSuchMessage as exc:
            if await self.is_away():
                raise
            path = str(exc).rpartition(": ")[0]
            if not path.startswith("/"):
                path = self.index.log_path
            raise CorruptFile(path, 0, "the index names this message, but its file is missing") from exc

    async def resync(self) -> None:
        """Read the index now; the store tells its listeners about changes."""
        await self._resync(self)

    async def is_away(self) -> bool:
        """Whether the mailbox was renamed or deleted before an event has said so.  Then its missing files are
        no damage.
        """
        for path in (self._location.mailbox_path(self.name), self.index_directory):
            try:
                await self._fs.stat(path)
            except FileNotFoundError:
                return True
            except OSError:  # unknown
                return False
        return False

    def open_now(self, uid: int) -> Body | None:
        """The bytes of *uid*, if all that :meth:`open` needs is in memory; None: the caller uses ``open``.

        Opening message after message in the order of the mailbox brings the next ones ahead.
        """
        row, size = self.facts.known_size(uid)
        if size is None:
            return None
        body = self.files.open_now(uid, size)
        self._ahead.opened(row, useful=self.files.ahead_pays)
        return body

    def _prefetch(self, first: int, last: int) -> None:
        uids = self.facts.uids[first:last]
        self.files.prefetch(uids, self.facts.columns(slice(first, last)).size.tolist())

    async def details(self, uid: int) -> Details:
        """The details in the message's own metadata.

        :raises NoSuchMessage, CorruptFile, OSError: as :meth:`open`.
        """
        return await self._details.get(uid)

    def flags(self, uid: int) -> tuple[str, ...]:
        """System flags as IMAP names, in Dovecot's order."""
        return flag_names(self.flag_bits(uid))

    def flag_bits(self, uid: int) -> int:
        """System flags as bits of the index."""
        state, row = self._row(uid)
        return int(state.flags[row])

    def keywords(self, uid: int) -> tuple[str, ...]:
        """Keywords in the order in which the mailbox got them."""
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


def flag_names(bits: int) -> tuple[str, ...]:
    """System flags as IMAP names, in Dovecot's order."""
    return tuple(name for bit, name in FLAG_NAMES if bits & bit)


def _visible(delta: Delta, before: Uids, after: Uids) -> Delta:
    """*delta* in terms of the shown messages, not of all messages in the index."""
    if before is after and not delta:
        return NOTHING
    if np.array_equal(after[: len(before)], before):  # the rest is new: uids only rise
        appended, expunged = after[len(before) :], _NO_UIDS
    else:
        appended = np.setdiff1d(after, before, assume_unique=True)
        expunged = np.setdiff1d(before, after, assume_unique=True)
    return Delta(
        appended,
        expunged,
        np.intersect1d(delta.updated, after, assume_unique=True) if len(delta.updated) else delta.updated,
        delta.reloaded,
    )
