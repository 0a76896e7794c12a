"""The writing half of a handle: a bounded buffer, write-behind in clusters, commit and rollback.

One operation of a writer is in flight at a time.  Whenever one ends, :meth:`Writer.step` starts the next one
that is wanted:

======================  ==============================================================================
wanted                  operations
======================  ==============================================================================
a cluster is full       Append
commit                  Append of the rest, Sync, then for a new file Publish and SyncDir
rollback                Truncate to the committed size
close                   rollback; for a new file that was never committed Unlink; then the file is closed
======================  ==============================================================================

A new file is written under a temporary name in the directory of its final name.  ``committed`` is the size
that the last commit made durable, ``flushed`` the size of the file as far as this writer knows, ``size`` the
size that it will have when the buffer is written.

Errors: after a failed Append or Sync every call fails until :meth:`rollback`: the kernel may have dropped the
unwritten bytes, so that a second fsync would report success for lost data.  A failed Publish (EEXIST) changes
nothing: the caller may try the commit under another name.
"""

from __future__ import annotations

import enum
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from dboxfs.fsapi import ops
from dboxfs.fsapi.engine import Engine
from dboxfs.fsapi.ops import Appended, Job, Op, fresh
from dboxfs.fsapi.types import CreateMode

R = TypeVar("R")

_CLUSTER = 64 << 10


class _Commit(enum.Enum):
    """The stage of a commit."""

    NONE = "none"
    DATA = "data"
    PUBLISH = "publish"
    DIRECTORY = "directory"
    DONE = "done"


class Writer:
    """Writes one open file: the buffer, and the step that is on its way.

    :param path: the final name (it changes when a commit gives another one).
    :param temporary: the name until the first commit; None for a file that exists already.
    :param on_progress: called after every operation: a caller that was told EAGAIN may try again.
    :param on_finished: called once after :meth:`close`, when the file may be closed.
    """

    def __init__(
        self,
        engine: Engine,
        path: str,
        temporary: str | None,
        mode: CreateMode,
        on_progress: Callable[[], None],
        on_finished: Callable[[], None],
    ) -> None:
        self.path = path
        self.temporary = temporary
        self.finished = False
        self.rollbacks = 0
        self.committed = 0
        self.flushed = 0
        self.dirty = 0
        self._engine = engine
        self._mode = mode
        self.on_progress = on_progress
        self._on_finished = on_finished
        self._fd = -1
        self._chunks: deque[bytes] = deque()
        self._in_append: tuple[bytes, ...] = ()
        self._busy = False
        self._flush = False
        self._closing = False
        self._rollback = False
        self._unsynced_dir = False
        self._dead = False
        self._error: OSError | None = None
        self._commit = _Commit.NONE
        self._commit_error: OSError | None = None

    # -- called by the handle ----------------------------------------------------------------------------

    def opened(self, fd: int, size: int) -> None:
        """The file is open and ``size`` bytes long."""
        self._fd = fd
        self.committed = self.flushed = size
        self.step()

    def open_failed(self) -> None:
        """The open has failed: nothing will be written."""
        self._drop_buffer()
        self._finish()

    @property
    def size(self) -> int:
        """Length of the file with everything written through this handle."""
        base = self.committed if self._rollback else self.flushed + sum(map(len, self._in_append))
        return base + sum(map(len, self._chunks))

    def check(self) -> None:
        """
        :raises OSError: a write has failed.
        """
        if self._error is not None:
            raise fresh(self._error)

    @property
    def settled(self) -> bool:
        """Whether the file has all written bytes, and nothing else."""
        return self._fd >= 0 and not self._rollback and self.flushed == self.size

    @property
    def committing(self) -> bool:
        """Whether a commit is on its way."""
        return self._commit not in (_Commit.NONE, _Commit.DONE)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take bytes into the buffer and return how many.

        :raises BlockingIOError: the buffer takes none now.
        :raises OSError: an earlier write or commit failed.
        """
        if self._commit is _Commit.DONE:
            self._take_outcome()
        if self._error is not None:
            raise fresh(self._error)
        if self.committing:
            raise BlockingIOError(errno.EAGAIN, "a commit is on its way", self.path)
        room = min(self._room(), len(data))
        if room <= 0 and len(data):
            self._engine.want_room(self)
            raise BlockingIOError(errno.EAGAIN, "the write buffer is full", self.path)
        if room:
            whole = room == len(data) and isinstance(data, bytes)
            self._chunks.append(data if whole and isinstance(data, bytes) else bytes(data[:room]))
            self.dirty += room
            self._engine.dirtied(self, room)
            self.step()
        return room

    def commit(self, filename: str | None) -> None:
        """Begin a commit, or return or raise the outcome of the one that has ended.

        :raises BlockingIOError: the commit is on its way.
        :raises OSError: the commit or an earlier write failed; EINVAL: another name, too late.
        """
        if self._commit is _Commit.DONE:
            self._take_outcome()
            return
        if not self.committing:
            if self._error is not None:
                raise fresh(self._error)
            if filename is not None and filename != self.path:
                if self.temporary is None:
                    raise OSError(errno.EINVAL, "a committed file keeps its name", self.path)
                self.path = filename
            if self._is_clean():
                return
            self._commit = _Commit.DATA
            self.step()
        elif filename is not None and filename != self.path:
            raise OSError(errno.EINVAL, "a commit under another name is on its way", self.path)
        raise BlockingIOError(errno.EAGAIN, "committing", self.path)

    def ready(self) -> bool:
        """Whether :meth:`write` takes a byte or raises an error; if not, ask the engine for room."""
        if self._error is not None or self._commit_error is not None:
            return True
        if self.committing:
            return False
        if self._room() > 0:
            return True
        self._engine.want_room(self)
        return False

    def rollback(self) -> None:
        """Drop the bytes since the last commit; a commit that has begun to give the name goes on."""
        self.rollbacks += 1
        if self._commit in (_Commit.NONE, _Commit.DATA, _Commit.DONE):
            self._commit = _Commit.NONE
        self._error = self._commit_error = None
        self._drop_buffer()
        self._rollback = True
        self._dead = False
        self.step()

    def close(self) -> None:
        """Roll back, and finish."""
        self._closing = True
        self._drop_buffer()
        self.step()

    def flush(self) -> None:
        """Write the buffer now, though no cluster is full."""
        self._flush = True
        self.step()

    def has_room(self) -> None:
        """The engine has room again."""
        self.on_progress()

    def hand_over(self) -> str:
        """Leave the file to the caller: closing neither rolls it back nor removes it; returns its name.

        :raises ValueError: it is no new file, or not :attr:`settled`.
        """
        if self.temporary is None or not self.settled:
            raise ValueError(f"{self.path}: no new file that could be handed over")
        path, self.temporary = self.temporary, None
        self.committed = self.flushed
        return path

    def directory_is(self, path: str) -> None:
        """The directory of a new file has this path by now; any other file stays where it is."""
        if self.temporary is not None:
            self.temporary = os.path.join(path, os.path.basename(self.temporary))

    def slice(self, size: int, offset: int) -> bytes | None:
        """Bytes at ``offset`` from the buffer, b"" behind the end; None: they are in the file."""
        if self._rollback and offset >= self.committed:
            position = self.committed
            chunks: tuple[bytes, ...] = tuple(self._chunks)
        else:
            position = self.flushed
            chunks = (*self._in_append, *self._chunks)
        if offset < position:
            return None
        for chunk in chunks:
            if offset < position + len(chunk):
                return chunk[offset - position : offset - position + size]
            position += len(chunk)
        return b""

    # -- the machine -------------------------------------------------------------------------------------

    def step(self) -> None:
        """Start the next operation, if none is in flight and one is wanted."""
        if self._busy or self._fd < 0 or self.finished:
            return
        if self._closing and self._commit in (_Commit.NONE, _Commit.DATA, _Commit.DONE):
            self._step_close()
        elif self._rollback:
            self._step_rollback()
        elif self._commit is _Commit.PUBLISH:
            assert self.temporary is not None
            replace = self._mode is CreateMode.REPLACE_IF_EXISTS
            self._run(ops.Publish(self.temporary, self.path, replace), self._published)
        elif self._commit is _Commit.DIRECTORY:
            self._run(ops.SyncDir(os.path.dirname(self.path) or "."), self._directory_synced)
        elif self._chunks and (self._flush or self.dirty >= _CLUSTER or self._commit is _Commit.DATA):
            self._in_append = tuple(self._chunks)
            self._chunks.clear()
            self._run(ops.Append(self._fd, self._in_append), self._appended)
        elif self._commit is _Commit.DATA:
            self._run(ops.Sync(self._fd, self.flushed, self._engine.limits.sync), self._synced)

    def _step_close(self) -> None:
        if self.temporary is not None:
            self._run(ops.Unlink(self.temporary), self._removed)
        elif self.flushed > self.committed and not self._dead:
            self._step_rollback()
        else:
            self._finish()

    def _step_rollback(self) -> None:
        if self.flushed > self.committed:
            self._run(ops.Truncate(self._fd, self.committed, self.flushed), self._truncated)
        else:
            self._rollback = False
            self.step()

    def _run(self, op: Op[R], done: Callable[[Job[R]], None]) -> None:
        def ended(job: Job[R]) -> None:
            self._busy = False
            done(job)
            self.step()
            self.on_progress()

        self._busy = True
        self._engine.submit(op, ended)

    def _appended(self, job: Job[Appended]) -> None:
        chunks, self._in_append = self._in_append, ()
        answer = Appended(0, job.error) if isinstance(job.error, OSError) else job.value()
        self.flushed += answer.written
        self._engine.counters.written_bytes += answer.written
        rest = _behind(chunks, answer.written)
        if answer.error is None and not self._rollback and not self._closing:
            self._chunks.extendleft(reversed(rest))
            self._clean(answer.written)
        else:
            self._clean(sum(map(len, chunks)))
        if not self._chunks:
            self._flush = False
        if answer.error is not None and not self._rollback:
            self._fail(answer.error)

    def _synced(self, job: Job[None]) -> None:
        if self._rollback or self._closing:
            return
        if isinstance(job.error, OSError):
            self._fail(job.error)
            return
        job.value()
        if self.temporary is not None:
            self._commit = _Commit.PUBLISH
            return
        self.committed = self.flushed
        self._next_directory()

    def _published(self, job: Job[None]) -> None:
        if isinstance(job.error, OSError):
            self._end_commit(job.error)
            if self._rollback:
                self._commit, self._commit_error = _Commit.NONE, None
            return
        job.value()
        self.temporary = None
        self.committed = self.flushed
        self._unsynced_dir = True
        self._next_directory()

    def _next_directory(self) -> None:
        if self._unsynced_dir and self._engine.limits.sync:
            self._commit = _Commit.DIRECTORY
        else:
            self._end_commit(None)

    def _directory_synced(self, job: Job[None]) -> None:
        if isinstance(job.error, OSError):
            self._end_commit(job.error)
            return
        job.value()
        self._unsynced_dir = False
        self._end_commit(None)

    def _truncated(self, job: Job[None]) -> None:
        self._rollback = False
        if isinstance(job.error, OSError):
            self._engine.counters.lost_errors += 1
            self._error = job.error
            self._dead = True
            return
        job.value()
        self.flushed = self.committed

    def _removed(self, job: Job[None]) -> None:
        if isinstance(job.error, OSError):
            self._engine.counters.lost_errors += 1
        self._finish()

    # -- inside ------------------------------------------------------------------------------------------

    def _room(self) -> int:
        return min(
            self._engine.limits.write_buffer - self.dirty,
            self._engine.limits.dirty_limit - self._engine.dirty,
        )

    def _is_clean(self) -> bool:
        """Whether there is nothing to commit."""
        unchanged = not self.dirty and self.flushed == self.committed and not self._rollback
        return (
            self.temporary is None
            and unchanged
            and not (self._unsynced_dir and self._engine.limits.sync)
            and self._fd >= 0
        )

    def _fail(self, error: OSError) -> None:
        self._drop_buffer()
        self._error = error
        if self.committing:
            self._end_commit(error)

    def _end_commit(self, error: OSError | None) -> None:
        self._commit = _Commit.DONE
        self._commit_error = error

    def _take_outcome(self) -> None:
        self._commit = _Commit.NONE
        error, self._commit_error = self._commit_error, None
        if error is not None:
            raise fresh(error)

    def _drop_buffer(self) -> None:
        dropped = sum(map(len, self._chunks))
        self._chunks.clear()
        self._clean(dropped)

    def _clean(self, count: int) -> None:
        self.dirty -= count
        self._engine.cleaned(self, count)

    def _finish(self) -> None:
        self.finished = True
        self._on_finished()


def _behind(chunks: tuple[bytes, ...], count: int) -> list[bytes]:
    """The rest of ``chunks`` behind the first ``count`` bytes."""
    rest = []
    for chunk in chunks:
        if count < len(chunk):
            rest.append(chunk[count:])
            count = 0
        else:
            count -= len(chunk)
    return rest
