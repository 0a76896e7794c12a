"""A request that is appended in one operation does what the steps do that it stands for."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from dboxfs.fsapi.chain import Chain, execute_chain
from dboxfs.fsapi.drivers import posix
from dboxfs.fsapi.ops import Appended, AppendLocked, FileAsSeen, LockKind
from dboxfs.store.write.expunge_requests import append_under_lock

LOG = b"what is there"
DATA = b"a request"
NOTE = b"its promise"

Way = Callable[[AppendLocked], Appended | None]


def by_steps(asked: AppendLocked) -> Appended | None:
    return execute_chain(Chain(lambda: append_under_lock(asked)), posix.execute)


def at_once(asked: AppendLocked) -> Appended | None:
    return posix.execute(asked)


WAYS = pytest.mark.parametrize("way", [by_steps, at_once])
LOCKS = pytest.mark.parametrize("lock", [LockKind.RECORD, LockKind.FLOCK])


@contextmanager
def a_log(tmp_path: Path, lock: LockKind = LockKind.RECORD) -> Iterator[AppendLocked]:
    path = tmp_path / "log"
    path.write_bytes(LOG)
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    note = os.open(tmp_path / "note", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    found = os.fstat(fd)
    try:
        seen = FileAsSeen(str(path), (found.st_dev, found.st_ino), len(LOG))
        yield AppendLocked(fd, (seen,), DATA, lock, note, NOTE)
        assert is_free(fd, lock, path)
        asked = path.exists() and path.read_bytes() == LOG + DATA
        assert (tmp_path / "note").read_bytes() == (NOTE if asked else b"")
    finally:
        os.close(fd)
        os.close(note)


def lock_it(path: Path, lock: LockKind) -> int:
    """Lock a file as another program would; gives the descriptor that holds it.

    :raises BlockingIOError: it is locked.
    """
    fd = os.open(path, os.O_RDWR)
    try:
        (fcntl.lockf if lock is LockKind.RECORD else fcntl.flock)(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def is_free(fd: int, lock: LockKind, path: Path) -> bool:
    """Whether the lock was given back, where the log is still that file."""
    if not path.exists() or path.stat().st_ino != os.fstat(fd).st_ino:
        return True
    os.close(lock_it(path, lock))
    return True


@WAYS
@LOCKS
def test_a_log_that_ends_where_it_did_gets_the_request(way: Way, lock: LockKind, tmp_path: Path) -> None:
    with a_log(tmp_path, lock) as asked:
        assert way(asked) == Appended(len(DATA), None)
    assert (tmp_path / "log").read_bytes() == LOG + DATA


@WAYS
def test_a_request_that_could_not_be_noted_says_so(way: Way, tmp_path: Path) -> None:
    with a_log(tmp_path) as asked, Path("/dev/full").open("ab", buffering=0) as full:
        answer = way(replace(asked, note_fd=full.fileno()))
        assert answer is not None
        assert (answer.written, answer.error is not None) == (len(DATA), True)
        assert (tmp_path / "log").read_bytes() == LOG + DATA
        (tmp_path / "note").write_bytes(NOTE)


@WAYS
def test_a_log_that_has_grown_is_left_alone(way: Way, tmp_path: Path) -> None:
    with a_log(tmp_path) as asked:
        (tmp_path / "log").write_bytes(LOG + b"more")
        assert way(asked) is None
    assert (tmp_path / "log").read_bytes() == LOG + b"more"


@WAYS
def test_a_log_that_was_rotated_or_removed_is_left_alone(way: Way, tmp_path: Path) -> None:
    with a_log(tmp_path) as asked:
        (tmp_path / "log").rename(tmp_path / "log.2")
        assert way(asked) is None
        (tmp_path / "log").write_bytes(LOG)
        assert way(asked) is None
    assert (tmp_path / "log").read_bytes() == (tmp_path / "log.2").read_bytes() == LOG


@WAYS
@pytest.mark.parametrize("now", [None, b"", b"a name\n", b"a name\nmore\n"], ids=repr)
@pytest.mark.parametrize("seen", [None, b"a name\n"], ids=repr)
def test_only_where_another_file_is_as_it_was_seen_the_log_gets_the_request(
    way: Way, seen: bytes | None, now: bytes | None, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    names.write_bytes(seen or b"")
    found = names.stat()
    identity = (found.st_dev, found.st_ino) if seen is not None else None
    if now is None:
        names.unlink()
    else:
        names.write_bytes(now)
    with a_log(tmp_path) as asked:
        asked = replace(asked, seen=(*asked.seen, FileAsSeen(str(names), identity, len(seen or b""))))
        assert (way(asked) is not None) == (seen == now)


@WAYS
@LOCKS
def test_a_log_that_is_locked_is_left_alone(way: Way, lock: LockKind, tmp_path: Path) -> None:
    with a_log(tmp_path, lock) as asked:
        held = lock_it(tmp_path / "log", lock)
        try:
            assert way(asked) is None
        finally:
            os.close(held)
    assert (tmp_path / "log").read_bytes() == LOG


@WAYS
@pytest.mark.parametrize("room", [0, 4])
def test_what_finds_no_room_leaves_the_log_as_it_was(way: Way, room: int, tmp_path: Path) -> None:
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with a_log(tmp_path) as asked:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(LOG) + room, limits[1]))
        try:
            answer = way(asked)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    assert answer is not None
    assert answer.written == room
    assert answer.error is not None
    assert (tmp_path / "log").read_bytes() == LOG
