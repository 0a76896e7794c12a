"""``dboxfs archive``: what is new in a store becomes objects, and then a generation (``ARCHIVE.md``).

The store is only read.  A message that can't be read is told and left out; the generation has everything
else. Memory: the columns of all mailboxes, and one chunk of messages; a message file that is being made is
on disk.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import trio
from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.drivers.slices import Slice
from dboxfs.store.attrs import FactColumns
from dboxfs.store.dbox_version import encode_version, version_path
from dboxfs.store.disk import Disk
from dboxfs.store.folder import Folder
from dboxfs.store.indexes.create import last_uid_validity
from dboxfs.store.location import TreeLayout
from dboxfs.store.mailbox import Mailbox
from dboxfs.store.store import Store
from dboxfs.store.write.results import now_seconds
from dboxfs.store.write_options import Neighbour, WriteOptions
from dboxfs.tools.archive.base import ArchiveBase
from dboxfs.tools.archive.data_file import DataFile
from dboxfs.tools.archive.generation import DATA, ROWS, Generation, MailboxEntry
from dboxfs.tools.archive.mailbox_object import (
    PLACE,
    PackedFiles,
    control_object,
    mailbox_object,
    map_object,
    names_path,
)
from dboxfs.tools.archive.repository import Repository
from dboxfs.tools.convert.errors import Unfit
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot, take_portrait
from dboxfs.tools.convert.newindexes import NewRows
from dboxfs.tools.convert.source import MESSAGES_TOGETHER, PIECE, MailboxSource, Stored, close_all, reason

SEALED_BYTES = 32 << 20
"""A message file that has reached this size is sealed."""

R = TypeVar("R")


class Archived(Struct):
    """What came of a run.  ``generation``: the newest one now; ``new``: this run has made it.

    ``stored``: messages (and ``bytes``) that were written.  ``failed``: messages and mailboxes that were
    left out, ``told``: kept, but not as they should be; a line each.
    """

    generation: Generation | None = None
    new: bool = False
    stored: int = 0
    bytes: int = 0
    resumed: int = 0
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class ArchiveOptions(Struct, frozen=True):
    """``before``: only messages received before then (seconds since the epoch).  ``mailboxes``: only these
    (storage names), the others stay as the newest generation has them; None: all.  ``sealed``: bytes of a
    message file. ``break_lock``: take the lock away from whoever has it.
    """

    before: int | None = None
    mailboxes: frozenset[str] | None = None
    sealed: int = SEALED_BYTES
    break_lock: bool = False


class Archiver:
    """One run.

    :param report: told now and then: messages looked at, of how many, bytes written.
    """

    def __init__(
        self,
        store: Store,
        repository: Repository,
        options: ArchiveOptions,
        report: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self._store = store
        self._repository = repository
        self._options = options
        self._report = report
        self._disk = Disk(store.fs, store.owner, WriteOptions(neighbour=Neighbour.ALONE), store.location.root)
        self._seen = self._total = 0
        self._base: ArchiveBase
        self._there: dict[str, int] = {}
        self._file: DataFile | None = None
        self._files: dict[str, Slice] = {}
        self._objects: dict[str, tuple[int, str]] = {}
        self._mailboxes: dict[str, MailboxEntry] = {}
        self.result = Archived()

    async def run(self) -> Archived:
        """Archive, or go on where a run has died.

        :raises StoreBusy: another run has the lock, or has taken it away.
        :raises CorruptFile: the newest generation is damaged.
        :raises OSError: the object store fails; the same command goes on later.
        """
        await _blocking(lambda: self._repository.lock("archive", broken=self._options.break_lock))
        try:
            await self._archive()
        finally:
            if self._file is not None:
                self._file.close()
            with trio.CancelScope(shield=True):
                await self._unlock()
        return self.result

    async def _unlock(self) -> None:
        try:
            await _blocking(self._repository.unlock)
        except (DboxfsError, OSError) as exc:
            self.result.told.append(f"the lock stays: {reason(exc)}")

    async def _archive(self) -> None:
        self._base = await _blocking(lambda: ArchiveBase.load(self._repository, now_seconds()))
        self.result.resumed = self._base.resumed
        self.result.told += self._base.told
        self._there = await _blocking(lambda: self._repository.sizes("index"))
        folders = sorted(
            (one for one in self._store.folders.values() if one.parent is not None), key=lambda one: one.name
        )
        portraits = [(one, await self._portrait(one)) for one in folders]
        self._total = sum(len(portrait) for _, portrait in portraits if portrait is not None)
        for folder, portrait in portraits:
            if portrait is None or not self._is_wanted(folder.name):
                self._take_over(folder.name)
            elif folder.mailbox is not None:
                await self._mailbox(folder.mailbox, portrait)
        if self._options.mailboxes is not None:
            for name in self._base.mailboxes.keys() - {folder.name for folder in folders}:
                self._take_over(name)
        await self._seal()
        await self._finish(folders)

    def _is_wanted(self, name: str) -> bool:
        return self._options.mailboxes is None or name in self._options.mailboxes

    async def _portrait(self, folder: Folder) -> MailboxSnapshot | None:
        try:
            await self._store.check(folder)
        except (DboxfsError, OSError) as exc:
            self._fail(f"{self._shown(folder.name)}: the mailbox was left as it was: {reason(exc)}")
            return None
        box = folder.mailbox
        if box is None or box.deleted or box.state is None:
            return None
        return take_portrait(folder.name, box.state)

    # -- one mailbox -------------------------------------------------------------------------------------

    def _take_over(self, name: str) -> None:
        """A mailbox stays as the generation before has it."""
        entry = self._base.mailboxes.get(name)
        if entry is None:
            return
        self._mailboxes[name] = entry
        self._files.update(self._base.files_of(name))
        self._base.keep(name)

    async def _mailbox(self, box: Mailbox, portrait: MailboxSnapshot) -> None:
        await box.scan()
        chosen, facts = self._chosen(box, portrait)
        names = await self._names(portrait)
        fingerprint = _fingerprint(portrait, portrait.uids[chosen], names)
        entry = self._base.mailboxes.get(box.name)
        whole = entry is not None and await _blocking(lambda: self._base.is_whole(box.name))
        if entry is not None and entry.fingerprint == fingerprint and whole:
            self._take_over(box.name)
            self._progress(len(portrait))
            return
        found, failed = await self._messages(box, portrait, chosen)
        kept = np.array([uid in found for uid in portrait.uids[chosen].tolist()], bool)
        uids = portrait.uids[chosen][kept]
        at = [found[uid] for uid in uids.tolist()]
        rows = NewRows(
            uids,
            np.array([saved for _, saved in at], np.uint32),
            np.array([map_uid for map_uid, _ in at], np.uint32),
            np.zeros((0, 16), np.uint8),
        )
        records = self._base.refer(rows.map_uids)
        guids = np.frombuffer(records["guid"].tobytes(), np.uint8).reshape(-1, 16)
        packed = mailbox_object(
            portrait, replace(rows, guids=guids), records, facts[kept], names, self._base.map_uid_validity
        )
        await self._pack(packed)
        guid, validity = portrait.guid.hex(), portrait.uid_validity
        if failed:
            fingerprint = ""  # the next run tries again
        self._mailboxes[box.name] = MailboxEntry(fingerprint, guid, validity, len(uids))

    def _chosen(self, box: Mailbox, portrait: MailboxSnapshot) -> tuple[npt.NDArray[np.int64], FactColumns]:
        """Rows of the portrait that are archived, and their facts."""
        table = box.facts
        at = np.searchsorted(table.uids, portrait.uids)
        at[at == len(table)] = 0
        facts = table.columns(at) if len(table) else FactColumns(*(np.zeros(0, np.uint8),) * 5)
        rows = np.arange(len(portrait))
        if self._options.before is not None:
            rows = rows[facts.received.astype(np.int64) < self._options.before]
        return rows, facts[rows]

    async def _messages(
        self, box: Mailbox, portrait: MailboxSnapshot, chosen: npt.NDArray[np.int64]
    ) -> tuple[dict[int, tuple[int, int]], bool]:
        """Map uid and saved date of the messages that are archived, by uid; whether one was left out."""
        guid, validity = portrait.guid.hex(), portrait.uid_validity
        known = await _blocking(lambda: self._base.known(guid, validity))
        found: dict[int, tuple[int, int]] = {}
        new: list[int] = []
        for row in chosen.tolist():
            uid = int(portrait.uids[row])
            old = known.get(uid)
            if old is not None:
                found[uid] = old
            else:
                new.append(row)
        self._progress(len(portrait) - len(new))
        failed = len(self.result.failed)
        if new:
            source = await MailboxSource.open(self._store, box, portrait)
            for start in range(0, len(new), MESSAGES_TOGETHER):
                items = await source.chunk(new[start : start + MESSAGES_TOGETHER], ())
                try:
                    for item in items:
                        if isinstance(item, Stored):
                            await self._message(box, item, found)
                        else:
                            self._left_out(box, item.uid, item.reason)
                finally:
                    close_all(items)
                self._progress(len(items))
        return found, len(self.result.failed) > failed

    async def _message(self, box: Mailbox, message: Stored, found: dict[int, tuple[int, int]]) -> None:
        try:
            map_uid = None
            if self._base.has_guid(message.guid):
                map_uid = self._base.find(message.guid, message.size, await _crc(message))
            if map_uid is None:
                map_uid = await self._store_message(box, message)
        except Unfit as exc:
            self._left_out(box, message.uid, str(exc))
            return
        found[message.uid] = (map_uid, message.saved)

    async def _store_message(self, box: Mailbox, message: Stored) -> int:
        if self._file is None:
            self._file = DataFile(self._base.next_file_id(), self._repository.token)
        file, before, map_uid = self._file, self._file.end, self._base.next_map_uid
        trouble = await file.append(message, box.name, map_uid)
        if trouble:
            self.result.told.append(f"{box.display_name}: uid {message.uid}: {trouble}")
        self._base.add(file.rows[-1])
        self.result.stored += 1
        self.result.bytes += file.end - before
        if file.end >= self._options.sealed:
            await self._seal()
        return map_uid

    async def _seal(self) -> None:
        """The message file becomes an object."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if file.rows:
                self._base.sealed(file.file_id, await _blocking(lambda: file.upload(self._repository)))
        finally:
            file.close()

    async def _names(self, portrait: MailboxSnapshot) -> bytes | None:
        path = os.path.join(self._store.location.control_dir, names_path(portrait.guid))
        return await self._read(path, f"{self._shown(portrait.name)}: the names of its files were left out")

    async def _read(self, path: str, complaint: str) -> bytes | None:
        """A small file; None: there is none, or it can't be read, which is told."""
        try:
            return await self._disk.read_whole(path)
        except OSError as exc:
            self._fail(f"{complaint}: {reason(exc)}")
            return None

    # -- the generation ----------------------------------------------------------------------------------

    async def _pack(self, packed: PackedFiles) -> dict[str, Slice]:
        stored = await _blocking(lambda: self._repository.put_packed(packed.data, self._there))
        self._objects[stored.key] = (stored.size, stored.digest)
        slices = packed.slices(stored)
        self._files.update(slices)
        return slices

    async def _finish(self, folders: list[Folder]) -> None:
        base = self._base
        rows = await _blocking(base.referred)
        packed = map_object(
            rows,
            uid_validity=base.map_uid_validity,
            next_map_uid=base.next_map_uid,
            highest_file_id=base.highest_file_id,
        )
        rows_slice = (await self._pack(packed))[""]
        del self._files[""]
        await self._pack(control_object(await self._control()))
        for file_id, stored in base.data_of(rows).items():
            self._files[os.path.join(PLACE.storage, f"m.{file_id}")] = Slice(stored.key, 0, stored.size)
            self._objects[stored.key] = (stored.size, stored.digest)
        for one in self._files.values():
            self._objects.setdefault(one.key, base.objects.get(one.key, (0, "")))
        generation = self._generation(rows_slice, folders)
        if base.newest is not None and base.newest is base.generation and generation.same_store(base.newest):
            self.result.generation = base.newest
        else:
            await _blocking(lambda: self._repository.create_generation(generation))
            self.result.generation, self.result.new = generation, True
        await _blocking(self._remove_rows)

    def _generation(self, rows: Slice, folders: list[Folder]) -> Generation:
        base, location = self._base, self._store.location
        escaped = location.layout is TreeLayout.FS or any(
            location.escape in name for name in location.directories.all
        )
        old = base.newest
        return Generation(
            created=max(int(time.time()), old.created + 1 if old is not None else 0),
            token=self._repository.token,
            parent=old.key if old is not None else None,
            utf8=location.utf8,
            escape=location.escape if escaped else "",
            map_uid_validity=base.map_uid_validity,
            next_map_uid=base.next_map_uid,
            highest_file_id=base.highest_file_id,
            rows=rows,
            mailboxes=self._mailboxes,
            files=self._files,
            directories=self._directories(folders),
            objects=self._objects,
        )

    def _directories(self, folders: list[Folder]) -> tuple[str, ...]:
        found = {PLACE.storage, PLACE.tree}
        for folder in folders:
            found.add(os.path.join(PLACE.tree, folder.name))
            box = folder.mailbox
            if box is not None and box.state is None and self._is_wanted(folder.name):
                found.add(PLACE.mailbox_path(folder.name))
        return tuple(sorted(found))

    async def _control(self) -> dict[str, bytes]:
        store = self._store
        files = {version_path(PLACE): encode_version(3)}
        subscribed = await self._read(store.location.subscriptions_path, "the subscriptions were left out")
        if subscribed is not None:
            files["subscriptions"] = subscribed
        validities = [await last_uid_validity(self._disk, store.location)]
        validities += [entry.uid_validity for entry in self._mailboxes.values()]
        files["dovecot-uidvalidity"] = b"%08x" % max(validities)
        files[f"dovecot-uidvalidity.{max(validities):08x}"] = b""
        return files

    def _remove_rows(self) -> None:
        """What rows say of message files that a generation has, no run needs."""
        needed = {key.removeprefix(DATA + "/") for key in self._objects if key.startswith(DATA + "/")}
        for key in self._repository.sizes(ROWS):
            if key.removeprefix(ROWS + "/") in needed:
                self._repository.objects.delete(key)

    # -- for people --------------------------------------------------------------------------------------

    def _shown(self, name: str) -> str:
        return self._store.location.display_name(name)

    def _left_out(self, box: Mailbox, uid: int, why: str) -> None:
        self._fail(f"{box.display_name}: uid {uid} was left out: {why}")

    def _fail(self, line: str) -> None:
        self.result.failed.append(line)

    def _progress(self, messages: int) -> None:
        self._seen += messages
        if self._report is not None:
            self._report(self._seen, self._total, self.result.bytes)


def _fingerprint(portrait: MailboxSnapshot, uids: npt.NDArray[np.uint32], names: bytes | None) -> str:
    """Equal for equal mailboxes of which the same is archived."""
    found = hashlib.blake2b(portrait.fingerprint.encode("ascii"), digest_size=16)
    found.update(len(uids).to_bytes(8, "little") + uids.tobytes())
    found.update(b"" if names is None else names)
    return found.hexdigest()


async def _crc(message: Stored) -> int:
    """CRC-32 of the stored body.

    :raises Unfit: it can't be read.
    """
    crc = 0
    for offset in range(0, message.size, PIECE):
        crc = zlib.crc32(await message.read(min(PIECE, message.size - offset), offset), crc)
    return crc


async def _blocking(call: Callable[[], R]) -> R:
    """Run a call of the object store on a thread; cancelled, it is left to itself."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
