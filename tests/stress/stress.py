"""The conductor of the stress: rounds of workers and readers, and what must hold after each.

A round: messages that belong to all are made; workers (:mod:`tests.stress.worker`) and readers
(:mod:`tests.stress.reader`) start, a thread purges and moves to the alternative storage and back; with
``kill`` a daemon is killed after a while, which ends the round.  Then nobody is at work, the journals are
read, and

* what was acknowledged is there exactly once, in its place, with its bytes, its flags and its name; what was
  acknowledged as removed is not; what has no good end is done as a whole or not at all, and stays so;
* this is what Dovecot shows, and every mount;
* the logs have nothing to say.

In the end also ``dboxfs check`` finds nothing, and a repair by Dovecot changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.dovecot import Account, DoveadmError, Dovecot
from tests.live.mounts import dboxfs
from tests.stress import texts, verify
from tests.stress.clients import PATIENCE, visible
from tests.stress.journal import Item, Outcome, read
from tests.stress.reader import Reading
from tests.stress.served import Report, Served, Shown, dovecot_view, keys, mount_view
from tests.stress.texts import Text
from tests.stress.verify import Common
from tests.stress.worker import BOXES, SHARED, Config, Mount, Server

ROOT = Path(__file__).parents[2]
HANGS = 60.0
"""Seconds after which an operation, or a round that is over, is said to hang."""

MODES = ("one", "two", "stores", "alone", "alone-stores")
AFTER_A_CRASH = (
    "Rebuilding index",
    "rebuilding indexes",
    "fscking index file",
    "Inconsistency in map index",
    "already exists",
)
"""What Dovecot may say of a store whose writer was killed, and whenever it repairs one."""


REPAIRED = "a writer died here"
"""What a daemon says of the daemon before it, if that was killed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    :ivar mode: ``one`` mount of one store; ``two`` writable mounts of one store; ``stores``: two stores with
        a mount each; all beside a Dovecot.  ``alone``, ``alone-stores``: the same without one.
    :ivar operations: of all workers together; *seconds* is the longest time.
    :ivar share: operations in a round.
    :ivar kill: seconds after which a daemon is killed in each round; 0: never.
    """

    seed: str
    driver: str
    mode: str
    operations: int
    seconds: float
    workers: int = 4
    share: int = 600
    kill: float = 0.0
    fsync: str = "commit"

    @property
    def alone(self) -> bool:
        return self.mode.startswith("alone")

    @property
    def stores(self) -> int:
        return 2 if self.mode.endswith("stores") else 1

    @property
    def mounts(self) -> int:
        return 1 if self.mode in ("one", "alone") else 2

    @property
    def options(self) -> str:
        return f"rw,fsync={self.fsync}" + (",alone" if self.alone else "")

    def __str__(self) -> str:
        kill = f" --kill {self.kill:g}" if self.kill else ""
        return f"--seed {self.seed} --format {self.driver} --mode {self.mode}{kill}"


@dataclass(slots=True)
class Tally:
    """What was done and found."""

    operations: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    kills: int = 0
    hung: int = 0
    open: int = 0
    delay: float = 0.0
    ended: float = 0.0
    faults: list[str] = field(default_factory=list)


class Stress:
    """One run of a plan.  Use as a context manager.

    :ivar directory: journals, logs, mountpoints; kept if something is wrong.
    """

    def __init__(self, plan: Plan, dovecot: Dovecot, directory: Path) -> None:
        self.plan, self.dovecot, self.directory = plan, dovecot, directory
        self.rng = random.Random(f"{plan.seed} {plan.driver} {plan.mode}")
        self.tally = Tally()
        self.accounts: list[Account] = []
        self.mounts: list[Served] = []
        self.stores: list[int] = []
        self.items: list[list[Item]] = [[] for _ in range(plan.workers)]
        self.numbers = [0] * plan.workers
        self.logged = 0
        self._crashed = False

    def __enter__(self) -> Stress:
        alternative = {} if self.plan.driver == "sdbox" else {"mdbox_rotate_size": "100k"}
        for _ in range(self.plan.stores):
            account = self.dovecot.account(
                f"{self.plan.driver}:{{home}}/mail:ALT={{home}}/alt", **alternative
            )
            for box in (*BOXES, SHARED, *(f"Box{n}" for n in range(self.plan.workers))):
                with contextlib.suppress(DoveadmError):  # INBOX is there
                    account.doveadm("mailbox create", box)
            self.accounts.append(account)
        for number in range(self.plan.mounts):
            store = number % self.plan.stores
            mnt = self.directory / f"mnt{number}"
            mnt.mkdir()
            log = self.directory / f"log{number}"
            self.mounts.append(Served(mnt, self.accounts[store].location, self.plan.options, log))
            self.stores.append(store)
        self.logged = len(self.dovecot.log_lines())
        return self

    def __exit__(self, *exc: object) -> None:
        for served in self.mounts:
            served.abandon()

    # -- the run -------------------------------------------------------------------------------------------

    def run(self) -> Tally:
        """All rounds, until something is wrong."""
        until = time.monotonic() + self.plan.seconds
        last: tuple[list[Outcome], Common] = [], Common({}, {})
        try:
            while self.tally.operations < self.plan.operations and time.monotonic() < until:
                last = self.round(until)
                if self.tally.faults:
                    return self.tally
            self.without(*last)
            self.end(*last)
        except (RuntimeError, DoveadmError, OSError, subprocess.TimeoutExpired) as exc:
            self.report(f"{type(exc).__name__}: {exc}")
        return self.tally

    def report(self, what: str) -> None:
        """A fault: one line, with what is needed to do it again."""
        self.tally.faults.append(f"{self.plan}: round {self.tally.rounds}: {' '.join(what.split())}")

    def round(self, until: float) -> tuple[list[Outcome], Common]:
        """Gives what the journals say."""
        self.tally.rounds += 1
        for served in self.mounts:
            served.mount()
        common = self.common()
        start = self.items
        left = min(self.plan.share, self.plan.operations - self.tally.operations)
        configs = [
            self.config(n, -(-left // self.plan.workers), until, common) for n in range(self.plan.workers)
        ]
        killed = self.together(configs)
        outcomes = [self.outcome(n, start[n], config, killed) for n, config in enumerate(configs)]
        if killed:
            self._crashed = True
            for served in self.mounts:
                served.unmount()
                served.mount()
        if not self.tally.faults:
            self.hold(outcomes, common)
            self.clear(common)
        for served in self.mounts:
            served.unmount()
            self.tally.ended = max(self.tally.ended, served.ended)
        self.logs()
        if self.plan.alone and not self.tally.faults:
            self.purged()
            self.without(outcomes, common)
        return outcomes, common

    def common(self) -> Common:
        """What belongs to all workers, made through the first mount of each store and seen in every."""
        common = Common({}, {})
        for store in range(self.plan.stores):
            box = self.mounts[self.stores.index(store)].mnt / SHARED
            for n in range(2):
                ident, name = f"s{self.tally.rounds}-{store}-{n}", f"share-{n}"
                (box / name).write_bytes(texts.first(ident, 300))
                common.shares[ident] = name, store
            for n in range(12):
                ident = f"p{self.tally.rounds}-{store}-{n}"
                item = Item(store, SHARED, f"prey-{n}", str(Text("", (ident,))))
                (box / item.name).write_bytes(texts.first(ident, 500))
                common.prey[item.text] = item
        deadline = time.monotonic() + PATIENCE
        for served, store in zip(self.mounts, self.stores, strict=True):
            names = {name for name, where in common.shares.values() if where == store}
            names |= {item.name for item in common.prey.values() if item.store == store}
            while missing := [name for name in names if not visible(served.mnt / SHARED / name)]:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{served.mnt} does not show {missing}, written through another mount")
                time.sleep(0.01)
        return common

    def config(self, worker: int, operations: int, until: float, common: Common) -> Config:
        servers = [] if self.plan.alone else [self.server(account) for account in self.accounts]
        return Config(
            seed=f"{self.plan.seed} {self.plan.driver} {self.plan.mode}",
            worker=worker,
            number=self.numbers[worker],
            operations=operations,
            until=time.time() + until - time.monotonic(),
            journal=str(self.directory / f"journal-{worker}-{self.tally.rounds}"),
            mounts=[Mount(str(one.mnt), store) for one, store in zip(self.mounts, self.stores, strict=True)],
            servers=servers,
            items=self.items[worker],
            shares=sorted({name for name, _ in common.shares.values()}),
            prey=[(item.store, item.name, item.text) for item in common.prey.values()],
        )

    def server(self, account: Account) -> Server:
        return Server(self.dovecot.port, account.name, str(self.dovecot.lmtp))

    # -- all at once ---------------------------------------------------------------------------------------

    def together(self, configs: list[Config]) -> float:
        """Let them work; gives when a daemon was killed (seconds since the epoch), or 0."""
        workers = [_start("worker", config.text()) for config in configs]
        readers = [_start("reader", reading.text()) for reading in self.readings()]
        over = threading.Event()
        upkeep = threading.Thread(target=self.upkeep, args=(over,))
        upkeep.start()
        killed = 0.0
        try:
            kill_at = time.monotonic() + self.plan.kill * self.rng.uniform(0.3, 1) if self.plan.kill else None
            while any(worker.poll() is None for worker in workers):
                time.sleep(0.02)
                if kill_at is not None and time.monotonic() > kill_at:
                    kill_at, killed = None, time.time()
                    self.rng.choice(self.mounts).kill()
                    self.tally.kills += 1
                    self.stop(workers)
                    self.freed(workers)
                elif self.idle(configs) > HANGS:
                    self.report(f"nothing was done for {HANGS:.0f} s: an operation hangs")
                    self.stop(workers)
                    self.freed(workers)
        finally:
            over.set()
            for process in (*workers, *readers):
                if process.poll() is None:
                    process.terminate()
            for worker in workers:
                _, said = worker.communicate(timeout=HANGS)
                if worker.returncode not in (-signal.SIGKILL, -signal.SIGTERM):  # or it had not begun
                    self.report(f"a worker ends with status {worker.returncode}: {said}")
            for reader in readers:
                self.heard(reader, killed)
            upkeep.join()
        return killed

    def readings(self) -> Iterator[Reading]:
        for served, store in zip(self.mounts, self.stores, strict=True):
            standing = tuple(
                (item.box, item.name)
                for items in self.items
                for item in items
                if item.name.startswith("standing-") and item.store == store
            )
            yield Reading(mount=str(served.mnt), standing=standing)
        for account in () if self.plan.alone else self.accounts:
            yield Reading(port=self.dovecot.port, user=account.name, boxes=(*BOXES, SHARED))

    def stop(self, workers: Iterable[subprocess.Popen[str]]) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()

    def freed(self, workers: list[subprocess.Popen[str]]) -> None:
        """Wait until all have ended.  Whoever hangs is told and set free."""
        deadline = time.monotonic() + HANGS / 2
        while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.02)
        hung = [n for n, worker in enumerate(workers) if worker.poll() is None]
        if not hung:
            return
        self.tally.hung += len(hung)
        self.report(f"workers {hung} hang {HANGS / 2:.0f} s after the daemon's death, or their last step")
        for served in self.mounts:
            served.kill()
            served.free()

    def idle(self, configs: list[Config]) -> float:
        """Seconds since any worker has written a line."""
        times = [os.stat(config.journal).st_mtime for config in configs if os.path.exists(config.journal)]
        return time.time() - max(times) if times else 0.0

    def heard(self, reader: subprocess.Popen[str], killed: float) -> None:
        """What a reader has to say.  After a daemon's death it only looks at what is left."""
        out, err = reader.communicate(timeout=HANGS)
        if reader.returncode == -signal.SIGTERM:  # it had not even begun
            return
        *faults, count = out.splitlines() or [""]
        if reader.returncode != 0:
            self.report(f"a reader ends with status {reader.returncode}: {err}")
            return
        for line in faults:
            when, _, what = line.partition(" ")
            if not killed or float(when) < killed:
                self.report(f"a reader: {what}")
        self.tally.reads.update(json.loads(count))

    def upkeep(self, over: threading.Event) -> None:
        """Purge, and move messages to the alternative storage and back."""
        if self.plan.alone:
            return
        # A Dovecot that repairs an mdbox behind a dead writer takes what altmove has half copied for damaged.
        movable = not (self.plan.kill and self.plan.driver == "mdbox")
        rng = random.Random(f"{self.plan.seed} {self.tally.rounds}")
        try:
            while not over.wait(rng.uniform(0.1, 0.6)):
                account = rng.choice(self.accounts)
                match rng.randrange(4) if movable else 0:
                    case 0:
                        account.purge()
                    case 1:
                        account.doveadm("altmove", "mailbox", rng.choice(BOXES), rng.choice(["all", "seen"]))
                    case 2:
                        account.doveadm("altmove", "-r", "mailbox", rng.choice(BOXES), "all")
                    case _:
                        account.doveadm("altmove", "mailbox", SHARED, "unseen")
                self.tally.kinds["purge or altmove"] += 1
        except DoveadmError as exc:
            self.report(f"doveadm: {exc}")

    # -- what must hold ------------------------------------------------------------------------------------

    def outcome(self, worker: int, start: list[Item], config: Config, killed: float) -> Outcome:
        """What a worker's journal says; what is wrong in it is reported."""
        try:
            found = read(Path(config.journal), start)
        except ValueError as exc:
            self.report(f"worker {worker}: {exc}")
            return Outcome(Counter(start))
        self.numbers[worker] = max(self.numbers[worker], found.number)
        self.tally.operations += found.kinds.total()
        self.tally.kinds.update(found.kinds)
        self.tally.delay = max(self.tally.delay, found.delay)
        self.tally.open += found.open is not None
        # Who looks at a mount whose daemon was killed sees what the kernel remembers.
        for number, what in [] if killed and found.failed >= killed else found.faults:
            self.report(f"worker {worker}, operation {number}: {what}")
        if found.error and not (killed and found.failed >= killed):
            kind = found.open.kind if found.open is not None else "behind it"
            self.report(f"worker {worker}, operation {found.number} ({kind}): {found.error}")
        return found

    def hold(self, outcomes: list[Outcome], common: Common) -> None:
        """Dovecot, if it is there, and the mounts show what the journals say."""
        firsts = [self.stores.index(store) for store in range(self.plan.stores)]
        views = [self.mount_view(n, self.report) for n in firsts] if self.plan.alone else self.dovecot_views()
        seen = Counter(key for view in views for key in keys(view))
        loose = verify.settle(outcomes, common, seen, self.report)
        calling: list[list[Item]] = [[] for _ in self.items]
        for store, view in enumerate(views):
            if not self.plan.alone:
                verify.compare(outcomes, common, view, store, "Dovecot", self.report)
        for number, store in enumerate(self.stores):
            where = f"mount {number}"
            shown = self.settled(number, outcomes, common)
            named = verify.names(outcomes, shown, store, loose, where, self.report)
            if number in firsts:
                calling = [[*old, *new] for old, new in zip(calling, named, strict=True)]
        self.items = calling

    def settled(self, number: int, outcomes: list[Outcome], common: Common) -> list[Shown]:
        """What a mount shows, once that is what the journals say; if it never is, that is reported."""
        deadline = time.monotonic() + PATIENCE
        while True:
            wrong: list[str] = []
            view = self.mount_view(number, wrong.append)
            verify.compare(outcomes, common, view, self.stores[number], f"mount {number}", wrong.append)
            if not wrong or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for what in wrong:
            self.report(what)
        return view

    def mount_view(self, number: int, report: Report) -> list[Shown]:
        return mount_view(self.mounts[number].mnt, self.stores[number], report)

    def dovecot_views(self) -> list[list[Shown]]:
        return [dovecot_view(account, store, self.report) for store, account in enumerate(self.accounts)]

    def clear(self, common: Common) -> None:
        """What belongs to all goes with the round."""
        for store in range(self.plan.stores):
            box = self.mounts[self.stores.index(store)].mnt / SHARED
            for name in sorted(os.listdir(box)):
                (box / name).unlink()
        common.prey.clear()
        common.shares.clear()

    def without(self, outcomes: list[Outcome], common: Common) -> None:
        """Dovecot alone shows the same, and check finds nothing."""
        for store, view in enumerate(self.dovecot_views()):
            verify.compare(outcomes, common, view, store, "Dovecot, behind the mount", self.report)
        for account in self.accounts:
            done = dboxfs("check", account.location, timeout=300)
            if done.returncode:
                self.report(
                    f"dboxfs check {account.location}: {done.returncode}: {done.stdout} {done.stderr}"
                )

    def purged(self) -> None:
        """What no Dovecot purges."""
        for account in self.accounts if self.plan.driver == "mdbox" else ():
            done = dboxfs("purge", account.location, timeout=300)
            if done.returncode:
                self.report(f"dboxfs purge: {done.returncode}: {done.stdout} {done.stderr}")

    def logs(self) -> None:
        """Neither Dovecot nor the daemons have complained."""
        lines = self.dovecot.log_lines()
        for line in lines[self.logged :]:
            if not (self._crashed and any(part in line for part in AFTER_A_CRASH)):
                self.report(f"Dovecot says: {line}")
        self.logged = len(lines)
        for served in self.mounts:
            for line in served.complaints():
                if not (self._crashed and REPAIRED in line):
                    self.report(f"the daemon says: {line}")

    def end(self, outcomes: list[Outcome], common: Common) -> None:
        """A repair changes nothing: what was not acknowledged does not come up later."""
        for account in self.accounts:
            account.force_resync()
        self._crashed = True  # a repair is logged
        self.without(outcomes, common)
        self.logs()


def _start(name: str, config: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.stress.{name}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(config)
    process.stdin.close()
    process.stdin = None
    return process


def stress(plan: Plan, keep: Path | None = None) -> Tally:
    """Carry out a plan, beside a private Dovecot.

    :param keep: where journals, logs and the store go if something is wrong; None: nowhere.
    """
    directory = Path(tempfile.mkdtemp(prefix="dboxfs-stress."))
    try:
        with Dovecot() as dovecot, Stress(plan, dovecot, directory) as made:
            tally = made.run()
            if tally.faults and keep is not None:
                for served in made.mounts:
                    served.abandon()
                keep.mkdir(parents=True, exist_ok=True)
                keep = Path(tempfile.mkdtemp(dir=keep))
                for source in (directory, dovecot.root / "home"):
                    shutil.copytree(source, keep / source.name, symlinks=True, dirs_exist_ok=True)
                shutil.copy(dovecot.root / "dovecot.log", keep)
        return tally
    finally:
        shutil.rmtree(directory)
