"""One worker of the stress: a process that does operations of all kinds on messages of its own.

It gets its :class:`Config` as JSON on stdin, does one operation after the other, and ends when it has done
its share, when its time is over, at SIGTERM, or at the first thing that is wrong.  The journal says what
happened; the process ends by SIGKILL.  The operations are in :mod:`tests.stress.mounting` and
:mod:`tests.stress.serving`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import imaplib
import json
import os
import random
import signal
import smtplib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.stress import texts
from tests.stress.clients import Fault, Refused, Session, flags_of, soon, text_of, uid_of, visible
from tests.stress.journal import Item, Journal
from tests.stress.texts import Mangled, Text

FEW, MANY = 4, 24
"""How many messages a worker has at least and at most."""

SHARED = "Shared"
BOXES = ("INBOX", "Work")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mountpoint, and the number of the store that it shows."""

    path: str
    store: int


@dataclass(frozen=True, slots=True)
class Server:
    """A Dovecot's user for a store: IMAP port, name, LMTP socket."""

    port: int
    user: str
    lmtp: str


@dataclass(frozen=True, slots=True)
class Config:
    """What a worker is told.

    :ivar number: of the first operation, less one.
    :ivar servers: by store; none without a Dovecot.
    :ivar shares: names of files in SHARED of every store that all append to; *prey* those to take away.
    :ivar until: seconds since the epoch.
    """

    seed: str
    worker: int
    number: int
    operations: int
    until: float
    journal: str
    mounts: list[Mount]
    servers: list[Server]
    items: list[Item]
    shares: list[str]
    prey: list[tuple[int, str, str]]

    @classmethod
    def of(cls, text: str) -> Config:
        values: dict[str, Any] = json.loads(text)
        values["mounts"] = [Mount(**row) for row in values["mounts"]]
        values["servers"] = [Server(**row) for row in values["servers"]]
        values["items"] = [Item(**row) for row in values["items"]]
        values["prey"] = [tuple(row) for row in values["prey"]]
        return cls(**values)

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclass(slots=True, eq=False)
class Own:
    """A message of this worker.

    :ivar uid: 0 if not known.
    :ivar seen: numbers of the mounts that have shown it under its name.
    :ivar flagged: the mount through which its flags were set; None: no one, or Dovecot.
    :ivar made: the mount through which it came, or was replaced, last; None: Dovecot, or not known.
    """

    item: Item
    uid: int = 0
    seen: set[int] = field(default_factory=set)
    flagged: int | None = None
    made: int | None = None

    @property
    def standing(self) -> bool:
        """It is there under its name at any time."""
        return self.item.name.startswith("standing-")


@dataclass(slots=True)
class End:
    """How an operation ended: another worker was faster, or something else is there than was expected."""

    lost: bool = False
    after: list[Item] | None = None


class Stop(Exception):
    """Nothing more can be done; the journal knows why."""


class Worker:
    """The messages of a worker, and what its operations are made of."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rng = random.Random(f"{config.seed} {config.worker} {config.number}")
        self.journal = Journal(Path(config.journal), config.number)
        self.own = [Own(item) for item in config.items]
        self.sessions = [Session(server.port, server.user) for server in config.servers]
        self.idents = config.number
        self.stopping = False

    # -- what is chosen ------------------------------------------------------------------------------------

    def ident(self) -> str:
        self.idents += 1
        return f"w{self.config.worker}-{self.journal.number}-{self.idents}"

    def size(self) -> int:
        return self.rng.choice(
            [1, 40, 300, 1005, 4000, 4096, 30_000] + [700_000] * (self.rng.random() < 0.05)
        )

    def fresh(self, box: str) -> str:
        """A name that no message of this worker has."""
        taken = {own.item.name for own in self.own}
        while True:
            name = f"{self.config.worker}-{self.rng.getrandbits(24):x}" + self.rng.choice(["", ".eml"])
            if name not in taken:
                return name

    def box(self) -> str:
        return self.rng.choice([*BOXES, f"Box{self.config.worker}"])

    def store(self) -> int:
        return self.rng.choice(self.config.mounts).store

    def mount(self, store: int, own: Own | None = None) -> int:
        """A mount of the store; mostly one that has shown the message."""
        every = [n for n, mount in enumerate(self.config.mounts) if mount.store == store]
        known = [n for n in every if own is not None and n in own.seen]
        return self.rng.choice(known if known and self.rng.random() < 0.7 else every)

    def some(self, fits: Callable[[Own], bool] = lambda own: True) -> Own | None:
        found = [own for own in self.own if fits(own)]
        return self.rng.choice(found) if found else None

    def loose(self) -> Own | None:
        """A message that may be moved or removed."""
        return self.some(lambda own: not own.standing)

    # -- where things are ----------------------------------------------------------------------------------

    def directory(self, mount: int, box: str) -> Path:
        return Path(self.config.mounts[mount].path, box)

    def path(self, own: Own, mount: int) -> Path:
        """The file of a message, in a mount that shows it now, or soon.  Fault: it does not."""
        directory = self.directory(mount, own.item.box)
        if own.item.name:
            path = directory / own.item.name
            if mount not in own.seen:
                self.delayed(soon(f"{path} in another view", lambda: self._shows(path, own)))
            own.seen.add(mount)
            return path
        candidates = [directory / f"{own.uid}.eml", directory / f"uid-{own.uid}.eml"]
        if not own.uid:
            return self._search(own, directory)
        self.delayed(soon(f"{candidates[0]}", lambda: any(self._shows(path, own) for path in candidates)))
        return next(path for path in candidates if self._shows(path, own))

    def _shows(self, path: Path, own: Own) -> bool:
        """The file is this message, as far as it can be told without reading it."""
        try:
            return uid_of(path) == own.uid or not own.uid
        except FileNotFoundError:
            return False

    def _search(self, own: Own, directory: Path) -> Path:
        """The file of a message without a name, of which nothing else is known."""
        named = {other.item.name for other in self.own if other.item.box == own.item.box}
        beside = [other for other in self.own if other is not own and other.item.store == own.item.store]
        known = {other.uid for other in beside if other.item.box == own.item.box}
        met: list[str] = []
        for path in sorted(set(directory.glob("*.eml")) - {directory / name for name in named}):
            with contextlib.suppress(FileNotFoundError):
                uid = uid_of(path)
                mine = str(text_of(path)) == own.item.text and flags_of(path) == own.item.flags
                if mine and uid not in known and path.name in (f"{uid}.eml", f"uid-{uid}.eml"):
                    own.uid = uid
                    return path
                met.append(
                    f"{path.name} uid {uid}{' mine' if mine else ''}{' known' if uid in known else ''}"
                )
        raise Fault(f"{own.item} is not in {directory}: {', '.join(met)}")

    def uid(self, own: Own) -> int:
        """Of the message that it is now: another mount may show the one before for a moment."""
        if not own.uid:
            mount = own.made if own.made is not None else self.mount(own.item.store, own)
            own.uid = uid_of(self.path(own, mount))
        return own.uid

    def delayed(self, seconds: float) -> None:
        if seconds > 1:
            self.journal.delay(round(seconds, 1))

    # -- what is done --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def operation(
        self, kind: str, before: Iterable[Item], after: Iterable[Item], share: str = ""
    ) -> Iterator[End]:
        """Journal what is done inside.  An error is one of the operation, and ends the worker."""
        self.journal.begin(kind, before, after, share)
        end = End()
        try:
            yield end
        except OSError as exc:
            self.journal.failed(f"{errno.errorcode.get(exc.errno or 0, '?')} {exc}")
            raise Stop from exc
        except (Refused, imaplib.IMAP4.error, smtplib.SMTPException, Mangled) as exc:
            self.journal.failed(f"{type(exc).__name__} {exc}")
            raise Stop from exc
        if end.lost:
            self.journal.lost()
        else:
            self.journal.acknowledged(end.after)

    def change(self, own: Own, item: Item, mount: int | None, uid: int = 0, same: bool = False) -> None:
        """Remember what a message is now; *mount* shows it.  *same*: other mounts have that name, too."""
        own.item, own.uid, own.made = item, uid, mount
        own.seen = (own.seen if same else set()) | ({mount} if mount is not None else set())

    def check(self, own: Own, mount: int) -> None:
        """The mount through which it was done shows the message at once, and sometimes others soon do."""
        path = self.directory(mount, own.item.box) / own.item.name
        size = path.stat().st_size
        if self.rng.random() < 0.5:
            data = path.read_bytes()
            if len(data) != size:
                raise Fault(f"{path}: {len(data)} bytes, and a size of {size}")
            if str(texts.parse(data)) != own.item.text:
                raise Fault(f"{path}: {texts.parse(data)}, not {own.item.text}")
            if (flags := flags_of(path)) != own.item.flags:
                if own.flagged == mount:
                    raise Fault(f"{path}: flags {flags!r}, not {own.item.flags!r}")
                wanted = f"{path}: flags {flags!r}, not {own.item.flags!r}"
                self.delayed(soon(wanted, lambda: flags_of(path) == own.item.flags))
            own.flagged = mount
        if self.rng.random() < 0.1:
            self.check_elsewhere(own)

    def check_elsewhere(self, own: Own) -> None:
        """Every mount of the store, and Dovecot, have the message."""
        for number, mount in enumerate(self.config.mounts):
            if mount.store == own.item.store and own.item.name:
                path = self.directory(number, own.item.box) / own.item.name
                self.delayed(soon(f"{own.item} in {path}", partial(self._is, path, own)))
                own.seen.add(number)
        if self.sessions:
            ident = Text.of(own.item.text).segments[0]
            same = sum(
                (other.item.store, other.item.box) == (own.item.store, own.item.box)
                and Text.of(other.item.text).segments[0] == ident
                for other in self.own
            )
            found = self.sessions[own.item.store].find(own.item.box, ident)
            if len(found) != same:
                raise Fault(f"Dovecot has {ident} {len(found)} times in {own.item.box}, not {same}: {found}")

    def _is(self, path: Path, own: Own) -> bool:
        try:
            return str(text_of(path)) == own.item.text and flags_of(path) == own.item.flags
        except FileNotFoundError:
            return False

    def gone(self, path: Path) -> None:
        """A name that was removed stands for nothing."""
        if visible(path):
            raise Fault(f"{path} is still there")

    # -- the run -------------------------------------------------------------------------------------------

    def run(self, kinds: list[tuple[Callable[[], None], int]]) -> None:
        """Operations, each in the frequency that is given with it."""
        signal.signal(signal.SIGTERM, self._stop)
        try:
            for _ in range(self.config.operations):
                if self.stopping or time.time() > self.config.until:
                    break
                choices = [(kind, weight) for kind, weight in kinds if self._fits(kind.__name__)]
                (kind,) = self.rng.choices([kind for kind, _ in choices], [weight for _, weight in choices])
                kind()
        except Stop:
            pass
        except (Fault, Mangled) as exc:
            self.journal.fault(f"{type(exc).__name__}: {exc}")
        except OSError as exc:  # not inside of an operation
            self.journal.failed(f"{errno.errorcode.get(exc.errno or 0, '?')} {exc}")

    def _fits(self, kind: str) -> bool:
        if len(self.own) >= MANY:
            return kind in ("unlink", "unlink_many", "expunge", "flags", "append", "over_own")
        return len(self.own) > FEW or kind not in ("unlink", "unlink_many", "expunge", "prey", "over_own")

    def _stop(self, *_: object) -> None:
        self.stopping = True


def main() -> None:
    from tests.stress import mounting, serving

    config = Config.of(sys.stdin.read())
    worker = Worker(config)
    kinds = mounting.kinds(worker)
    if config.servers:
        kinds += serving.kinds(worker)
    worker.run(kinds)
    # What is still open is of an operation without a good end: not to be committed by an orderly exit.
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
