"""Read one index on disk again and again: ``<stem>``, ``<stem>.log``, ``<stem>.log.2`` in one directory.

State = base index + replay of the log from the base's head (mail-index-log section 4).
:meth:`IndexFiles.refresh` brings the state up to date.  If the log only grew, it reads and replays the new
bytes.  If another file took the log's name (rotation), it reads the old one to its end under its new name and
continues with the new one.  In any other case it loads base and log again.  It locks and writes nothing.

A log is the same file only if it has the same inode and the same first bytes: a mailbox that is deleted and
made again may get the inode of the old log, and within the same second even its header, but the guid in the
first record differs.  Damaged files are read again only after one of them has changed.

A writer of this process uses the same object, so that there is one state of an index, and the writer's own
records are not read back.  While it holds the log's lock (from :meth:`IndexFiles.take_over` or
:meth:`~IndexFiles.adopt` to :meth:`~IndexFiles.let_go`) no other process can append.  Then the state is that
of the log, a refresh has nothing to do, and the writer feeds the records that it appends
(:meth:`IndexFiles.feed`).

Each object runs one refresh at a time (``self._lock``).  A refresh or the writer changes the state in one
step between two checkpoints, so code without an ``await`` sees a consistent state.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable

import numpy as np
import trio
from msgspec import Struct

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.base import parse_index
from dboxfs.index.log import LogHeader, parse_log_header
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from dboxfs.store.indexes.delta import NOTHING, Delta, difference, replay
from dboxfs.store.indexes.unlocked import Unlocked
from dboxfs.store.odd_files import odd_file
from dboxfs.util.lock import Lock

log = logging.getLogger(__name__)

_PARSE_IN_THREAD = 1 << 20  # bytes of a base that take longer to parse than a hop to a thread
_REPLAY_IN_THREAD = 128 << 10
_LOAD_ATTEMPTS = 6
_LIMIT = 1 << 31
START = 512
"""Bytes at the beginning of a log that identify it."""


class _Loaded(Struct, frozen=True):
    """Base and log of an index, joined.  ``log``: None: there is none."""

    state: IndexState | None
    log: PeekResult | None
    unlocked: Unlocked | None
    snapshot_head: tuple[int, int]


class _Moving(Exception):
    """The files changed between two reads: read them again."""


def _nobody(delta: Delta) -> None:
    """Do nothing: no listener was set."""


def _look_later() -> None:
    """Do nothing: no listener was set."""


class IndexFiles:
    """The index files *stem* in *directory*.

    :ivar state: None before the first refresh.
    :ivar snapshot_head: the log (file_seq) and the offset in it at the end of the snapshot; zeros:
        unknown.
    :ivar changed: called with changes of the state that did not come from the caller of :meth:`refresh`: from
        a writer of this process under the log's lock, or from :meth:`look`.  Requests to expunge may come
        with an empty :class:`Delta`.
    :ivar missed: called if there was a call of :meth:`refresh` while a writer held the lock.
    :ivar is_fed: whether a writer of this process has held the lock.
    :ivar turns: how often it has; each time it has read the log to its end.
    """

    def __init__(self, fs: FileSystem, directory: str, stem: str = "dovecot.index") -> None:
        self.directory = directory
        self.base_path = os.path.join(directory, stem)
        self.log_path = self.base_path + ".log"
        self.state: IndexState | None = None
        self.log_mtime_ns = 0
        self.snapshot_head = (0, 0)
        self.changed: Callable[[Delta], None] = _nobody
        self.missed: Callable[[], None] = _look_later
        self.is_fed = False
        self._fs = fs
        self._log_id: tuple[int, int] | None = None
        self._log_start = b""
        self._failure: tuple[object, CorruptFile] | None = None
        self._unlocked: Unlocked | None = None
        self._held = False
        self._missed = False
        self._anew = False
        self.turns = self._begun_at = 0
        self._turn_began = -math.inf
        self._lock = Lock()

    async def refresh(self) -> Delta:
        """Bring ``state`` up to date.

        :raises CorruptFile: base or log are damaged (the state of the last good refresh stays).
        :raises OSError: the directory can't be read.
        """
        async with self._lock:
            if self._held:
                self._missed = True
                return NOTHING
            self._begun_at = self.turns
            await self._fail_again()
            try:
                delta = await self._follow() if self.state is not None and not self._anew else None
            except (FormatError, _Moving):
                delta = None
            return delta if delta is not None else await self._load()

    async def look(self) -> None:
        """:meth:`refresh` for another caller than the index's own reader, which learns of changes through
        ``changed``.

        :raises CorruptFile, OSError: as :meth:`refresh`.
        """
        self.changed(await self.refresh())

    def read_anew(self) -> None:
        """Forget the proof of the bytes read so far: the next refresh, or writer, reads base and log
        completely.
        """
        self._anew, self._failure = True, None

    @property
    def mark(self) -> tuple[int, int, int] | None:
        """Device, inode and size of the log up to which ``state`` was read; None: there is no log."""
        if self.state is None or self._log_id is None:
            return None
        return *self._log_id, self.state.head_offset

    # -- the writer of this process -------------------------------------------------------------

    def unproved_from(self, log_id: tuple[int, int], header: LogHeader, start: bytes) -> int | None:
        """The offset from which the holder of the log's lock has to read it; None: the whole log.

        :param log_id: device and inode of the locked log.
        :param start: its first bytes, :data:`START` of them at most.
        """
        state, unlocked = self.state, self._unlocked
        if self._anew or state is None or unlocked is None or unlocked.end != state.head_offset:
            return None
        same = log_id == self._log_id and start.startswith(self._log_start)
        if not same or (state.indexid, state.log_file_seq) != (header.indexid, header.file_seq):
            return None
        return unlocked.offset

    def take_over(self, data: bytes) -> bool:
        """Take over *data*, the bytes of the locked log from :meth:`unproved_from` to its end.

        True: until :meth:`let_go` ``state`` is that of the log.  False: it was read from bytes that are not
        in the log any more.

        :raises FormatError: the new bytes are damaged.
        """
        state, unlocked = self.state, self._unlocked
        assert state is not None
        assert unlocked is not None
        if not unlocked.are_in(data):
            return False
        self._unlocked = None
        self._hold()
        try:
            delta = replay(state, data[unlocked.size :])
        except FormatError:
            self._held = False
            raise
        self._unlocked = Unlocked(state.head_offset)
        if len(data) > unlocked.size:
            self.changed(delta)
        return True

    def adopt(
        self, state: IndexState, log: os.stat_result, start: bytes, snapshot_head: tuple[int, int]
    ) -> None:
        """Take *state*, which was read under the log's lock to its end: until :meth:`let_go` it is that of
        the log.

        :param log: the log's attributes.
        :param start: its first bytes, :data:`START` of them at most.
        """
        old, self.state = self.state, state
        self._log_id, self._log_start = (log.st_dev, log.st_ino), start[: state.head_offset]
        self.log_mtime_ns = log.st_mtime_ns
        self.snapshot_head, self._failure, self._anew = snapshot_head, None, False
        self._unlocked = Unlocked(state.head_offset)
        self._hold()
        self.changed(difference(old, state))

    def feed(self, data: bytes, mtime_ns: int) -> None:
        """Replay *data*, whole transactions that the holder of the lock has appended.

        :param mtime_ns: of the log after that.
        """
        assert self.state is not None
        delta = replay(self.state, data)
        self._unlocked, self.log_mtime_ns = Unlocked(self.state.head_offset), mtime_ns
        self.changed(delta)

    def follow_rotation(self, header: LogHeader, log_id: tuple[int, int], start: bytes) -> None:
        """Continue with a new log, which the holder of the lock has locked."""
        assert self.state is not None
        self.state.follow_rotation(header)
        self._log_id, self._log_start = log_id, start
        self._unlocked = Unlocked(self.state.head_offset)

    def let_go(self) -> None:
        """End the writer's turn: the lock is about to be released."""
        self._held = False
        if self._missed:
            self._missed = False
            self.missed()

    @property
    def _overtaken(self) -> bool:
        """Whether a writer of this process has held the lock since the running refresh began."""
        return self.turns != self._begun_at

    def _hold(self) -> None:
        self._held = self.is_fed = True
        self.turns += 1
        self._turn_began = trio.current_time()

    def was_fed(self, seconds: float) -> bool:
        """Whether a turn of the writer has begun in the last *seconds*."""
        return self.is_fed and trio.current_time() - self._turn_began < seconds

    async def exists(self) -> bool:
        """Whether the directory exists.  The state stays without it: the tree shows whether the mailbox is
        gone.
        """
        try:
            await self._fs.stat(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def _fail_again(self) -> None:
        """Raise the last error again, as long as the files are the same."""
        if self._failure is None:
            return
        files, error = self._failure
        if await self._fingerprint() == files:
            raise CorruptFile(error.path, error.offset, error.reason)
        self._failure = None

    async def _fingerprint(self) -> list[object]:
        paths = (self.base_path, self.log_path, self.log_path + ".2")
        return [_mark(one) for one in await self._fs.peek([Peek(path, ()) for path in paths], in_order=True)]

    # -- following -----------------------------------------------------------------------------

    async def _follow(self) -> Delta | None:
        """Replay the new bytes of the log; None: only a full load can bring the state up to date."""
        state = self.state
        assert state is not None
        # If this process writes, most events are of its own writes: there are no new bytes.
        peek = self._fs.peek_soon if self.is_fed else self._peek_one
        new = await peek(_whole(self.log_path, state.head_offset))
        if self._overtaken:
            return NOTHING
        if isinstance(new, OSError):
            return None
        if not self._is_followed(new):
            return await self._follow_rotation(state)
        if new.stat.st_size < state.head_offset:
            return None
        unlocked, self._unlocked = self._unlocked, None
        start = state.head_offset
        delta = replay(state, new.chunks[1])
        if unlocked is not None:
            self._unlocked = unlocked.more(new.chunks[1][: state.head_offset - start])
        self._remember(new, state)
        return delta

    async def _peek_one(self, request: Peek) -> PeekResult | OSError:
        return (await self._fs.peek([request]))[0]

    async def _follow_rotation(self, state: IndexState) -> Delta | None:
        """Read the log that has become ``.log.2`` to its end and continue with the new one."""
        unlocked = self._unlocked or Unlocked(state.head_offset)
        old, new = await self._fs.peek([_whole(self.log_path + ".2", unlocked.offset), _whole(self.log_path)])
        if self._overtaken:
            return NOTHING
        if isinstance(old, OSError) or isinstance(new, OSError) or not self._is_followed(old):
            return None
        if unlocked.end != state.head_offset or not unlocked.are_in(old.chunks[1]):
            return None
        was_provable, self._unlocked = self._unlocked is not None, None
        first = replay(state, old.chunks[1][unlocked.size :])
        header = parse_log_header(new.chunks[1])
        state.follow_rotation(header)
        second = replay(state, new.chunks[1][header.hdr_size :])
        self._remember(new, state)
        if was_provable:
            self._unlocked = _read_unlocked(new.chunks[1], header.hdr_size, state)
        return Delta(
            np.union1d(first.appended, second.appended),
            np.union1d(first.expunged, second.expunged),
            np.union1d(first.updated, second.updated),
            False,
        )

    def _is_followed(self, found: PeekResult) -> bool:
        return _file_id(found) == self._log_id and found.chunks[0].startswith(self._log_start)

    def _remember(self, found: PeekResult, state: IndexState) -> None:
        """Remember *found*, the log that *state* has replayed up to its head."""
        self._log_id = _file_id(found)
        self._log_start = found.chunks[0][: state.head_offset]
        self.log_mtime_ns = found.stat.st_mtime_ns

    # -- loading -------------------------------------------------------------------------------

    async def _load(self) -> Delta:
        old = self.state
        reason: Exception | None = None
        first: list[object] = []
        for attempt in range(_LOAD_ATTEMPTS):
            if attempt:
                await trio.sleep(0.005 * 2**attempt)
            # The base before the log, which then is at least as far; the old log only tells of a change.
            requests = [_whole(self.base_path), _whole(self.log_path), Peek(self.log_path + ".2", ())]
            found = await self._fs.peek(requests, in_order=True)
            first = first or [_mark(one) for one in found]
            try:
                loaded = await self._load_once(found[0], found[1])
            except _Moving as exc:
                reason = exc
                continue
            except FormatError as exc:
                reason = CorruptFile(self.log_path, exc.offset, exc.reason)
                continue
            except CorruptFile as exc:
                reason = exc
                continue
            if old is not None and loaded.state is None and not await self.exists():
                return NOTHING
            if self._overtaken:
                return NOTHING
            self._take(loaded)
            return difference(old, loaded.state)
        if self._overtaken:
            return NOTHING
        if not isinstance(reason, CorruptFile):
            reason = CorruptFile(self.log_path, 0, f"base index and log don't fit together: {reason}")
        self._failure = first, reason
        raise reason

    def _take(self, loaded: _Loaded) -> None:
        self.state, self._unlocked, self.snapshot_head = loaded.state, loaded.unlocked, loaded.snapshot_head
        self._anew = False
        if loaded.log is None or loaded.state is None:
            self._log_id = None
        else:
            self._remember(loaded.log, loaded.state)

    async def _load_once(self, base: PeekResult | OSError, log: PeekResult | OSError) -> _Loaded:
        state = await self._parse_base(base)
        head = (state.log_file_seq, state.head_offset) if state is not None else (0, 0)
        if isinstance(log, FileNotFoundError):
            return _Loaded(state, None, None, head)
        if isinstance(log, OSError):
            raise odd_file(log, self.log_path) or log
        data = log.chunks[1]
        state, start = await self._join(state, data)
        return _Loaded(state, log, _read_unlocked(data, start, state) if start else None, head)

    async def _parse_base(self, found: PeekResult | OSError) -> IndexState | None:
        if isinstance(found, FileNotFoundError):
            return None
        if isinstance(found, OSError):
            raise odd_file(found, self.base_path) or found
        data = found.chunks[1]
        try:
            if len(data) < _PARSE_IN_THREAD:
                return parse_index(data)
            return await trio.to_thread.run_sync(parse_index, data)
        except FormatError as exc:
            raise CorruptFile(self.base_path, exc.offset, exc.reason) from exc

    async def _join(self, base: IndexState | None, data: bytes) -> tuple[IndexState, int]:
        """Replay the right part of the log (and of ``.log.2``) on *base*.

        Gives the state, and the offset from which the log was replayed; 0: it was not.
        """
        header = parse_log_header(data)
        plan = decide(base, header, log_size=len(data))
        older: bytes | None = None
        if plan.action is Action.NEED_LOG2:
            (found,) = await self._fs.peek([_whole(self.log_path + ".2")])
            older = found.chunks[1] if isinstance(found, PeekResult) else None
            older_header = parse_log_header(older) if older is not None else None
            plan = decide(base, header, older_header, log_size=len(data), log2_read=True)
        if plan.action is Action.RETRY:
            raise _Moving(plan.reason)
        if len(data) + len(older or b"") < _REPLAY_IN_THREAD:
            state = load(plan, base, data, older)
        else:
            state = await trio.to_thread.run_sync(load, plan, base, data, older)
        return state, plan.log_offset


def _whole(path: str, offset: int = 0) -> Peek:
    """The start of a file, and all bytes from *offset* on."""
    return Peek(path, ((0, START), (offset, None)), limit=_LIMIT)


def _read_unlocked(log_data: bytes, start: int, state: IndexState) -> Unlocked:
    """The bytes of a log, from offset *start* on, that *state* was read from without the lock."""
    return Unlocked(start).more(log_data[start : state.head_offset])


def _mark(found: PeekResult | OSError) -> object:
    """Values that change with a file: device, inode, size in bytes and mtime in ns, or an errno."""
    if isinstance(found, OSError):
        return found.errno
    return found.stat.st_dev, found.stat.st_ino, found.stat.st_size, found.stat.st_mtime_ns


def _file_id(found: PeekResult) -> tuple[int, int]:
    return found.stat.st_dev, found.stat.st_ino
