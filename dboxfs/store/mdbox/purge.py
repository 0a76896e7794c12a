"""Purge: give back the bytes of messages that no mailbox refers to (PROTOCOL section 10, mdbox).

The purge rewrites a file ``m.N`` with dead records without them, under a new file_id.  One transaction of the
map moves the live records there and expunges the dead ones; then the old file is unlinked.  Each file is a
change of its own, so a purge may end after any file.

A crash between the transaction and the unlink would leave the old file for ever, and a rebuild by Dovecot
would bring its dead messages back.  So a journal, ``storage/dboxfs.purge``, names the file before that; the
next purge, or the next writer that recovers the store, removes the file that the journal names.

A file that differs from the map is damaged: the purge leaves it alone and reports it.  The same holds for a
file with a record whose refcount is 0 although a mailbox refers to it.  If a mailbox can't be read, nothing
is purged.  The new file has the format of the old one; in format 3 each record gets a new trailer, which is
as long as the old one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from msgspec import Struct

from dboxfs.dbox import (
    MESSAGE_HEADER_SIZE,
    FileHeader,
    NeedMore,
    Trailer,
    move_trailer,
    parse_ext_refs,
    parse_file_header,
    parse_last_trailer,
)
from dboxfs.errors import FormatError, Unsupported
from dboxfs.fsapi import ops
from dboxfs.fsapi.ops import LockKind
from dboxfs.index.mailbox import map_uids
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.disk import AppendFile
from dboxfs.store.mdbox.repair import read_record, selectable
from dboxfs.store.stored_record import TAIL
from dboxfs.store.write import log_records
from dboxfs.store.write.record import NewFile, new_file
from dboxfs.store.write.session import Work, message_number

JOURNAL = "dboxfs.purge"
_FILE_HEAD = 64


class PurgeProgress(Struct, frozen=True):
    """Progress after each file; ``bytes_freed``: given back so far, or with a dry run, that would be.

    :ivar bytes_at_once: before the first file: the disk space that the largest copy needs; later 0.
    """

    files_done: int
    files: int
    bytes_freed: int
    bytes_at_once: int = 0


class Purged(Struct):
    """The result of a purge or of a dry run.  ``left``: files that were left alone, with the reason."""

    files: int = 0
    messages: int = 0
    bytes_freed: int = 0
    left: tuple[str, ...] = ()


Report = Callable[[PurgeProgress], None]


class _Plan(Struct, frozen=True):
    """The records of one file by offset: (map_uid, offset, size), those to keep and those to drop."""

    file_id: int
    keep: tuple[tuple[int, int, int], ...]
    drop: tuple[tuple[int, int, int], ...]

    @property
    def freed(self) -> int:
        return sum(size for _, _, size in self.drop)

    @property
    def copied(self) -> int:
        return sum(size for _, _, size in self.keep)


class _Left(Exception):
    """A file can't be purged now; the text says why."""


async def purge(work: Work, *, dry_run: bool = False, report: Report | None = None) -> Purged:
    """Rewrite every file that has dead records.

    :param dry_run: change nothing; count.
    :param report: called before the first file and after each; an exception that it raises ends the purge.
    :raises Unsupported: an sdbox, or a Dovecot may write the store, too.
    :raises CorruptFile, StoreBusy, OSError: the map can't be locked or read.
    """
    if not work.mdbox:
        raise Unsupported(
            f"{work.location.root}: only an mdbox has something to purge; an sdbox gives bytes back at once"
        )
    if not work.options.alone and not dry_run:
        raise Unsupported("next to a Dovecot only Dovecot purges: doveadm purge")
    if not dry_run:
        await finish_journal(work)
    plans = _plans(await work.seen_map())
    needed = await _referred_to(work) if plans else frozenset[int]()
    done = Purged()
    left: list[str] = []
    if report is not None:
        report(PurgeProgress(0, len(plans), 0, max((plan.copied for plan in plans), default=0)))
    for number, plan in enumerate(plans, 1):
        try:
            _refuse_needed(plan, needed)
            if not dry_run:
                await _Purge(work, plan).run()
        except _Left as reason:
            left.append(f"m.{plan.file_id}: {reason}")
        else:
            done.files += 1
            done.messages += len(plan.drop)
            done.bytes_freed += plan.freed
        if report is not None:
            report(PurgeProgress(number, len(plans), done.bytes_freed))
    done.left = tuple(left)
    if not dry_run:
        work.count("purged", done.messages)
    return done


async def _referred_to(work: Work) -> frozenset[int]:
    """The map uids that the mailboxes have.  A mailbox that is made meanwhile has copies of these, or new
    ones.

    :raises CorruptFile, OSError: a mailbox can't be read, so its map uids are unknown.
    """
    found: set[int] = set()
    for name in await selectable(work):
        try:
            column = map_uids(await work.new_index(name).peek())
        except FileNotFoundError:
            continue
        if column is not None:
            found.update(column.tolist())
    return frozenset(found)


def _refuse_needed(plan: _Plan, needed: frozenset[int]) -> None:
    """
    :raises _Left: a mailbox has a message whose refcount is 0.
    """
    for map_uid, _, _ in plan.drop:
        if map_uid in needed:
            raise _Left(f"map uid {map_uid} counts as dead, but a mailbox has it; dboxfs check says more")


def _plans(mapping: MapIndex) -> list[_Plan]:
    """The plans for the files with dead records."""
    dead = np.unique(mapping.file_ids[mapping.refcounts == 0])
    return [_plan(mapping, file_id) for file_id in dead.tolist()]


def _plan(mapping: MapIndex, file_id: int) -> _Plan:
    rows = np.flatnonzero(mapping.file_ids == file_id)
    rows = rows[np.argsort(mapping.offsets[rows], kind="stable")]
    keep: list[tuple[int, int, int]] = []
    drop: list[tuple[int, int, int]] = []
    for row in rows.tolist():
        entry = int(mapping.map_uids[row]), int(mapping.offsets[row]), int(mapping.sizes[row])
        (keep if mapping.refcounts[row] else drop).append(entry)
    return _Plan(file_id, tuple(keep), tuple(drop))


class _Purge:
    """The purge of one file."""

    def __init__(self, work: Work, plan: _Plan) -> None:
        self._work = work
        self._disk = work.disk
        self._plan = plan
        self._begun = NewFile(b"", None)

    async def run(self) -> None:
        path, file = await self._open()
        new: AppendFile | None = None
        try:
            await self._lock(path, file)
            attachments = await self._attachments()
            if self._plan.keep:
                new = await self._copy_live(file, os.path.dirname(path))
            await self._change_map(path, new)
            await self._disk.unlink(path)
            await self._disk.sync_dir(os.path.dirname(path))
            await self._disk.discard(attachments)
            await self._disk.unlink(journal_path(self._work))
        except BaseException:
            if new is not None and os.path.basename(new.path).startswith("."):
                await self._disk.discard([new.path])
            raise
        finally:
            if new is not None:
                await new.close()
            self._work.fs.locks.release(self)
            await file.close()

    async def _open(self) -> tuple[str, AppendFile]:
        for path in self._work.storage_paths(self._plan.file_id):
            try:
                return path, await self._disk.open(path)
            except FileNotFoundError:
                continue
        raise _Left("the file is missing")

    async def _lock(self, path: str, file: AppendFile) -> None:
        """Lock the file and check that it is as the map says."""
        if not self._work.fs.locks.acquire(self, [path, file.identity]):
            raise _Left("it is being appended to")
        if not await file.try_lock(LockKind.FLOCK):
            raise _Left("another program has locked it")
        now = await self._disk.stat(path)
        if now is None or (now.st_dev, now.st_ino) != file.identity:
            raise _Left("it was replaced meanwhile")
        file.size = now.st_size
        self._plan = _plan(await self._work.seen_map(), self._plan.file_id)
        if not self._plan.drop:
            raise _Left("nothing in it is dead any more")
        try:
            header = parse_file_header(await file.read(_FILE_HEAD, 0))
        except FormatError as exc:
            raise _Left(f"its header line is damaged: {exc}") from exc
        if not isinstance(header, FileHeader) or (
            header.version != 3 and header.message_header_size != MESSAGE_HEADER_SIZE
        ):
            raise _Left("its header line is not one that can be copied")
        self._begun = new_file(header.version)
        end = header.size
        for map_uid, offset, size in sorted((*self._plan.keep, *self._plan.drop), key=lambda e: e[1]):
            if offset != end or not size:
                raise _Left(f"damaged: map uid {map_uid} is at {offset}, expected at {end}")
            end = offset + size
        if end != file.size:
            raise _Left(f"damaged: {file.size} bytes, the map knows {end}")

    async def _attachments(self) -> list[str]:
        """The attachment files of the dead messages."""
        directory = self._work.location.attachments
        if directory is None:
            return []
        mapping = await self._work.seen_map()
        found = []
        for map_uid, _, _ in self._plan.drop:
            place = mapping.lookup(map_uid)
            record = await read_record(self._work, place) if place is not None else None
            refs = record.metadata.ext_refs if record is not None else None
            if refs is not None:
                found += [os.path.join(directory, ref.path) for ref in parse_ext_refs(refs)]
        return found

    async def _copy_live(self, file: AppendFile, directory: str) -> AppendFile:
        """Copy the live records to a temporary file; records that are neighbours share one copy."""
        new = await self._disk.create_temporary(directory)
        try:
            if not await new.try_lock(LockKind.FLOCK):
                raise AssertionError("a new file can't be locked by anybody else")
            await new.append(self._begun.header)
            if self._begun.key is None:
                await self._copy_bytes(file, new)
            else:
                await self._copy_records(file, new, self._begun.key)
            await new.sync()
        except BaseException:
            await self._disk.discard([new.path])
            await new.close()
            raise
        return new

    async def _copy_bytes(self, file: AppendFile, new: AppendFile) -> None:
        start = end = 0
        for _, offset, size in self._plan.keep:
            if offset != end:
                await new.append_from(file.fd, end - start, start)
                start = offset
            end = offset + size
        await new.append_from(file.fd, end - start, start)

    async def _copy_records(self, file: AppendFile, new: AppendFile, key: bytes) -> None:
        for map_uid, offset, size in self._plan.keep:
            trailer = await _trailer(file, offset, offset + size, map_uid)
            moved = move_trailer(trailer, key, new.size)
            await new.append_from(file.fd, size - trailer.size, offset)
            await new.append(moved)

    async def _change_map(self, path: str, new: AppendFile | None) -> None:
        work = self._work
        async with work.locked_map() as mapping:
            if _plan(mapping, self._plan.file_id) != self._plan:
                raise _Left("its messages have changed meanwhile")
            await self._disk.replace(journal_path(work), b"%d\n" % self._plan.file_id)
            await self._disk.sync_dir(work.location.storage)
            highest = None
            entries: list[log_records.MapEntry] = []
            if new is not None:
                highest = await self._name(mapping, new)
                entries = self._moved(highest)
            dead = sorted(map_uid for map_uid, _, _ in self._plan.drop)
            batch = log_records.move_in_map(work.map.state, entries, dead, highest)
            await work.map.append(batch, tail=True, durable=True)

    async def _name(self, mapping: MapIndex, new: AppendFile) -> int:
        file_id = mapping.highest_file_id
        directory = os.path.dirname(new.path)
        while True:
            file_id += 1
            if any([await self._disk.exists(path) for path in self._work.storage_paths(file_id)]):
                continue
            path = os.path.join(directory, f"m.{file_id}")
            await self._disk.run(ops.Publish(new.path, path, False))
            new.path = path
            await self._disk.sync_dir(directory)
            return file_id

    def _moved(self, file_id: int) -> list[log_records.MapEntry]:
        """The places of the live records in the new file, by map uid."""
        offset = self._begun.first.offset
        entries = []
        for map_uid, _, size in self._plan.keep:
            entries.append(log_records.MapEntry(map_uid, file_id, offset, size))
            offset += size
        return sorted(entries, key=lambda entry: entry.map_uid)


async def _trailer(file: AppendFile, offset: int, end: int, map_uid: int) -> Trailer:
    """The trailer of the record between two places."""
    size = TAIL
    try:
        while True:
            start = max(offset, end - size)
            found = parse_last_trailer(await file.read(end - start, start), end=end)
            if isinstance(found, Trailer) and found.record_offset == offset:
                return found
            if not isinstance(found, NeedMore) or found.size <= end - start or found.size > end - offset:
                raise _Left(f"damaged: the record of map uid {map_uid} is not the one between its bounds")
            size = found.size
    except FormatError as exc:
        raise _Left(f"damaged: map uid {map_uid}: {exc}") from exc


def journal_path(work: Work) -> str:
    """The path of the journal, which names the ``m.N`` that is about to be removed."""
    return os.path.join(work.location.storage, JOURNAL)


async def finish_journal(work: Work) -> None:
    """Finish a purge that a crash interrupted: remove the file if the map has no record in it any more.

    A file whose ctime is later than the journal is another file with that name, and stays.
    """
    path = journal_path(work)
    text, written = await work.disk.read_whole(path), await work.disk.stat(path)
    if text is None or written is None:
        return
    async with work.locked_map() as mapping:
        file_id = message_number("m." + text.decode("ascii", "replace").strip(), "m")
        if file_id and not bool((mapping.file_ids == file_id).any()):
            for old in work.storage_paths(file_id):
                found = await work.disk.stat(old)
                if found is not None and found.st_ctime_ns < written.st_mtime_ns:
                    await work.disk.unlink(old)
        await work.disk.unlink(path)
