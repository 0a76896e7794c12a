"""Rewrite ``dovecot.index`` and rotate its log, in a store without a Dovecot (PROTOCOL section 10).

Both happen under the log's lock, at the end of a change.  The snapshot is rewritten when the log has grown by
``rewrite_after`` and by a quarter of the snapshot's size, so that many small changes of a large mailbox don't
cause a rewrite each.
"""

from __future__ import annotations

import time

from dboxfs.errors import CorruptFile, FormatError
from dboxfs.fsapi import Peek, PeekResult, ops
from dboxfs.fsapi.ops import LockKind
from dboxfs.index.base import encode_index, parse_log_position
from dboxfs.index.log import LogHeader, encode_log_header
from dboxfs.index.state import BASE_HEADER_SIZE, IndexState
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.write_options import LockMethod, WriteOptions

ROTATE_AGE = 300
"""Seconds after which a log is old enough for a new one, when the snapshot is rewritten anyway."""


async def tidy(index: IndexLog) -> None:
    """Rotate or rewrite a locked index if that is due.  An error is counted; the index stays as it was."""
    try:
        if _rotation_is_due(index):
            await rotate(index)
        elif _rewrite_is_due(index):
            await rewrite(index)
    except (CorruptFile, OSError):
        index.disk.lost_errors += 1


async def is_due(index: IndexLog, state: IndexState) -> bool:
    """Whether an index that is not locked, with the state *state*, should be rewritten."""
    (base,) = await index.disk.fs.peek([Peek(index.base_path, ((0, BASE_HEADER_SIZE),))])
    covered = (0, 0)
    if isinstance(base, PeekResult):
        position = parse_log_position(base.chunks[0])
        covered = (position.file_seq, position.head_offset)
    return _has_grown(index.disk.options, covered, state)


def is_due_behind(index: IndexLog, more: int) -> bool:
    """Whether :func:`tidy` may be due when a locked log has grown by *more* bytes."""
    return _rotation_is_due(index, more) or _rewrite_is_due(index, more)


def _rewrite_is_due(index: IndexLog, more: int = 0) -> bool:
    return _has_grown(index.disk.options, index.snapshot_head, index.state, more)


def _has_grown(options: WriteOptions, covered: tuple[int, int], state: IndexState, more: int = 0) -> bool:
    """*covered*: the log (file_seq) and the offset in it up to which the snapshot goes."""
    seq, head = covered
    grown = state.head_offset + more - (head if seq == state.log_file_seq else 0)
    return grown > max(options.rewrite_after, len(state) * state.record_size // 4)


def _rotation_is_due(index: IndexLog, more: int = 0) -> bool:
    state = index.state
    if state.has_pending_requests:
        return False
    age = time.time() - index.header.create_stamp
    size = state.head_offset + more
    return size > index.disk.options.rotate_log or (age > ROTATE_AGE and _rewrite_is_due(index, more))


async def rewrite(index: IndexLog, *, log2_rotate_time: int | None = None) -> None:
    """Write ``dovecot.index`` from the state of the locked log.

    :raises CorruptFile: the log gives a state that no snapshot may have.
    """
    try:
        data = encode_index(index.state, log2_rotate_time=log2_rotate_time)
    except FormatError as exc:
        raise CorruptFile(index.log_path, 0, f"no snapshot can be made of it: {exc.reason}") from exc
    temporary = index.base_path + ".tmp"
    await index.disk.unlink(temporary)
    await index.disk.replace(index.base_path, data, temporary)
    await index.disk.sync_dir(index.directory)
    index.snapshot_head = (index.state.log_file_seq, index.state.head_offset)


async def rotate(index: IndexLog) -> None:
    """Begin a new log; the locked one becomes ``.log.2``.  Afterwards the new one is locked.

    At every moment a reader needs a snapshot that belongs to one of the two logs: if there is none, it is
    written first.
    """
    state, disk = index.state, index.disk
    if index.snapshot_head[0] != state.log_file_seq:
        await rewrite(index)
    now = int(time.time())
    header = LogHeader(
        indexid=state.indexid,
        file_seq=state.log_file_seq + 1,
        prev_file_seq=state.log_file_seq,
        prev_file_offset=state.head_offset,
        create_stamp=now,
        initial_modseq=state.highest_modseq,
    )
    newlock, older = index.log_path + ".newlock", index.log_path + ".2"
    await disk.unlink(newlock)  # its maker held this log's lock, and died
    file = await disk.create(newlock)
    try:
        await file.append(encode_log_header(header))
        await file.sync()
        method = disk.options.lock_method
        if method is not LockMethod.DOTLOCK:
            await file.try_lock(LockKind.FLOCK if method is LockMethod.FLOCK else LockKind.RECORD)
        await disk.unlink(older)
        await disk.run(ops.Link(index.log_path, older))
        await disk.run(ops.Rename(newlock, index.log_path))
    except OSError:
        await file.close()
        await disk.discard([newlock])
        raise
    await index.follow_rotation(file, header)
    await rewrite(index, log2_rotate_time=now)
