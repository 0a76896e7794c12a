"""``dboxfs convert``: converts a whole store into another format, with everything that Dovecot shows of it.

The steps (PROTOCOL.md beside this file says what a crash after each leaves):

1. lock the destination (``staging.py``); load its journal, or begin one with the present fingerprints of all
   mailboxes;
2. mailbox by mailbox: write messages in chunks, durable before the journal names them; then the whole index;
   then the line of the journal that the mailbox is done;
3. write the map (mdbox), subscriptions, written names, the last UIDVALIDITY;
4. compare source and destination (``verify.py``), if wanted; read the source's indexes once more: they must
   be unchanged;
5. move the finished store to its place (:meth:`Workplace.publish`).

A message or a mailbox that can't be read is reported and left out; everything else is carried over.  While
one chunk is written, the next one is read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np
from msgspec.structs import replace

from dboxfs.errors import DboxfsError, MailHidden, Unsupported
from dboxfs.fsapi import FileSystem
from dboxfs.fsapi.ops import fresh
from dboxfs.store.disk import Disk
from dboxfs.store.folder import Folder
from dboxfs.store.hidden import hidden_in, summary, told
from dboxfs.store.location import Kind, Location
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.opening import open_store
from dboxfs.store.owner_rights import owned_target
from dboxfs.store.store import Store
from dboxfs.store.write import StoreExists, WriteOptions
from dboxfs.store.write.new_store import make_root
from dboxfs.store.write.results import now_seconds, side_by_side
from dboxfs.tools.convert.control import ControlFiles
from dboxfs.tools.convert.errors import OtherConversion, SourceChanged, VerifyFailed
from dboxfs.tools.convert.finished import finished
from dboxfs.tools.convert.journal import Batch, Head, Journal
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot, take_portrait
from dboxfs.tools.convert.newindexes import NewIndexFiles, mailbox_files, map_files
from dboxfs.tools.convert.results import Collected, Converted, ConvertProgress
from dboxfs.tools.convert.source import (
    MESSAGES_TOGETHER,
    MailboxSource,
    SourceMessage,
    Stored,
    close_all,
    reason,
)
from dboxfs.tools.convert.staging import Workplace, open_workplace
from dboxfs.tools.convert.target import MdboxTarget, SdboxTarget, StoreTarget
from dboxfs.tools.convert.verify import verify
from dboxfs.util.uid_ranges import uid_ranges

DURABLE_EVERY = 1024
"""Messages after which the written data are made durable and the journal names them."""

_BATCH_BYTES = 64 << 20


Report = Callable[[ConvertProgress], None]


class Converter:
    """One conversion of *store* into the directory *root*.

    :param kind: format of the destination.
    :param options: ``dbox_version``: of the destination's messages; ``fsync``, ``rotate_size`` and
        ``compress`` count too.
    :param verify: read everything again and compare it before the destination becomes a store.
    :param force: convert even if the source seems to have mail that it doesn't show
        (:mod:`dboxfs.store.hidden`).
    :param report: called with the progress now and then.
    :param batch: messages after which the journal is written.
    """

    def __init__(
        self,
        fs: FileSystem,
        store: Store,
        root: str,
        kind: Kind,
        *,
        verify: bool = False,
        force: bool = False,
        options: WriteOptions,
        report: Report | None = None,
        batch: int = DURABLE_EVERY,
    ) -> None:
        self._made_by = fs
        self._store = store
        self._root = root
        self._kind = kind
        self._verify = verify
        self._force = force
        self._options = options
        self._batch = batch
        self._report = report
        self._fresh = 0
        self._fresh_bytes = 0
        self._unreadable: set[str] = set()
        self._left_out: set[tuple[str, int]] = set()
        self._done: set[str] = set()
        self._collected: dict[str, Collected] = {}
        self._portraits: dict[str, MailboxSnapshot] = {}
        self._total = 0
        self._map_validity = 0
        self.result = Converted()
        self._fs: FileSystem
        self._place: Workplace
        self._target: StoreTarget

    async def run(self) -> Converted:
        """Convert, or go on where an interrupted run ended.

        :raises MailHidden: the source seems to have mail that it doesn't show.
        :raises SourceChanged: the source was changed since the conversion began; the destination stays
            unfinished.
        :raises VerifyFailed: source and destination differ; the destination stays unfinished.
        :raises StoreExists, OtherConversion, StoreBusy, NoSuchStore: the destination can't be used.
        :raises OSError: the destination can't be written; the same command goes on later.
        """
        await self._look_at_source()
        await self._look_for_hidden()
        like = Disk(self._made_by, self._store.owner, self._options)
        await make_root(self._made_by, self._root, like.dir_permissions)
        async with owned_target(self._made_by, self._root) as self._fs:
            return await self._run()

    async def _run(self) -> Converted:
        try:
            self._place = await open_workplace(self._fs, self._root, self._kind, self._options)
        except StoreExists:
            if not await self._is_finished():
                raise
            return self.result
        try:
            self._target = (MdboxTarget if self._kind is Kind.MDBOX else SdboxTarget)(self._place.work)
            await self._load(self._place.journal)
            if not self._place.journal.publishing:
                await self._place.check_nothing_else()
                try:
                    await self._convert()
                finally:
                    await self._target.close()
            await self._place.publish()
        finally:
            await self._place.close()
        return self.result

    async def _look_for_hidden(self) -> None:
        """Refuse a source that seems to hide mail; with *force*, only report it in the result."""
        found = await hidden_in(self._store)
        if found and not self._force:
            raise MailHidden(f"{summary(found)}; --force converts what is shown")
        self.result.hidden = told(found)

    async def _is_finished(self) -> bool:
        """Whether an earlier run was killed after its last step, so that nothing is left to do."""
        version = self._options.dbox_version
        missing = await finished(self._fs, self._root, self._kind, version, self._portraits)
        if missing is None:
            return False
        for name, uids in missing.items():
            self._left_out.update((name, uid) for uid in uids)
            self._fail(f"{self._shown(name)}: uid {uid_ranges(uids)} was left out by an earlier run")
        self.result.resumed = self.result.finished = True
        self.result.messages = self._total - len(self._left_out)
        if self._verify:
            await self._compare_stores(Location(self._kind, self._root))
        return True

    # -- the source --------------------------------------------------------------------------------------

    async def _look_at_source(self) -> None:
        """Take snapshots of all mailboxes, and report those that can't be read."""
        if self._store.root.error is not None:
            raise fresh(self._store.root.error)
        for folder in self._folders():
            try:
                await self._store.check(folder)
            except (DboxfsError, OSError) as exc:
                self._fail(f"{self._shown(folder.name)}: the mailbox was left out: {reason(exc)}")
                self._unreadable.add(folder.name)
                continue
            portrait = _portrait(folder)
            if portrait is not None:
                self._portraits[folder.name] = portrait
        self._total = sum(len(portrait) for portrait in self._portraits.values())
        self.result.mailboxes = len(self._portraits)

    def _folders(self) -> list[Folder]:
        found = [folder for folder in self._store.folders.values() if folder.parent is not None]
        return sorted(found, key=lambda folder: folder.name)

    def _shown(self, name: str) -> str:
        return self._store.location.display_name(name)

    def _fail(self, line: str) -> None:
        self.result.failed.append(line)

    def _fingerprints(self) -> dict[str, str]:
        return {name: portrait.fingerprint for name, portrait in self._portraits.items()}

    async def _check_unchanged(self) -> None:
        """Read the source's indexes again.

        :raises SourceChanged: a fingerprint is not the same.
        """
        assert self._place.journal.head is not None
        await self._store.refresh_tree()
        now: dict[str, str] = {}
        for folder in self._folders():
            await self._store.refresh_mailbox(folder)
            portrait = _portrait(folder)
            if portrait is not None:
                now[folder.name] = portrait.fingerprint
        self._compare(now, self._place.journal.head)

    def _compare(self, now: Mapping[str, str], head: Head) -> None:
        names = {
            name
            for name in now.keys() | head.fingerprints.keys()
            if now.get(name) != head.fingerprints.get(name)
        }
        if names:
            shown = ", ".join(self._shown(name) for name in sorted(names)[:5])
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise SourceChanged(
                f"the source has changed since the conversion began ({shown}{more}): "
                f"see that nothing writes it, remove {self._root}, and begin again"
            )

    # -- the journal -------------------------------------------------------------------------------------

    async def _load(self, journal: Journal) -> None:
        """Begin a journal, or load that of an earlier run."""
        await journal.load(self._remember, self._finished)
        head, wanted = journal.head, self._head()
        if head is None:
            await journal.begin(wanted)
            return
        if (head.source, head.kind, head.version) != (wanted.source, wanted.kind, wanted.version):
            raise OtherConversion(
                f"{self._root}: holds an interrupted conversion of {head.source} to {head.kind}, "
                f"dbox version {head.version}; go on with that one, or remove the directory"
            )
        self.result.resumed = True
        if not journal.publishing:
            self._compare(wanted.fingerprints, head)

    def _head(self) -> Head:
        location = self._store.location
        source = f"{location.kind.value}:{os.path.realpath(location.root)}"
        return Head(source, self._kind.value, self._options.dbox_version, now_seconds(), self._fingerprints())

    def _remember(self, batch: Batch) -> None:
        self._collected.setdefault(batch.mailbox, Collected()).add(batch)
        self._target.remember(batch)
        self._count(batch)

    def _finished(self, name: str) -> None:
        self._done.add(name)
        self._collected.pop(name, None)

    def _count(self, batch: Batch) -> None:
        self.result.messages += len(batch.rows)
        for uid, why in batch.failed:
            self._left_out.add((batch.mailbox, uid))
            self._fail(f"{self._shown(batch.mailbox)}: uid {uid} was left out: {why}")
        for uid, trouble in batch.told:
            self.result.told.append(f"{self._shown(batch.mailbox)}: uid {uid}: {trouble}")
        if batch.encrypted:
            self.result.encrypted.setdefault(self._shown(batch.mailbox), []).extend(batch.encrypted)

    # -- converting --------------------------------------------------------------------------------------

    async def _convert(self) -> None:
        await self._place.prepare()
        await self._target.resume()
        assert self._place.journal.head is not None
        self._map_validity = max(self._place.journal.head.began, 1)
        for folder in self._folders():
            await self._place.work.disk.make_dirs(self._folder_path(folder))
            portrait = self._portraits.get(folder.name)
            if portrait is not None and folder.mailbox is not None and folder.name not in self._done:
                await self._convert_mailbox(folder.mailbox, portrait)
        if isinstance(self._target, MdboxTarget):
            await self._target.finish()
            files = map_files(
                self._target.rows(),
                uid_validity=self._map_validity,
                highest_file_id=self._target.highest_file_id,
            )
            await self._write_index(self._place.work.location.map_dir, "dovecot.map.index", files)
        control = ControlFiles(self._store, self._place, self._portraits)
        for line in await control.write(self._options.dbox_version):
            self._fail(line)
        await self._place.journal.commit()
        if self._verify:
            await self._compare_stores(
                dataclasses.replace(self._place.work.location, keys=self._store.location.keys)
            )
        await self._check_unchanged()
        await self._place.journal.publish()

    def _folder_path(self, folder: Folder) -> str:
        """The directory to make for *folder* in the destination: that of a mailbox, or only a parent."""
        location = self._place.work.location
        if location.dirname in folder.name.split("/"):
            raise Unsupported(f"{folder.name}: no mailbox of the destination can have this name")
        box = folder.mailbox
        if box is not None and not box.deleted and folder.name not in self._unreadable:
            return location.mailbox_path(folder.name)
        return os.path.join(location.tree, folder.name)

    async def _convert_mailbox(self, box: Mailbox, portrait: MailboxSnapshot) -> None:
        collected = self._collected.setdefault(box.name, Collected())
        begin = int(np.searchsorted(portrait.uids, collected.last_uid, side="right"))
        if begin < len(portrait):
            source = await MailboxSource.open(self._store, box, portrait)
            step, end = min(MESSAGES_TOGETHER, self._batch), len(portrait)
            chunks = [range(at, min(at + step, end)) for at in range(begin, end, step)]
            ahead = await source.chunk(chunks[0], self._target.shared)
            for rows in [*chunks[1:], None]:
                ahead = await self._put(source, collected, ahead, rows)
        now = self._map_validity
        validity = now if self._kind is Kind.MDBOX else None
        written = self._written(portrait)
        files = mailbox_files(written, collected.rows(), map_uid_validity=validity, now=now)
        await self._write_index(self._place.work.location.index_path(box.name), "dovecot.index", files)
        self._place.journal.finish(box.name)
        del self._collected[box.name]
        await self._commit_if_due()

    def _written(self, portrait: MailboxSnapshot) -> MailboxSnapshot:
        """*portrait* as the destination has it: with a UIDVALIDITY, since readers need one."""
        if portrait.uid_validity or portrait.next_uid <= 1:
            return portrait
        self.result.told.append(f"{self._shown(portrait.name)}: it has no UIDVALIDITY and gets a new one")
        return replace(portrait, uid_validity=self._map_validity)

    async def _put(
        self, source: MailboxSource, collected: Collected, found: list[SourceMessage], ahead: range | None
    ) -> list[SourceMessage]:
        """Store one chunk while the next one is read; returns the next one."""
        coming: list[SourceMessage] = []
        batch = Batch(source.name)

        async def read() -> None:
            if ahead is not None:
                coming.extend(await source.chunk(ahead, self._target.shared))

        async def write() -> None:
            nonlocal batch
            batch = await self._target.put(source.name, found)
            kept = {row.uid for row in batch.rows}
            batch.encrypted = [one.uid for one in found if one.uid in kept and _is_encrypted(one)]

        try:
            await side_by_side(lambda _, part: part(), [read, write])
        except BaseException:
            close_all(coming)
            raise
        self._place.journal.add(batch)
        collected.add(batch)
        self._count(batch)
        size = sum(message.size for message in found if isinstance(message, Stored))
        self.result.bytes += size
        self._fresh += len(found)
        self._fresh_bytes += size
        await self._commit_if_due()
        if self._report is not None:
            self._report(ConvertProgress(self.result.messages, self._total, self.result.bytes))
        return coming

    async def _commit_if_due(self) -> None:
        """Commit the journal when enough was written: this bounds the work that an interruption loses."""
        if self._fresh >= self._batch or self._fresh_bytes >= _BATCH_BYTES:
            self._fresh = self._fresh_bytes = 0
            await self._place.journal.commit()

    async def _compare_stores(self, target: Location) -> None:
        """Compare the store in *target* with the source.

        :raises VerifyFailed: they differ.
        """
        self.result.verified = 0
        compared = 0

        def count(messages: int, size: int) -> None:
            nonlocal compared
            assert self.result.verified is not None
            self.result.verified += messages
            compared += size
            if self._report is not None:
                self._report(ConvertProgress(self.result.verified, self._total, compared, verifying=True))

        try:
            async with open_store(self._fs, target, follow=False) as made:
                tell = self.result.told.append
                await verify(self._store, made, self._portraits, self._left_out, count, tell)
        except VerifyFailed as exc:
            raise VerifyFailed(f"{exc}; remove {self._root}, and begin again") from exc

    async def _write_index(self, directory: str, stem: str, files: NewIndexFiles) -> None:
        base = os.path.join(directory, stem)
        await self._place.write(base + ".log", files.log)
        if files.cache is not None:
            await self._place.write(base + ".cache", files.cache)
        await self._place.write(base, files.snapshot)


def _is_encrypted(found: SourceMessage) -> bool:
    return isinstance(found, Stored) and found.encrypted


def _portrait(folder: Folder) -> MailboxSnapshot | None:
    box = folder.mailbox
    if box is None or box.state is None or box.deleted:
        return None
    return take_portrait(folder.name, box.state)
