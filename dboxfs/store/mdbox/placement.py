"""Room for new records in ``m.N`` files (PROTOCOL section 4, steps 1 and 2).

A :class:`Placer` belongs to one transaction.  :meth:`Placer.place` finds room for a record and appends it: to
a file that the placer holds already, to an existing one, or to a new ``.temp.*``.  :meth:`Placer.sync` makes
the records durable.  Then either the map names them, or :meth:`Placer.rollback` removes them again.

An existing file is used only if all of these conditions hold; else the placer tries the next one, at most
ten:

* it is among the newest that the map knows, and is not in the alternative storage;
* no task of this process appends to it (in-memory lock) and no other process does (flock, never waited for);
* its name still means the file that was opened, and its header line is one that may be appended to, of the
  dbox version that is written;
* it ends exactly where its last record ends by the map: no process died while appending to it;
* record and file together stay below the rotation size.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import accumulate, groupby

import numpy as np
import trio
from msgspec import Struct

from dboxfs.dbox import FileHeader, parse_file_header
from dboxfs.errors import CorruptFile, DboxfsError, FormatError
from dboxfs.fsapi.chain import Steps
from dboxfs.fsapi.ops import LockKind
from dboxfs.index.mapindex import MapIndex
from dboxfs.store.disk import AppendFile
from dboxfs.store.indexes.log import IndexLog, locked_ahead, locked_behind
from dboxfs.store.mdbox.container import Container, Placed, rebuilt
from dboxfs.store.mdbox.newest import NewestFile, Placing, append_to_newest, is_good
from dboxfs.store.stored_record import FILE_HEAD
from dboxfs.store.write.log_records import MapEntry
from dboxfs.store.write.record import Composed, Place, Spooled, new_file
from dboxfs.store.write.session import Work

log = logging.getLogger(__name__)

_MOST_LOOKED_AT = 10
_MOST_OPEN = 8


def _went_well(done: Placing | None) -> bool:
    return done is not None and done.error is None


class LastEnd(Struct, frozen=True):
    """The newest file and its end (bytes); valid as long as the map's log has the mark *mark*."""

    mark: tuple[int, int, int]
    file_id: int
    end: int


class Placer:
    """Finds room for the records of one transaction.

    :param last: the end of the transaction before this one.
    :ivar named: the map names the records: :meth:`rollback` leaves them.
    """

    def __init__(self, work: Work, last: LastEnd | None = None) -> None:
        self.containers: list[Container] = []
        self.named = False
        self._work = work
        self._disk = work.disk
        self._refused: set[int] = set()
        self._index = work.map_view
        self._last = last

    # -- placing -----------------------------------------------------------------------------------------

    async def place(self, composed: Composed) -> Placed:
        """Append one record.  On an error :meth:`rollback` is due."""
        container = await self._room_for(composed.room)
        place = container.next
        header, container.header = container.header, b""
        size = await composed.write_to(container.file, place, header)
        return Placed(container, place.offset, size)

    async def adopt(self, spooled: Spooled) -> Placed:
        """Take the file that a record was spooled to as a new one.  On an error :meth:`rollback` is due."""
        file, place = await spooled.take(self._disk), spooled.place
        self.containers.append(await self._own(Container(file, 0, 0, True, b"", place.key)))
        size = await spooled.write_to(file, place)
        return Placed(self.containers[-1], place.offset, size)

    async def place_in_turn(self, batch: Sequence[Composed]) -> list[Placed]:
        """Append records; small ones in a row share one write.  They are durable after :meth:`sync`.  On an
        error :meth:`rollback` is due.
        """
        placed: list[Placed] = []
        for is_whole, some in groupby(batch, lambda composed: composed.whole):
            if is_whole:
                placed += await self.place_all(list(some), sync=False)
                continue
            for composed in some:
                if isinstance(composed, Spooled):
                    placed.append(await self.adopt(composed))
                else:
                    placed.append(await self.place(composed))
        return placed

    async def place_and_lock(
        self,
        stack: AsyncExitStack,
        indexes: Sequence[IndexLog],
        batch: list[Composed],
        first: Callable[[], Steps[None]],
    ) -> list[Placed]:
        """Run *first*, then append small records durably; then take those locks of *indexes* that are free,
        until *stack* ends.  This is one job if all records fit into the newest file, by the map as it was
        read last.  On an error :meth:`rollback` is due.
        """
        if not batch:
            await stack.enter_async_context(locked_ahead(indexes))
            return []
        target, holder = self._target(sum(composed.room for composed in batch)), object()
        if target is not None and self._work.fs.locks.acquire(holder, [target.path]):
            async with AsyncExitStack() as own:
                try:
                    steps = partial(append_to_newest, target, batch, first)
                    done = await own.enter_async_context(locked_behind(indexes, steps, _went_well))
                    container = self._take_newest_file(target, done) if done is not None else None
                finally:
                    self._work.fs.locks.release(holder)
                if done is not None and container is not None:
                    placed = self._placed_at_once(target, container, done)
                    await stack.enter_async_context(own.pop_all())
                    return placed
        placed = await self.place_all(batch, first)
        await stack.enter_async_context(locked_ahead(indexes))
        return placed

    async def place_all(
        self, batch: list[Composed], first: Callable[[], Steps[None]] | None = None, *, sync: bool = True
    ) -> list[Placed]:
        """Run *first*, then append small records durably, with one write for each file.

        On an error :meth:`rollback` is due.

        :param sync: False: leave that to :meth:`sync`.
        """
        placed: list[Placed] = []
        at = 0
        while at < len(batch):
            container = await self._room_for(batch[at].room)
            offset, parts = container.end, [container.header]
            while at < len(batch) and (len(parts) == 1 or self._fits(offset, batch[at].room)):
                data = batch[at].encode(Place(offset, container.key))
                placed.append(Placed(container, offset, len(data)))
                parts.append(data)
                offset += len(data)
                at += 1
            container.header = b""
            error = await container.file.append_durably(b"".join(parts), sync=sync, first=first)
            first = None
            if error is not None:
                raise error
        return placed

    def _take_newest_file(self, target: NewestFile, done: Placing) -> Container:
        """Take over the newest file, to which a job has appended."""
        file = AppendFile(self._disk, target.path, done.opened)
        file.size = target.end + done.written
        container = Container(file, target.file_id, target.end, key=done.key, mark=target.map_mark)
        self.containers.append(container)
        return container

    def _placed_at_once(self, target: NewestFile, container: Container, done: Placing) -> list[Placed]:
        """The places of the records that a job has appended.

        :raises OSError: the records are incomplete, or not durable.
        """
        if not self._work.fs.locks.acquire(container, [target.path, container.file.identity]):
            raise AssertionError("a file whose lock is held is nobody else's")
        if done.error is not None:
            raise done.error
        offsets = accumulate(done.sizes, initial=target.end)
        return [Placed(container, offset, size) for offset, size in zip(offsets, done.sizes, strict=False)]

    def _target(self, size: int) -> NewestFile | None:
        """The newest file, if it has room for *size* more bytes."""
        view, options = self._index, self._work.options
        if view.state is None or view.mark is None or self.containers or self._refused:
            return None
        end: int | None
        if self._last is not None and self._last.mark == view.mark:
            file_id, end = self._last.file_id, self._last.end
        else:
            file_id = next(iter(self._newest(MapIndex(view.state))), 0)
            end = self._end(file_id) if file_id else None
        if end is None or not self._fits(end, size):
            return None
        path = self._work.storage_paths(file_id)[0]
        return NewestFile(path, file_id, end, options.dbox_version, view.log_path, view.mark, options.durable)

    def last_end(self, entries: Sequence[MapEntry]) -> LastEnd | None:
        """The end of this transaction, if its records are in one file and the map has *entries* for all of
        them; else None.
        """
        if self._index.mark is None or len(self.containers) != 1 or not entries:
            return None
        (container,) = self.containers
        end = entries[-1].offset + entries[-1].size
        return LastEnd(self._index.mark, container.file_id, end) if end == container.file.size else None

    async def sync(self) -> None:
        """Make all records durable that are not yet."""
        for container in self.containers:
            if container.file.is_open:
                await container.file.sync()

    async def copy_to_new(self, placed: Placed) -> Placed:
        """Copy a record to a new file, since its file has lost its name.  It is durable after :meth:`sync`.

        :raises CorruptFile: a record of format 3, which is valid in its own file only.  Dovecot, which alone
            rebuilds, has no such files.
        """
        old = placed.container.file
        if placed.container.key is not None:
            raise CorruptFile(old.path, 0, "another program has replaced the file while it was appended to")
        room = (c for c in self.containers if c.new and c.file.is_open and self._fits(c.end, placed.size))
        new = next(room, None)
        if new is None:
            await self._close_some()
            new = await self._new()
            self.containers.append(new)
        header, new.header = new.header, b""
        if header:
            await new.file.append(header)
        copy = Placed(new, new.end, placed.size)
        await new.file.append_from(old.fd, placed.size, placed.offset)
        return copy

    async def rollback(self) -> None:
        """Remove all placed records, unless the map names them, and close the files.  Never fails.  The map
        must not be locked.
        """
        if not self.named:
            for container in self.containers:
                if not container.new and container.file.size > container.start:
                    await self._cut(container)
            await self._disk.discard([c.file.path for c in self.containers if c.new])
        await self.close()

    async def _cut(self, container: Container) -> None:
        """Cut off appended records, unless a rebuild has met them: then the map may name them.  If the map
        can't be locked, a rebuild may be under way, and they stay, too.
        """
        try:
            with trio.CancelScope(shield=True):
                async with self._work.map.locked():
                    if await rebuilt(self._work, MapIndex(self._work.map.state), container) is None:
                        await container.file.cut(container.start)
        except (DboxfsError, OSError) as error:
            log.warning("%s: records of a failed save stay behind its end: %s", container.file.path, error)
            self._disk.lost_errors += 1

    async def close(self) -> None:
        """Close the files and release their locks."""
        for container in self.containers:
            await self._give_back(container)
        self.containers.clear()

    async def _give_back(self, container: Container) -> None:
        self._work.fs.locks.release(container)
        await container.file.close()

    # -- choosing ----------------------------------------------------------------------------------------

    def _fits(self, offset: int, size: int) -> bool:
        return offset + size <= self._work.options.rotate_size

    async def _room_for(self, size: int) -> Container:
        for container in reversed(self.containers):
            if container.file.is_open and self._fits(container.end, size):
                return container
        found: Container | None = None
        if size < self._work.options.rotate_size:
            found = await self._existing(size)
        if found is None:
            await self._close_some()
            found = await self._new()
        self.containers.append(found)
        return found

    async def _close_some(self) -> None:
        """Sync and close new files, so that a save of any size has few files open.

        No process appends to such a file before the map names it, so it needs no lock.
        """
        new = [container.file for container in self.containers if container.new and container.file.is_open]
        for file in new[: 1 - _MOST_OPEN]:
            await file.sync()
            await file.close()

    async def _new(self) -> Container:
        file = await self._disk.create_temporary(self._work.location.storage)
        begun = new_file(self._work.options.dbox_version)
        return await self._own(Container(file, 0, 0, True, begun.header, begun.key))

    async def _own(self, container: Container) -> Container:
        """Lock a new file."""
        file = container.file
        if not self._work.fs.locks.acquire(container, [file.path, file.identity]):
            raise AssertionError("a new file can't be locked by anybody else")
        if not await file.try_lock(LockKind.FLOCK):
            raise AssertionError("a new file can't be locked by anybody else")
        return container

    async def _existing(self, size: int) -> Container | None:
        """A file of the map with room for *size* bytes, locked.

        The search begins with the map as it was read before; a file that is found is then compared with the
        current map.
        """
        if self._index.state is not None:
            found = await self._take_newest(size)
            if found is not None:
                return found
            self._refused.clear()
        await self._index.look()
        return await self._take_newest(size)

    async def _take_newest(self, size: int) -> Container | None:
        if self._index.state is None:
            return None
        for file_id in self._newest(MapIndex(self._index.state)):
            if file_id in self._refused or any(c.file_id == file_id for c in self.containers):
                continue
            container = await self._take(file_id, size)
            if container is not None:
                return container
            self._refused.add(file_id)
        return None

    @staticmethod
    def _newest(mapping: MapIndex) -> list[int]:
        ids = mapping.file_ids
        found: list[int] = []
        end = len(ids)
        while end > 0 and len(found) < _MOST_LOOKED_AT:
            start = max(0, end - 4096)
            for file_id in ids[start:end][::-1].tolist():
                if file_id not in found:
                    found.append(file_id)
                    if len(found) == _MOST_LOOKED_AT:
                        break
            end = start
        return found

    def _end(self, file_id: int) -> int | None:
        """The end of a file by the map; None: the map does not say."""
        assert self._index.state is not None
        mapping = MapIndex(self._index.state)
        rows = np.flatnonzero(mapping.file_ids == file_id)
        if not len(rows) or bool((mapping.sizes[rows] == 0).any()):
            return None
        return int((mapping.offsets[rows].astype(np.int64) + mapping.sizes[rows]).max())

    async def _take(self, file_id: int, size: int) -> Container | None:
        end = self._end(file_id)
        if end is None or not self._fits(end, size):
            return None
        path = self._work.storage_paths(file_id)[0]
        try:
            file, locked, now = await self._disk.open_locked(path, LockKind.FLOCK, FILE_HEAD)
        except FileNotFoundError:
            return None  # in the alternative storage, or purged meanwhile
        container = Container(file, file_id, file.size)
        if self._work.fs.locks.acquire(container, [path, file.identity]):
            try:
                if locked and now is not None and await self._is_good(container, now, size):
                    return container
            except BaseException:
                await self._give_back(container)
                raise
        await self._give_back(container)
        return None

    async def _is_good(self, container: Container, now: os.stat_result, size: int) -> bool:
        file = container.file
        if (now.st_dev, now.st_ino) != file.identity:
            return False
        file.size = container.start = now.st_size
        await self._index.look()  # another process may have appended before the lock
        if self._end(container.file_id) != file.size or not self._fits(file.size, size):
            return False
        try:
            header = parse_file_header(await file.read(FILE_HEAD, 0))
        except FormatError:
            return False
        if not isinstance(header, FileHeader) or not is_good(header, self._work.options.dbox_version):
            return False
        container.key, container.mark = header.key, self._index.mark
        return True
