"""Saves a second: through the mount and through the library, beside ``doveadm save`` and IMAP APPEND.

One message of median size is saved again and again into INBOX, by one writer and by :data:`WRITERS`, each
waiting for every save to be acknowledged.  All subjects take turns in each round, each with a store of its
own that is new in each round and has had one save before the clock starts.

* mount: a process for each writer, which makes, writes and closes files (what cp does, without its start).
* library: ``StoreWriter`` in one process, a task for each writer.
* imap: an IMAP session for each writer, no login and no network in between: ``APPEND``, and its answer.
* doveadm: a ``doveadm save`` process for each message.

Dovecot syncs as it does by default (``mail_fsync = optimized``); ours with ``fsync=commit``, which is as
safe, and with ``fsync=never``, which is for bulk loads and has no peer.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from bench.clients import Sample
from bench.dovecot import Doveadm
from bench.errors import BenchError
from bench.goals import FORMATS, SAVE_WRITERS, save_cell
from bench.mail import MEDIAN, Corpus
from bench.run import Bench
from bench.stores import location_of
from bench.subjects import Dboxfs

_DBOXFS = Path(sys.executable).with_name("dboxfs")
_IMAP = "/usr/lib/dovecot/imap"
_COUNT = 100
_OPTIMIZED = ("-o", "mail_fsync=optimized")


@dataclass(frozen=True, slots=True)
class _Task:
    """*count* saves by each of *writers*, into a new store below *place*.  ``message``: a file."""

    bench: Bench
    place: Path
    driver: str
    fsync: str
    writers: int
    count: int
    message: Path

    def root(self, name: str) -> Path:
        """Where the store of a subject lies; its name ends in the format."""
        return self.place / f"{name}-{self.driver}"


def saves(bench: Bench, rounds: int) -> None:
    """Measure all subjects *rounds* times."""
    place, message = bench.work / "saves", bench.work / "message"
    corpus = Corpus(1, bench.seed, sizes=[MEDIAN])
    message.write_bytes(corpus.text(corpus.mails[0]))
    ours = {"mount": _mount, "library": _library}
    subjects = {"commit": {**ours, "imap": _imap, "doveadm": _doveadm}, "never": ours}
    for number in range(rounds):
        for driver, fsync, writers in product(FORMATS, subjects, SAVE_WRITERS):
            count = max(1, min(_COUNT, len(bench.corpus) // 20) * (2 if writers > 1 else 1) // writers)
            task = _Task(bench, place, driver, fsync, writers, count, message)
            for name, step in list(subjects[fsync].items())[:: -1 if number % 2 else 1]:
                what = f"round {number + 1} of {rounds}: saves by {writers}, {driver}, {name}, {fsync}"
                bench.attempt(what, partial(_measure, task, name, step))


def _measure(task: _Task, name: str, step: Callable[[_Task], float]) -> None:
    task.bench.doveadm.directory(task.place)
    try:
        seconds = step(task)
    finally:
        shutil.rmtree(task.place)
    cell = save_cell(task.driver, task.fsync, task.writers, name)
    a_save = seconds / (task.count * task.writers)
    task.bench.cells.samples.setdefault(cell, []).append(Sample(1000 * a_save, 0.0, 0.0))
    task.bench.cells.values.setdefault(cell, []).append(1 / a_save)


# -- ours ----------------------------------------------------------------------------------------------------


def _new_store(task: _Task, name: str) -> Path:
    """A copy of an empty store that is made once."""
    root, empty = task.root(name), task.bench.work / f"empty-{task.driver}"
    if not empty.exists():
        command = [str(_DBOXFS), "init", str(empty), "--format", task.driver]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"dboxfs init: {done.stderr.strip()}")
    shutil.copytree(empty, root)
    return root


def _library(task: _Task) -> float:
    root = _new_store(task, "library")
    how = (location_of(root), task.fsync, str(task.writers))
    return _time_savers(task, "bench.saver", [how])


def _mount(task: _Task) -> float:
    root = _new_store(task, "mount")
    how = ("-f", "--log-level", "warning", "--cache-dir", "none", "-o", f"rw,fsync={task.fsync}")
    command = (_DBOXFS, "mount", *how, location_of(root))
    with Dboxfs("saves", root, task.bench.work, command) as mount:
        mount.start()
        inbox = mount.path / "INBOX"
        (inbox / "first").write_bytes(task.message.read_bytes())
        hows = [(str(inbox), f"{writer}-") for writer in range(task.writers)]
        return _time_savers(task, "bench.filer", hows)


def _time_savers(task: _Task, module: str, hows: Sequence[tuple[str, ...]]) -> float:
    """Start the processes, wait until all are ready, and take the time until all are done."""
    base = [sys.executable, "-m", module, str(task.message), str(task.count)]
    savers = [
        subprocess.Popen([*base, *how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_root())
        for how in hows
    ]
    try:
        for saver in savers:
            _expect(saver, "ready")
        start = time.perf_counter()
        for saver in savers:
            assert saver.stdin is not None
            saver.stdin.write("\n")
            saver.stdin.flush()
        for saver in savers:
            _expect(saver, "done")
        return time.perf_counter() - start
    finally:
        for saver in savers:
            saver.communicate()


def _expect(saver: subprocess.Popen[str], word: str) -> None:
    assert saver.stdout is not None
    if saver.stdout.readline().strip() != word:
        raise BenchError(f"a process that saves has failed: {saver.args!r}")


def _root() -> Path:
    """Where ``bench`` can be imported from."""
    return Path(__file__).parent.parent


# -- Dovecot's -----------------------------------------------------------------------------------------------


def _imap(task: _Task) -> float:
    location = location_of(task.bench.doveadm.directory(task.root("imap")))
    text = task.message.read_bytes()
    with _sessions(task.bench.doveadm, location, task.writers) as sessions:
        _append(sessions[0], text, 1)
        return _time_threads([partial(_append, session, text, task.count) for session in sessions])


@contextmanager
def _sessions(doveadm: Doveadm, location: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """IMAP sessions that are logged in, each a process of Dovecot's ``imap`` with pipes."""
    command = [_IMAP, "-c", str(doveadm.config), *_OPTIMIZED, *doveadm.dialect.options(location)]
    entry = pwd.getpwnam(doveadm.user)
    uid, gid = (entry.pw_uid, entry.pw_gid) if os.geteuid() == 0 else (None, None)
    made: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            session = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=doveadm.environment(),
                user=uid,
                group=gid,
            )
            made.append(session)
            _answer(session, b"* PREAUTH")
        yield made
    finally:
        for session in made:
            session.communicate()


def _append(session: subprocess.Popen[bytes], text: bytes, count: int) -> None:
    assert session.stdin is not None
    for _ in range(count):
        session.stdin.write(b"a APPEND INBOX {%d+}\r\n%s\r\n" % (len(text), text))
        session.stdin.flush()
        _answer(session, b"a OK")


def _answer(session: subprocess.Popen[bytes], wanted: bytes) -> None:
    assert session.stdout is not None
    while not (line := session.stdout.readline()).startswith(wanted):
        if not line.startswith(b"* "):
            raise BenchError(f"imap: {line.decode(errors='replace').strip() or 'ended'}")


def _doveadm(task: _Task) -> float:
    doveadm = task.bench.doveadm
    location = location_of(doveadm.directory(task.root("doveadm")))
    command = doveadm.command(location, "save")
    command[1:1] = _OPTIMIZED

    def save(count: int) -> None:
        for _ in range(count):
            with task.message.open("rb") as message:
                done = subprocess.run(
                    command, stdin=message, env=doveadm.environment(), capture_output=True, check=False
                )
            if done.returncode or done.stderr:
                raise BenchError(f"doveadm save: {done.stderr.decode(errors='replace').strip()[:300]}")

    save(1)
    return _time_threads([partial(save, task.count)] * task.writers)


def _time_threads(works: list[Callable[[], None]]) -> float:
    """Run all at once; seconds until the last one has ended."""
    errors: list[BenchError] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BenchError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if errors:
        raise errors[0]
    return seconds
