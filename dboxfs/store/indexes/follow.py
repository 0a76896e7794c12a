"""Follow one index on disk: ``<stem>``, ``<stem>.log``, ``<stem>.log.2`` in one directory.

State = base index + replay of the log from the base's head (mail-index-log section 4).
:meth:`IndexFiles.refresh` brings the state up to date: when the log only grew it reads and replays the new
bytes; when another file took the log's name (rotation) it reads the old one to its end under its new name
and goes on; anything else loads both halves again.  Nothing is locked and nothing is written.

A log is the one that was followed when its inode is, and its first bytes are: a mailbox that is deleted and
made again may get the inode of the old log, and within the same second even its header; the guid in the first
record is another one.  When base and log are damaged, they are read again only after one of them has changed.

One refresh runs at a time for each object (``self._lock``); the state changes only inside of it, in one
step between two checkpoints, so whoever holds no ``await`` sees a whole state.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
import trio

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.index.base import parse_index
from dboxfs.index.log import parse_log_header
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from dboxfs.store.backend import odd_file

log = logging.getLogger(__name__)

# A base of this many bytes is parsed in a thread: it takes longer than a thread hop.
_PARSE_IN_THREAD = 1 << 20
_REPLAY_IN_THREAD = 128 << 10
_ATTEMPTS = 6
_LIMIT = 1 << 31
_START = 512


@dataclass(frozen=True, slots=True)
class Delta:
    """What one refresh changed: arrays of uids, ascending."""

    appended: np.ndarray
    expunged: np.ndarray
    updated: np.ndarray
    reloaded: bool

    def __bool__(self) -> bool:
        return self.reloaded or bool(len(self.appended) or len(self.expunged) or len(self.updated))


_NO_UIDS = np.empty(0, np.uint32)
NOTHING = Delta(_NO_UIDS, _NO_UIDS, _NO_UIDS, False)


class _Moving(Exception):
    """The files changed between two reads: read them again."""


class IndexFiles:
    """The index files *stem* in *directory*.  ``state`` is None before the first refresh."""

    def __init__(self, fs: FileSystem, directory: str, stem: str = "dovecot.index") -> None:
        self.directory = directory
        self.base_path = os.path.join(directory, stem)
        self.log_path = self.base_path + ".log"
        self.state: IndexState | None = None
        self.log_mtime_ns = 0
        self._fs = fs
        self._log_id: tuple[int, int] | None = None
        self._log_start = b""
        self._failure: tuple[object, CorruptFile] | None = None
        self._lock = trio.Lock()

    async def refresh(self) -> Delta:
        """Bring ``state`` up to date.

        :raises CorruptFile: base or log are damaged (the state of the last good refresh stays).
        :raises OSError: the directory can't be read.
        """
        async with self._lock:
            await self._fail_again()
            try:
                delta = await self._follow() if self.state is not None else None
            except (FormatError, _Moving):
                delta = None
            return delta if delta is not None else await self._load()

    async def exists(self) -> bool:
        """Whether the directory is there.  The state outlives it: the tree tells what became of it."""
        try:
            await self._fs.stat(self.directory)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def _fail_again(self) -> None:
        """Raise the last failure again while the files are the same."""
        if self._failure is None:
            return
        files, error = self._failure
        if await self._fingerprint() == files:
            raise CorruptFile(error.path, error.offset, error.reason)
        self._failure = None

    async def _fingerprint(self) -> object:
        paths = (self.base_path, self.log_path, self.log_path + ".2")
        found = await self._fs.peek([Peek(path, ()) for path in paths])
        return [
            (one.stat.st_dev, one.stat.st_ino, one.stat.st_size, one.stat.st_mtime_ns)
            if isinstance(one, PeekResult)
            else one.errno
            for one in found
        ]

    # -- following -----------------------------------------------------------------------------

    async def _follow(self) -> Delta | None:
        """Replay what the log has grown by; None when only a full load can tell."""
        state = self.state
        assert state is not None
        (new,) = await self._fs.peek([_whole(self.log_path, state.head_offset)])
        if isinstance(new, OSError):
            return None
        if not self._is_followed(new):
            return await self._follow_rotation(state)
        if new.stat.st_size < state.head_offset:
            return None
        delta = _replay(state, new.chunks[1])
        self._remember(new, state)
        return delta

    async def _follow_rotation(self, state: IndexState) -> Delta | None:
        """Read the log that has become ``.log.2`` to its end and go on with the new one."""
        old, new = await self._fs.peek(
            [_whole(self.log_path + ".2", state.head_offset), _whole(self.log_path)]
        )
        if isinstance(old, OSError) or isinstance(new, OSError) or not self._is_followed(old):
            return None
        first = _replay(state, old.chunks[1])
        header = parse_log_header(new.chunks[1])
        state.follow_rotation(header)
        second = _replay(state, new.chunks[1][header.hdr_size :])
        self._remember(new, state)
        return Delta(
            np.union1d(first.appended, second.appended),
            np.union1d(first.expunged, second.expunged),
            np.union1d(first.updated, second.updated),
            False,
        )

    def _is_followed(self, found: PeekResult) -> bool:
        return _file_id(found) == self._log_id and found.chunks[0].startswith(self._log_start)

    def _remember(self, found: PeekResult, state: IndexState) -> None:
        """*found* is the log that *state* has replayed up to its head."""
        self._log_id = _file_id(found)
        self._log_start = found.chunks[0][: state.head_offset]
        self.log_mtime_ns = found.stat.st_mtime_ns

    # -- loading -------------------------------------------------------------------------------

    async def _load(self) -> Delta:
        old = self.state
        reason: Exception | None = None
        files = await self._fingerprint()
        for attempt in range(_ATTEMPTS):
            if attempt:
                await trio.sleep(0.005 * 2**attempt)
            try:
                state = await self._load_once()
            except _Moving as exc:
                reason = exc
                continue
            except FormatError as exc:
                reason = CorruptFile(self.log_path, exc.offset, exc.reason)
                continue
            except CorruptFile as exc:
                reason = exc
                continue
            if old is not None and state is None and not await self.exists():
                return NOTHING
            self.state = state
            return _difference(old, state)
        if not isinstance(reason, CorruptFile):
            reason = CorruptFile(self.log_path, 0, f"base index and log don't fit together: {reason}")
        self._failure = files, reason
        raise reason

    async def _load_once(self) -> IndexState | None:
        base = await self._load_base()
        (found,) = await self._fs.peek([_whole(self.log_path)])
        if isinstance(found, FileNotFoundError):
            self._log_id = None
            return base
        if isinstance(found, OSError):
            raise odd_file(found, self.log_path) or found
        data = found.chunks[1]
        state = await self._join(base, data)
        self._remember(found, state)
        return state

    async def _load_base(self) -> IndexState | None:
        (found,) = await self._fs.peek([_whole(self.base_path)])
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

    async def _join(self, base: IndexState | None, data: bytes) -> IndexState:
        """Replay the right part of the log (and of ``.log.2``) on *base*."""
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
            return load(plan, base, data, older)
        return await trio.to_thread.run_sync(load, plan, base, data, older)


def _whole(path: str, offset: int = 0) -> Peek:
    """The start of a file, and everything from *offset* on."""
    return Peek(path, ((0, _START), (offset, None)), limit=_LIMIT)


def _replay(state: IndexState, data: bytes) -> Delta:
    if not data:
        return NOTHING
    changes = state.apply_log(data, state.head_offset)
    return Delta(changes.appended, changes.expunged, changes.updated, False)


def _file_id(found: PeekResult) -> tuple[int, int]:
    return found.stat.st_dev, found.stat.st_ino


def _difference(old: IndexState | None, new: IndexState | None) -> Delta:
    before = old.uids if old is not None else _NO_UIDS
    after = new.uids if new is not None else _NO_UIDS
    return Delta(
        np.setdiff1d(after, before, assume_unique=True),
        np.setdiff1d(before, after, assume_unique=True),
        np.intersect1d(before, after, assume_unique=True),
        True,
    )
