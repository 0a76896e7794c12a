"""``dboxfs export``: writes a store into a directory, in a format that other programs read.

::

    DIR/.dboxfs-export/journal    {"export": 1, "source": ..., "format": ..., "mailboxes": [...]}
                                  {"done": NAME} ... {"publish": true}
    DIR/.dboxfs-export/work       the mailbox that is being written
    DIR/.dboxfs-export/root/      mailboxes that are whole, and files that belong into DIR itself
    DIR/...                       everything, renamed to here at the very end

=====================================  =====================================================================
a crash after                          leaves
=====================================  =====================================================================
1 the journal's first line             no mail yet; the next run goes on (``--resume``)
2 a part of a mailbox in ``work``      a part that no program reads; the next run removes it and begins again
3 ``work`` renamed into ``root``       a mailbox that the journal doesn't name: it is removed and made again
4 ``{"done": NAME}``                   a mailbox that is whole and on disk; the next run skips it
5 ``{"publish": true}``                all on disk; the next run only does the remaining renames, and removes
                                       the journal
=====================================  =====================================================================

DIR shows nothing before everything is whole.  The store is only read; each mailbox is exported in the state
that it has when its turn comes.  A message that can't be read is reported and left out.  Memory: some texts,
and the lists that the format keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import DboxfsError, NoSuchStore, StoreBusy
from dboxfs.fsapi import FileSystem, ops
from dboxfs.fsapi.ops import LockKind
from dboxfs.store.attrs import Uids
from dboxfs.store.disk import Disk
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.owner_rights import owned_target, refuse_planted_links
from dboxfs.store.store import Store
from dboxfs.store.write import Fsync, WriteOptions
from dboxfs.store.write.results import now_seconds
from dboxfs.tools.exporting.errors import NoPlace, TargetTaken
from dboxfs.tools.exporting.formats import BoxFacts, Format, MailboxWriter
from dboxfs.tools.exporting.message import WHOLE_MESSAGE, Outgoing
from dboxfs.tools.exporting.results import Exported, ExportProgress
from dboxfs.tools.line_journal import LineJournal
from dboxfs.tools.staged import publish, remove_tree

UNFINISHED = ".dboxfs-export"
_WRITING = WriteOptions(fsync=Fsync.NEVER)
_READ_AT_ONCE = 32

Report = Callable[[ExportProgress], None]


class _State(Struct):
    """The contents of the journal."""

    head: Mapping[str, Any] | None
    done: set[str]
    publishing: bool = False

    def take(self, line: Mapping[str, Any]) -> None:
        if "export" in line:
            self.head = line
        elif "done" in line:
            self.done.add(line["done"])
        else:
            self.publishing = bool(line["publish"])


class Exporter:
    """One export of *store* into the directory *root*.

    :param form: the format; *name*: its name in the journal.
    :param resume: go on with an interrupted export; if False, refuse one.
    :param report: called with the progress now and then.
    """

    def __init__(
        self,
        fs: FileSystem,
        store: Store,
        root: str,
        form: Format,
        name: str,
        *,
        resume: bool = False,
        durable: bool = True,
        report: Report | None = None,
    ) -> None:
        self._fs = fs
        self._store = store
        self._root = root
        self._form = form
        self._name = name
        self._resume = resume
        self._durable = durable
        self._report = report
        self._total = 0
        self._subscribed: frozenset[str] = frozenset()
        self._work = os.path.join(root, UNFINISHED, "work")
        self._inbox = os.path.join(root, UNFINISHED, "inbox")
        self._made = os.path.join(root, UNFINISHED, "root")
        self._journal = os.path.join(root, UNFINISHED, "journal")
        self._disk: Disk
        self.result = Exported()

    async def run(self) -> Exported:
        """Export, or go on where an interrupted run ended.

        :raises TargetTaken: the directory holds something else, or an interrupted export without *resume*.
        :raises NoPlace: the format can't hold the name of a mailbox; nothing was written.
        :raises StoreBusy: another export is writing the directory.
        :raises OSError: the directory can't be written; the same command with ``--resume`` goes on later.
        """
        boxes = await self._boxes()
        self._check_places(boxes)
        await self._make_root()
        async with owned_target(self._fs, self._root) as files:
            return await self._export(files, boxes)

    async def _export(self, files: FileSystem, boxes: list[BoxFacts]) -> Exported:
        if await self._is_finished(files):
            await self._end()
            self.result.finished = True
            return self.result
        journal, state = await self._open_journal([box.folder.name for box in boxes])
        try:
            if not state.publishing:
                await self._check_nothing_else()
                await self._write_all(boxes, journal, state)
                journal.add({"publish": True})
                await journal.commit()
            await self._publish()
        finally:
            await journal.close()
        return self.result

    # -- the store ---------------------------------------------------------------------------------------

    async def _boxes(self) -> list[BoxFacts]:
        """All mailboxes that can be read; the others are reported."""
        if self._store.root.error is not None:
            raise ops.fresh(self._store.root.error)
        try:
            self._subscribed = await self._store.subscribed()
        except OSError as exc:
            self.result.failed.append(f"the subscriptions were left out: {_reason(exc)}")
        found = []
        folders = [folder for folder in self._store.folders.values() if folder.parent is not None]
        for folder in sorted(folders, key=lambda folder: folder.name):
            shown = self._store.display_name(folder)
            try:
                await self._store.check(folder)
            except (DboxfsError, OSError) as exc:
                self.result.failed.append(f"{shown}: the mailbox was left out: {_reason(exc)}")
                continue
            box = folder.mailbox
            if box is None or box.deleted or box.state is None:
                continue
            self._total += len(box)
            guid = box.guid or bytes(16)
            validity = box.uid_validity or now_seconds()
            words = _used_keywords(box)
            found.append(
                BoxFacts(folder, shown, guid, validity, box.uid_next, words, folder.name in self._subscribed)
            )
        return found

    def _check_places(self, boxes: list[BoxFacts]) -> None:
        places: dict[str, str] = {}
        for box in boxes:
            place = self._form.place(box.folder)
            if place in places:
                raise NoPlace(f"{box.shown}: {places[place]} would have the same place; rename one of them")
            places[place] = box.shown

    # -- the target --------------------------------------------------------------------------------------

    async def _make_root(self) -> None:
        """Make the directory if it is missing, with the store's owner.

        :raises NoSuchStore: the directory above is missing; another user's link is in the way.
        """
        await refuse_planted_links(self._fs, self._root)
        probe = Disk(self._fs, self._store.owner, _WRITING)
        try:
            await self._fs.run(ops.Mkdir(self._root, replace(probe.dir_permissions, mode=0o700)))
        except FileExistsError:
            pass
        except FileNotFoundError:
            above = os.path.dirname(self._root)
            raise NoSuchStore(f"{self._root}: there is no directory {above}; make it first") from None

    async def _is_finished(self, files: FileSystem) -> bool:
        """Whether the directory holds the finished export.  *files* writes it.

        :raises TargetTaken: it holds something else, or an interrupted export without *resume*.
        """
        self._disk = Disk(files, await files.stat(self._root), _WRITING, self._root)
        names = {entry.name for entry in await files.listdir(self._root)}
        begun = UNFINISHED in names
        if begun and not self._resume:
            raise TargetTaken(f"{self._root}: holds an interrupted export; --resume goes on with it")
        others = names - {UNFINISHED}
        inside = await self._disk.listdir(os.path.join(self._root, UNFINISHED))
        if others and not inside and begun:
            return True  # an earlier run was killed just before it removed the empty directory
        if others and not any(entry.name == "journal" for entry in inside):
            raise TargetTaken(f"{self._root}: the directory is not empty ({min(others)}); give a new one")
        return False

    async def _open_journal(self, mailboxes: list[str]) -> tuple[LineJournal, _State]:
        disk = self._disk
        await disk.mkdir(os.path.join(self._root, UNFINISHED))
        try:
            file = await disk.create(self._journal)
        except FileExistsError:
            file = await disk.open(self._journal)
        journal, state = LineJournal(file, durable=self._durable), _State(None, set())
        try:
            if not await file.try_lock(LockKind.FLOCK):
                raise StoreBusy(f"{self._root}: another dboxfs export is writing it")
            await journal.load(state.take, "export")
            head = {
                "export": 1,
                "source": os.path.realpath(self._store.location.root),
                "format": self._name,
                "mailboxes": mailboxes,
            }
            if state.head is None:
                journal.add(head)
                await journal.commit()
            elif dict(state.head) != head:
                raise TargetTaken(
                    f"{self._root}: holds an interrupted export of another store or format, or mailboxes "
                    "came or went meanwhile; remove the directory, and begin again"
                )
        except BaseException:
            await journal.close()
            raise
        return journal, state

    async def _check_nothing_else(self) -> None:
        """
        :raises TargetTaken: there are other files beside the unfinished export.
        """
        others = {entry.name for entry in await self._disk.listdir(self._root)} - {UNFINISHED}
        if others:
            raise TargetTaken(f"{self._root}: the directory is not empty ({min(others)}); give a new one")

    async def _write_all(self, boxes: list[BoxFacts], journal: LineJournal, state: _State) -> None:
        await self._disk.mkdir(self._made)
        for box in boxes:
            if box.folder.name in state.done:
                self.result.resumed += 1
                continue
            await remove_tree(self._disk, self._work)
            await self._write(box)
            place = self._form.place(box.folder)
            target = os.path.join(self._made, place) if place else self._inbox
            await self._disk.make_dirs(os.path.dirname(target))
            await remove_tree(self._disk, target)
            await self._disk.run(ops.Rename(self._work, target))
            journal.add({"done": box.folder.name})
            await journal.commit()
            self.result.mailboxes += 1
        await self._form.finish(self._disk, self._made, boxes, self._subscribed)

    async def _write(self, box: BoxFacts) -> None:
        mailbox = box.folder.mailbox
        assert mailbox is not None, "a mailbox that can be read"
        writer = await self._form.begin(self._disk, self._work, box)
        try:
            await mailbox.scan()  # dates of all messages at once
            uids = mailbox.uids
            for start in range(0, len(uids), _READ_AT_ONCE):
                await self._write_chunk(mailbox, box, writer, uids[start : start + _READ_AT_ONCE])
        except BaseException:
            await writer.close(done=False)
            raise
        await writer.close(done=True)

    async def _write_chunk(self, mailbox: Mailbox, box: BoxFacts, writer: MailboxWriter, uids: Uids) -> None:
        found: list[Outgoing | str | None] = [None] * len(uids)

        async def read(at: int, uid: int) -> None:
            try:
                found[at] = await _outgoing(mailbox, uid)
            except (DboxfsError, OSError) as exc:
                found[at] = _reason(exc)

        try:
            async with trio.open_nursery() as nursery:
                for at, uid in enumerate(uids.tolist()):
                    nursery.start_soon(read, at, uid)
            for uid, message in zip(uids.tolist(), found, strict=True):
                where = f"{box.shown}: uid {uid}"
                if not isinstance(message, Outgoing):
                    self.result.failed.append(f"{where} was left out: {message}")
                    continue
                try:
                    trouble = await writer.put(message)
                except DboxfsError as exc:
                    self.result.failed.append(f"{where} was left out: {_reason(exc)}")
                    continue
                if trouble:
                    self.result.told.append(f"{where}: {trouble}")
                self.result.messages += 1
                self.result.bytes += message.size
        finally:
            for message in found:
                if isinstance(message, Outgoing):
                    message.close()
        if self._report is not None:
            self._report(ExportProgress(self.result.messages, self._total, self.result.bytes))

    async def _publish(self) -> None:
        """Move everything to its place; files that an earlier attempt has moved stay there."""
        disk = self._disk
        for staged in (self._inbox, self._made):
            await publish(disk, staged, self._root, durable=self._durable)
        await remove_tree(disk, self._work)
        await disk.unlink(self._journal)
        await self._end()

    async def _end(self) -> None:
        await self._disk.run(ops.Rmdir(os.path.join(self._root, UNFINISHED)))
        if self._durable:
            await self._disk.run(ops.SyncDir(self._root))


async def _outgoing(mailbox: Mailbox, uid: int) -> Outgoing:
    """Open a message for the export.

    :raises DboxfsError, OSError: the message can't be read.
    """
    state = mailbox.state
    row = state.row_of(uid) if state is not None else -1
    facts = await mailbox.facts_of(uid)
    metadata = (await mailbox.details(uid)).metadata
    body = mailbox.open_now(uid) or await mailbox.open(uid)
    flags = int(state.flags[row]) & 0x1F if state is not None and row >= 0 else 0
    message = Outgoing(
        uid, metadata.received, facts.saved, flags, mailbox.keywords(uid), metadata, body.size, None, body
    )
    if body.size <= WHOLE_MESSAGE:
        try:
            message.data = await body.read(body.size, 0)
        finally:
            message.close()
    return message


def _used_keywords(box: Mailbox) -> tuple[str, ...]:
    """The keywords that some message has, in the order in which the mailbox learnt them."""
    state = box.state
    if state is None:
        return ()
    used = {word for uid in box.uids.tolist() for word in box.keywords(uid)}
    return tuple(word for word in state.keyword_names() if word in used)


def _reason(exc: DboxfsError | OSError) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
