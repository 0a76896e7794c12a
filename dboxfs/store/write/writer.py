"""The writing side of a store, as one object: :class:`StoreWriter`.

::

    async with open_store(fs, location) as store:
        writer = StoreWriter(store.fs, location, store.owner, WriteOptions())
        saved = await writer.save("INBOX", [NewMessage(b"Subject: hello\\n\\ntext\\n")])
        await writer.set_flags("INBOX", saved.uids, add=0x08)

Mailboxes are named by their storage names (``Work/Sub``, modified UTF-7 unless the location says UTF-8).
When a call returns, its change is in the store's files.  The reading side sees the change there, like a
change that Dovecot made.  ``PROTOCOL.md`` lists the steps by which each call changes the files.

Every call is one transaction, or one for each mailbox where it says so.  Errors, all of them before or
instead of a change: :class:`~dboxfs.errors.NoSuchMailbox`, :class:`~dboxfs.errors.NoSuchMessage`,
:class:`~dboxfs.errors.StoreBusy` (another process holds a lock for too long),
:class:`~dboxfs.errors.CorruptFile`, :class:`~dboxfs.errors.Unsupported`, those of ``errors``, and OSError
from the file system.

Cancellation: a call that waits for a lock ends without a change; one that has begun to change something
first continues to its end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from dboxfs.errors import DboxfsError, NoSuchMessage, Unsupported
from dboxfs.fsapi import FileSystem
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.location import Location
from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.mdbox.purge import Purged, Report, finish_journal, purge
from dboxfs.store.mdbox.repair import repair_storage
from dboxfs.store.mdbox.write import MdboxWriter
from dboxfs.store.sdbox.write import SdboxWriter
from dboxfs.store.write import log_records
from dboxfs.store.write.expunge_requests import Requests
from dboxfs.store.write.leftovers import forget, resolve
from dboxfs.store.write.mailboxes import MailboxTree
from dboxfs.store.write.maintain import Maintained, Pause, maintain
from dboxfs.store.write.message import CopyAs, NewMessage
from dboxfs.store.write.message_writer import MessageWriter
from dboxfs.store.write.naming import Namer, Wanted
from dboxfs.store.write.recover import recover
from dboxfs.store.write.results import Copied, Saved, few
from dboxfs.store.write.session import Views, Work, visible
from dboxfs.store.write.spool import Spool
from dboxfs.store.write.subscriptions import subscribe
from dboxfs.store.write.sweep import sweep
from dboxfs.store.write_options import Eol, WriteOptions

log = logging.getLogger(__name__)

R = TypeVar("R")


class StoreWriter:
    """Makes every change of one store.  A process has one writer for each store.

    :param owner: attributes of the store's root directory: new files get its owner, group and modes.
    :param views: the store, where this process reads it too: it shows changes of this writer at once.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        owner: os.stat_result,
        options: WriteOptions | None = None,
        *,
        views: Views | None = None,
    ) -> None:
        self.options = options or WriteOptions()
        self.location = location
        self._work = Work(fs, location, owner, self.options, views)
        self._work.repair = repair_storage
        mdbox = self._work.mdbox
        self._backend: MessageWriter = MdboxWriter(self._work) if mdbox else SdboxWriter(self._work)
        self._tree = MailboxTree(self._work, self._execute_expunge)
        self._requests = Requests(self._work, self.expunge, self._execute_expunge)

    @property
    def disk(self) -> Disk:
        """The disk that carries out the writer's file operations."""
        return self._work.disk

    async def seen_map(self) -> MapIndex:
        """mdbox: the map as it was a moment ago.

        :raises FileNotFoundError: there is none.
        :raises CorruptFile, OSError: it can't be read.
        """
        return await self._work.seen_map()

    # -- messages ----------------------------------------------------------------------------------------

    def tell_names(self, namer: Namer) -> None:
        """From now on tell *namer* of every message that shall have a name, before the message is written."""
        self._work.namer = namer

    async def save(self, name: str, messages: Sequence[NewMessage]) -> Saved:
        """Save messages; all of them or none.  Returns when they are durable (``fsync=commit``).

        A message with ``replaces`` takes the place of another one in the same transaction.

        :raises RefusedMessage: one begins with the magic of a compression format.
        :raises Superseded: another message has a name that one of *messages* shall have.
        :raises ValueError: a guid that has not 16 bytes, or a string that can't be a keyword.
        """
        await self._work.locate()
        return await self._backend.add(name, messages) if messages else Saved(0, (), ())

    async def copy(
        self,
        source: str,
        uids: Iterable[int],
        target: str,
        *,
        like: Mapping[int, CopyAs] | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy messages to another mailbox (or the same); no bytes are copied.

        :param like: by uid in the source: uid, flags and keywords of the copy, instead of the original's.
        :param named: the name that the copy shall have, if one message is copied.
        :raises Superseded: another message has that name.
        """
        wanted = sorted(set(uids))
        if not wanted:
            return Copied(0, (), ())
        await self._work.locate()
        return await self._backend.copy(source, wanted, target, like=like, named=named)

    async def move(
        self,
        source: str,
        uids: Iterable[int],
        target: str,
        *,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """Copy messages, then expunge them in the source.

        :param replaces: uid in the target of the message that the only moved one replaces (as
            ``NewMessage.replaces``).
        :param named: the name that the moved message shall have; only with one message.
        :raises Superseded: another message has that name; nothing was moved.
        """
        wanted = sorted(set(uids))
        if not wanted:
            return Copied(0, (), ())
        await self._work.locate()
        if replaces is not None and (len(wanted) > 1 or source == target):
            raise ValueError("one message takes the place of one in another mailbox")
        return await self._backend.move(source, wanted, target, replaces=replaces, named=named)

    async def undelete(self, name: str, what: Sequence[Expunged], *, named: Wanted | None = None) -> Copied:
        """mdbox: bring back expunged messages that are not purged; all of them, or none (NoSuchMessage)."""
        return await self._backend.undelete(name, what, named=named)

    async def take_place(self, name: str, uid: int, old: int, *, named: Wanted | None = None) -> None:
        """Let *uid* replace *old* of the same mailbox: one transaction gives it the flags and keywords of
        *old*, and expunges *old*.  If *old* is gone, nothing changes.

        Once *old* is gone this succeeds, even if the disk could not confirm it or a file could not be removed
        (``lost_errors``): after an error the caller removes *uid*, which would be the only one left.

        :param named: the name of *old*, which *uid* gets, too.
        :raises NoSuchMessage: *uid* is gone; nothing was changed.
        :raises Superseded: *old* is gone, or does not have that name any more; nothing was changed.
        :raises OSError: nothing was changed.
        """
        if uid == old:
            raise ValueError("a message has its own place")
        await self._done_when_gone(name, [old], self._take_place(name, uid, old, named))

    async def _done_when_gone(self, name: str, uids: Sequence[int], change: Awaitable[R]) -> R | None:
        """Carry out a change that expunges *uids*; it succeeds once they are gone, whatever follows."""
        try:
            return await change
        except OSError as error:
            if await self._are_there(name, uids):
                raise
            self._work.disk.lost_errors += 1
            log.error("%s: uid %s is expunged, but: %s", self._work.shown(name), few(uids), error)
            return None

    async def _are_there(self, name: str, uids: Sequence[int]) -> bool:
        """Whether one of *uids* is there; True as well if the mailbox can't be read."""
        try:
            async with self._work.mailbox(name) as index:
                return bool(visible(index.state, uids))
        except (DboxfsError, OSError):
            return True

    async def _take_place(self, name: str, uid: int, old: int, named: Wanted | None) -> None:
        await self._backend.expunge(name, [old], heir=uid, named=named, beside=not self.options.alone)

    async def expunge(self, name: str, uids: Iterable[int], *, execute: bool | None = None) -> list[int]:
        """Expunge messages; gives the uids that were there.

        Once they are gone this succeeds, even if the disk could not confirm it or a file could not be removed
        (``lost_errors``; ``maintain`` does it again).

        :param execute: and all requested ones; False: only request it; None: by ``options.neighbour``.
        :raises OSError: one of the messages is still there.
        """
        wanted = sorted(set(uids))
        if execute is False:
            return await self._request_expunge(name, wanted)
        beside = not (execute or self.options.alone)
        found = await self._done_when_gone(name, wanted, self._backend.expunge(name, wanted, beside=beside))
        return wanted if found is None else found

    async def _execute_expunge(self, name: str, uids: Sequence[int] | None = None) -> list[int]:
        return await self._backend.expunge(name, uids)

    async def _request_expunge(self, name: str, uids: Sequence[int]) -> list[int]:
        async with self._work.mailbox(name) as index:
            wanted = visible(index.state, uids)
            if wanted:
                await index.append(log_records.expunge(index.state, wanted, external=False))
        self._work.count("expunged", len(wanted))
        return wanted

    async def ask_expunge(self, name: str, uid: int) -> bool:
        """Request the expunge of one message; False: it is gone, or was requested already.

        When this returns, the request is in the log and noted: no reader shows the message any more, even if
        this process dies.  :meth:`carry_out` makes requests durable, :meth:`keep_promises` executes them,
        many at once.  Calls in a row are quick (``expunge_requests``).

        :raises OSError: nothing was changed.
        """
        return await self._requests.ask(name, uid)

    async def carry_out(self, name: str) -> None:
        """Make the requests of :meth:`ask_expunge` durable; execute them if there is no Dovecot.

        :raises OSError, DboxfsError: that failed; the requests are still in the log.
        """
        await self._requests.carry_out(name)

    async def keep_promises(self, name: str | None = None) -> None:
        """Execute the requests that :meth:`carry_out` has left (in one mailbox), and forget their notes.

        :raises OSError, DboxfsError: that failed; the requests stay noted.
        """
        await self._requests.keep(name)

    def spool(self, name: str, *, plain: bool = False, home: Callable[[], str] | None = None) -> Spool:
        """A file for the text of a message: its ``source`` later; *plain*: of several messages.

        :param home: gives the storage name that the mailbox has by now, to find the file when it is deleted.
        """
        options, path = self.options, self.location.mailbox_path
        ready = options.dbox_version == 3 and options.eol is Eol.KEEP and not plain
        directory, where = path(name), (lambda: path(home())) if home is not None else None
        if self._work.mdbox:
            directory, where = self.location.storage, None
        return Spool(self._work.fs, directory, self._work.disk.file_permissions, ready=ready, where=where)

    # -- flags and keywords ------------------------------------------------------------------------------

    async def set_flags(self, name: str, uids: Iterable[int], *, add: int = 0, remove: int = 0) -> None:
        """Set and clear flags (bits of ``NewMessage.flags``); a flag in both is set.

        :raises NoSuchMessage: a message is gone; nothing was changed.
        """
        async with self._work.mailbox(name) as index:
            wanted = self._all_of(index, uids)
            await index.append(log_records.change_flags(wanted, add, remove & ~add))
        self._work.count("flagged", len(wanted))

    async def set_keywords(
        self, name: str, uids: Iterable[int], *, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> None:
        """Add and remove keywords.

        :raises NoSuchMessage: a message is gone; nothing was changed.
        :raises ValueError: a string that can't be a keyword.
        """
        added, removed = tuple(dict.fromkeys(add)), tuple(dict.fromkeys(remove))
        log_records.check_keywords(added)
        async with self._work.mailbox(name) as index:
            wanted = self._all_of(index, uids)
            known = {keyword.lower() for keyword in index.state.keyword_names()}
            batch = [r for word in added for r in log_records.change_keyword(wanted, word, add=True)]
            for word in removed:
                if word.lower() in known:
                    batch += log_records.change_keyword(wanted, word, add=False)
            await index.append(batch)
        self._work.count("flagged", len(wanted))

    async def replace_flags(
        self, name: str, uid: int, flags: int | None, keywords: Sequence[str] | None
    ) -> None:
        """Give one message exactly these flags, and exactly these keywords (None: those that it has then).

        :raises NoSuchMessage: it is gone.
        :raises ValueError: a string that can't be a keyword.
        """
        log_records.check_keywords(keywords or ())
        async with self._work.mailbox(name) as index:
            (uid,) = self._all_of(index, [uid])
            await index.append(log_records.exactly(index.state, uid, flags, keywords))
        self._work.count("flagged")

    async def inherit(self, name: str, uid: int, old: int) -> None:
        """Give a message that has no flags and keywords those of another message of the mailbox, which stays.

        If *uid* has flags or keywords by then, or *old* is gone, nothing changes.

        :raises NoSuchMessage: *uid* is gone.
        """
        async with self._work.mailbox(name) as index:
            state = index.state
            self._all_of(index, [uid])
            if log_records.marks(state, uid) == (0, ()) and visible(state, [old]):
                await index.append(log_records.inherit(state, uid, old))
                self._work.count("flagged")

    @staticmethod
    def _all_of(index: IndexLog, uids: Iterable[int]) -> list[int]:
        wanted = sorted(set(uids))
        found = visible(index.state, wanted)
        if len(found) != len(wanted):
            missing = sorted(set(wanted) - set(found))
            raise NoSuchMessage(f"{index.what}: no message with uid {missing[0]}")
        return found

    # -- mailboxes ---------------------------------------------------------------------------------------

    async def create_mailbox(self, name: str, *, guid: bytes | None = None, parents: bool = True) -> None:
        """Make a mailbox; *guid* (16 bytes) counts with LAYOUT=index; *parents*: and folders above it.

        :raises MailboxExists, InvalidName, NoSuchMailbox: it can't be made.
        """
        await self._tree.create(name, guid, parents=parents)

    async def delete_mailbox(self, name: str, *, only_empty: bool = False) -> None:
        """Delete a mailbox with its messages, which are expunged first; children stay.

        :param only_empty: as rmdir(2): refuse if there are messages or children.
        :raises MailboxInUse, NoSuchMailbox, Unsupported: it can't be deleted.
        """
        await self._requests.forget(name, await self._tree.delete(name, only_empty=only_empty))

    async def rename_mailbox(self, old: str, new: str, *, parents: bool = True) -> None:
        """Rename a mailbox or a parent, with all children; *parents*: as for :meth:`create_mailbox`.

        :raises MailboxExists, InvalidName, NoSuchMailbox, Unsupported: it can't be renamed.
        """
        await self._tree.rename(old, new, parents=parents)

    async def set_identity(self, name: str, *, guid: bytes, uid_validity: int, next_uid: int) -> None:
        """Give a mailbox that no client has seen yet the identity of a mailbox of another store.

        :param guid: 16 bytes; ignored with LAYOUT=index, where it names the mailbox's directory.
        :param next_uid: ignored if the mailbox's own is higher.
        :raises ValueError: a guid does not have 16 bytes, or a number is out of range.
        """
        if len(guid) != 16 or not 0 < uid_validity < 1 << 32 or not 0 < next_uid < 1 << 32:
            raise ValueError("a guid has 16 bytes; UIDVALIDITY and uids are 1 to 2**32-1")
        async with self._work.mailbox(name) as index:
            kind, own = self._work.header(index).kind, self._work.location.directories.guid(name)
            batch = log_records.identity(index.state, kind, own or guid, uid_validity, next_uid)
            await index.append(batch, durable=True)

    async def subscribe(self, name: str, subscribed: bool = True) -> bool:
        """Subscribe to a mailbox (it need not exist), or unsubscribe; False: it was so already."""
        return await subscribe(self._work, name, subscribed=subscribed)

    # -- the store as a whole ----------------------------------------------------------------------------

    async def recover(self, names: Iterable[str] | None = None) -> int:
        """Finish the work of an earlier writer that died (``recover``); called before the first change.

        Gives the number of logs and files that had an unfinished end.

        :param names: the storage names of all mailboxes, if the caller has just looked at the tree.
        """
        await resolve(self._work, self.expunge)
        if self._work.mdbox and self.options.alone:
            await finish_journal(self._work)
        cut = await recover(self._work, self._tree.delete, names)
        await forget(self._work)
        return cut

    async def sweep(self, names: Iterable[str], more: Iterable[str] = ()) -> int:
        """Remove temporary files of processes that were killed, beside other writers; gives their number.

        :param names: the storage names of all mailboxes.
        :param more: further directories to look into.
        """
        return await sweep(self._work, names, more)

    async def maintain(self, pause: Pause = trio.lowlevel.checkpoint) -> Maintained:
        """Do the regular upkeep that a Dovecot would do; other calls of this writer may run meanwhile.

        Cancellation takes effect between two mailboxes at the latest.

        :param pause: awaited before each mailbox; it may wait until there is time.
        :raises Unsupported: a Dovecot may write the store, too.
        """
        if not self.options.alone:
            raise Unsupported("next to a Dovecot only Dovecot cleans up")
        if self._work.mdbox:
            await finish_journal(self._work)
        return await maintain(self._work, self._execute_expunge, self._tree.delete, pause)

    async def purge(self, *, dry_run: bool = False, report: Report | None = None) -> Purged:
        """mdbox: give back the bytes of messages that no mailbox has.

        :param dry_run: change nothing; count the bytes that would be given back.
        :param report: called after each file.
        :raises Unsupported: an sdbox, or a Dovecot may write the store, too.
        """
        return await purge(self._work, dry_run=dry_run, report=report)

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[Callable[[Iterable[int]], Sequence[int]]]:
        """Hold the lock of a mailbox: meanwhile no process changes it, and this writer doesn't either.

        Gives a function that returns those of some uids that the mailbox has, ascending.
        """
        async with self._work.mailbox(name) as index:
            yield partial(visible, index.state)

    # -- statistics --------------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Changes so far by kind (``saved`` …), groups of saves, clean-ups that failed (``lost_errors``)."""
        groups = self._backend.groups
        return {**self._work.counts, "groups": groups, "lost_errors": self._work.disk.lost_errors}
