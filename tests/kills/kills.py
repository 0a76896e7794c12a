"""Rounds of: mount, 4 writers, 2 listers and a Dovecot at work, SIGKILL for the daemon, and a look at what
is left.

What must hold after each: every client and the daemon with its companion end by themselves within
:data:`PATIENCE` seconds; in the next mount every message whose writing was acknowledged is there, none whose
removal was, and none twice, but where a Dovecot has rebuilt the storage in the middle of a change that was
not acknowledged: it brings up what it finds (PROTOCOL section 13).  Of a message that was linked and whose
first name was removed then, one is left, whatever Dovecot rebuilds.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import dboxfs.fuse.mount  # noqa: F401 - loaded once, before the forks
from dboxfs.cli.main import main
from dboxfs.util.mounts import mounted_on, servers
from tests.kills.clients import (
    MAILBOXES,
    Writer,
    dovecot_at_work,
    fork,
    id_of,
    list_and_read,
    own_mailbox,
)
from tests.live.dovecot import Account

WRITERS, LISTERS = 4, 2
ALL = (*MAILBOXES, *(own_mailbox(f"w{n}") for n in range(WRITERS)))
PATIENCE = 5.0
"""Seconds in which everything has to end by itself."""

WORK = (0.05, 0.6)
"""Seconds of work before the kill: from, to."""


@dataclass(slots=True)
class Tally:
    """What came of the rounds; each line is a fault.

    ``hung``: one line for each process that didn't end by itself.  ``lost``: acknowledged messages that are
    not there.  ``undone``: acknowledged removals of messages that are there, with the last lines of the
    journal about each.  ``doubled``: messages that are
    there twice, and Dovecot has rebuilt nothing.  ``failed``: clients that ended with an error that has
    nothing to do with the kill.
    """

    rounds: int = 0
    operations: int = 0
    hung: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.operations} acknowledged operations: "
            f"{len(self.hung)} processes hung, {len(self.lost)} messages lost, "
            f"{len(self.undone)} removals undone, {len(self.doubled)} messages doubled, "
            f"{len(self.failed)} clients failed"
        )

    @property
    def faults(self) -> list[str]:
        """All that must not be, a line each."""
        kinds = ("hung", "lost", "undone", "doubled", "failed")
        return [f"{kind}: {line}" for kind in kinds for line in getattr(self, kind)]


@dataclass(slots=True)
class Kills:
    """Rounds on one store.  The process must have no threads: it forks.

    :ivar entries: how the daemon tells the kernel of names (``-o entries=``).
    :ivar directory: an empty one, for the mountpoint, journals and logs.
    :ivar keep: where to keep what tells the cause of a fault; None: nowhere.
    """

    account: Account
    entries: str
    directory: Path
    seed: int
    keep: Path | None = None
    tally: Tally = field(default_factory=Tally)
    _must: set[str] = field(default_factory=set)
    _copies: Counter[str] = field(default_factory=Counter)
    _logged: int = 0
    _must_not: set[str] = field(default_factory=set)
    _once: set[str] = field(default_factory=set)
    _twice: set[str] = field(default_factory=set)
    _journal: list[str] = field(default_factory=list)

    @property
    def mnt(self) -> Path:
        return self.directory / "mnt"

    def run(self, rounds: int, seconds: float = float("inf")) -> Tally:
        """So many rounds, as long as there is time for another one."""
        deadline = time.monotonic() + seconds
        self.mnt.mkdir()
        for box in ALL[len(MAILBOXES) :]:
            self.account.doveadm("mailbox create", box)
        try:
            for number in range(rounds):
                if time.monotonic() > deadline:
                    break
                self._round(random.Random(f"{self.seed} {number}"))
            there = self._mount()
            self._check(there)
        finally:
            self._dboxfs("umount", "--force", "--quiet", str(self.mnt))
        return self.tally

    def _round(self, choose: random.Random) -> None:
        there = self._mount()
        self._check(there)
        mount = mounted_on(str(self.mnt))
        assert mount is not None
        pids = [pid for pid in servers(mount.connection) if _is_ours(pid)]
        daemon = min(pids, key=lambda pid: _parent(pid) in pids)
        journals = [self.directory / f"journal{n}" for n in range(WRITERS)]
        logs = {box: Path(self.account.root, "mailboxes", box, "dbox-Mails/dovecot.index.log") for box in ALL}
        clients = [
            fork(Writer(self.mnt, f"w{n}", choose.getrandbits(32), _own(there, n), journals[n], logs).run)
            for n in range(WRITERS)
        ]
        clients += [fork(partial(list_and_read, self.mnt, choose.getrandbits(32))) for _ in range(LISTERS)]
        dovecot = fork(partial(dovecot_at_work, self.account, choose.getrandbits(32)))
        time.sleep(choose.uniform(*WORK))
        os.kill(daemon, signal.SIGKILL)
        self._await_end(clients, pids)
        os.kill(dovecot, signal.SIGKILL)
        os.waitpid(dovecot, 0)
        if self._dboxfs("umount", str(self.mnt)):
            self.tally.hung.append(f"round {self.tally.rounds}: umount failed")
        for client in clients:
            self._reap(client, 2.0)
        self._read(journals)
        self.tally.rounds += 1

    def _await_end(self, clients: list[int], daemons: list[int]) -> None:
        deadline = time.monotonic() + PATIENCE
        waiting = {*clients, *daemons}
        while waiting and time.monotonic() < deadline:
            waiting = {pid for pid in waiting if _is_alive(pid)}
            time.sleep(0.005)
        for pid in sorted(waiting):
            kind = "client" if pid in clients else "daemon"
            self.tally.hung.append(f"round {self.tally.rounds}: {kind} {pid}: {_where(pid)}")

    def _reap(self, pid: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                self.tally.hung.append(f"round {self.tally.rounds}: client {pid}: umount did not free it")
                return
            time.sleep(0.005)
        if done[1]:
            self.tally.failed.append(f"round {self.tally.rounds}: client {pid}: status {done[1]}")

    # -- mounts --------------------------------------------------------------------------------

    def _dboxfs(self, *arguments: str) -> int:
        """The program, without the time that its start takes."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = main(arguments)
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _mount(self) -> dict[str, list[Path]]:
        """Mount it; gives the messages with an id, and where they are."""
        if self.keep is not None:
            shutil.copytree(self.account.root, empty(self.directory / "before"), dirs_exist_ok=True)
        options = f"rw,fsync=never,entries={self.entries}"
        log = ("--log-file", str(self.directory / "log"), "--cache-dir", "none")
        status = self._dboxfs("mount", *log, "-o", options, self.account.location, str(self.mnt))
        assert status == 0, f"mount: {status}"
        found: dict[str, list[Path]] = {}
        for path in (path for box in ALL for path in (self.mnt / box).iterdir()):
            with contextlib.suppress(FileNotFoundError):
                if name := id_of(path.read_bytes()):
                    found.setdefault(name, []).append(path)
        return found

    # -- what has to be there ------------------------------------------------------------------

    def _check(self, there: Mapping[str, Sequence[Path]]) -> None:
        found = Counter({name: len(paths) for name, paths in there.items()})
        rebuilt, copies = self._has_rebuilt(), self._copies
        lost = self._must - found.keys()
        undone = {name for name in self._must_not if found[name] > max(copies[name] - 1, 0)}
        more = {name for name, count in found.items() if count > max(copies[name], 1)}
        undone |= more & self._once
        doubled = more - self._twice - undone if not rebuilt else set[str]()
        for names, faults in ((lost, "lost"), (undone, "undone"), (doubled, "doubled")):
            getattr(self.tally, faults).extend(self._told(name) for name in sorted(names))
        if self.keep is not None and (lost or undone or doubled):
            self._keep(self.keep / f"{self.account.name}-{self.tally.rounds}")
        self._must, self._copies = set(found), found
        self._must_not -= self._must  # told, or there once more
        self._once, self._twice = set(), set()

    def _told(self, name: str) -> str:
        """The fault of a message, with its last lines of the journal."""
        lines = [line for line in self._journal if name in line.partition(" | ")[0].split(" ")]
        return "; ".join([f"before round {self.tally.rounds}: {name}", *lines[-2:]])

    def _keep(self, kept: Path) -> None:
        """Keep the store as the dead daemon and Dovecot left it, and as it is after the next mount, with the
        records of its logs; the journals; both programs' logs.
        """
        shutil.copytree(self.directory / "before", kept / "before")
        shutil.copytree(self.account.root, kept / "after")
        for path in sorted(kept.rglob("dovecot*.log")):
            with path.with_name(f"{path.name}.txt").open("wb") as text:
                dump = [str(Path(sys.executable).with_name("dboxfs")), "dump", str(path)]
                subprocess.run(dump, stdout=text, stderr=text, check=False)
        (kept / "journal").write_text("\n".join(self._journal))
        (kept / "dovecot.log").write_text("\n".join(self.account.dovecot.log_lines()))
        shutil.copy(self.directory / "log", kept / "dboxfs.log")

    def _has_rebuilt(self) -> bool:
        """Whether Dovecot has rebuilt the storage, or a mailbox, since the last time."""
        lines = self.account.dovecot.log_lines()
        new, self._logged = lines[self._logged :], len(lines)
        return any("rebuilding indexes" in line or "Rebuilding index" in line for line in new)

    def _read(self, journals: list[Path]) -> None:
        for journal in journals:
            begun: list[str] = []
            half: str | None = None
            for line in journal.read_text().splitlines() if journal.exists() else []:
                self._journal.append(line)
                state, verb, *names = line.partition(" | ")[0].split(" ")
                begun = names if state == "begin" else []
                half = names[0] if verb == "link" or (verb == "once" and state == "begin") else None
                if state == "begin":
                    self._once.difference_update(names)
                if state == "done":
                    self.tally.operations += 1
                    self._acknowledged(verb, names)
            self._twice.update([half] if half else [])
            self._must.difference_update(begun)  # it may be there or not, as it was or as it will be
            self._must_not.difference_update(begun)
            journal.unlink(missing_ok=True)

    def _acknowledged(self, verb: str, names: list[str]) -> None:
        if verb in ("replace", "remove"):
            self._must.discard(names[0])
            self._must_not.add(names[0])
        if verb == "once":
            self._once.add(names[0])
        if verb in ("create", "replace"):
            self._must.add(names[-1])


def _own(there: Mapping[str, Sequence[Path]], writer: int) -> dict[str, Path]:
    return {name: paths[0] for name, paths in there.items() if name.startswith(f"w{writer}-")}


def _fields(path: str) -> list[str]:
    return Path(path).read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int:
    return int(_fields(f"/proc/{pid}/stat")[1])


def _is_ours(pid: int) -> bool:
    """Whether a process was forked from this one: the number of a connection may have been another one's."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()
    return False


def _is_alive(pid: int) -> bool:
    """Whether any thread of a process has not ended."""
    states: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            states[_fields(f"/proc/{pid}/task/{thread}/stat")[0]] += 1
    return bool(set(states) - {"Z", "X"})


def _where(pid: int) -> str:
    """What the threads of a process wait for in the kernel."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            state = _fields(f"/proc/{pid}/task/{thread}/stat")[0]
            found.append(f"{state} {Path(f'/proc/{pid}/task/{thread}/wchan').read_text()}")
    return ", ".join(found)


def empty(directory: Path) -> Path:
    """An empty directory, whatever was there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
