"""Operations through a mount, as programs do them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tests.stress import texts
from tests.stress.clients import Fault, gone, opened, soon, text_of, uid_of, words, write_all
from tests.stress.journal import Item
from tests.stress.texts import Text
from tests.stress.worker import SHARED, Own, Worker

NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY
FLAGS = ("", r"\Seen", r"\Answered \Flagged", r"\Draft \Seen", r"\Flagged")
KEYWORDS = ("", "one", "one two", "$Three")
GZIP = b"\x1f\x8b\x08\x00"
"""What a message may not begin with."""

_CUT = "import os, signal, sys; f = open(sys.argv[1], 'wb', 0); f.write(b'X' * 900); os.kill(os.getpid(), 9)"


def kinds(worker: Worker) -> list[tuple[Callable[[], None], int]]:
    """All operations, with how often each is wanted."""
    does = Mounting(worker)
    return [
        (does.create, 12),
        (does.temporary, 6),
        (does.linked, 3),
        (does.shell, 1),
        (does.pair, 5),
        (does.refused, 2),
        (does.cut, 1),
        (does.append, 8),
        (does.standing, 8),
        (does.write_over, 5),
        (does.over, 5),
        (does.over_own, 4),
        (does.rename, 5),
        (does.move, 8),
        (does.copy, 4),
        (does.copy_and_remove, 5),
        (does.unlink, 8),
        (does.unlink_many, 1),
        (does.flags, 5),
        (does.date, 2),
        (does.share, 6),
        (does.take, 3),
        (does.prey, 2),
        (does.directory, 2),
        (does.look, 3),
    ]


class Mounting:
    """The operations of one worker."""

    def __init__(self, worker: Worker) -> None:
        self.w = worker
        self.rng = worker.rng

    def new(self, box: str = "", store: int | None = None, name: str = "") -> tuple[Item, bytes]:
        """An item that isn't there yet, and its bytes."""
        w = self.w
        box = box or w.box()
        ident, size = w.ident(), w.size()
        store = w.store() if store is None else store
        text = str(Text("", (ident,)))
        return Item(store, box, name or w.fresh(box), text), texts.first(ident, size)

    def added(self, item: Item, mount: int) -> None:
        own = Own(item, seen={mount}, flagged=mount)
        self.w.own.append(own)
        self.w.check(own, mount)

    # -- messages that are made ----------------------------------------------------------------------------

    def create(self) -> None:
        item, data = self.new()
        mount = self.w.mount(item.store)
        path = self.w.directory(mount, item.box) / item.name
        flags = self.rng.choice(FLAGS) if self.rng.random() < 0.3 else ""
        item = replace(item, flags=words(flags))
        with self.w.operation("create", [], [item]), opened(path, NEW) as fd:
            write_all(fd, data, self.rng.choice([1, 1, 3]))
            if flags:
                os.setxattr(fd, "user.dbox.flags", flags.encode())
            if self.rng.random() < 0.3:
                os.utime(fd, (1_689_000_000, 1_689_000_000 + self.rng.randrange(1000)))
            if self.rng.random() < 0.1:
                os.fsync(fd)
        self.added(item, mount)

    def temporary(self) -> None:
        """Written under a name with a dot, then renamed."""
        item, data = self.new()
        mount = self.w.mount(item.store)
        directory = self.w.directory(mount, item.box)
        with self.w.operation("temporary", [], [item]):
            self._temporary(mount, item.box, data, directory / item.name)
        self.added(item, mount)

    def _temporary(self, mount: int, box: str, data: bytes, path: os.PathLike[str]) -> None:
        dot = self.w.directory(mount, box) / f".w{self.w.config.worker}"
        with opened(dot, NEW) as fd:
            write_all(fd, data)
        os.rename(dot, path)

    def linked(self) -> None:
        """Written under a name with a dot, linked to its name, and the first name removed."""
        item, data = self.new()
        mount = self.w.mount(item.store)
        directory = self.w.directory(mount, item.box)
        dot = directory / f".l{self.w.config.worker}"
        with self.w.operation("linked", [], [item]):
            with opened(dot, NEW) as fd:
                write_all(fd, data)
            os.link(dot, directory / item.name)
            os.unlink(dot)
        self.added(item, mount)

    def shell(self) -> None:
        """Two children of a shell write one file."""
        item, data = self.new()
        mount = self.w.mount(item.store)
        path = self.w.directory(mount, item.box) / item.name
        half = len(data) // 2
        script = '(head -c "$1"; cat) > "$2"'
        command = ["sh", "-ec", script, "sh", str(half), str(path)]
        with self.w.operation("shell", [], [item]):
            done = subprocess.run(command, input=data, capture_output=True, check=False)
            if done.returncode:
                raise OSError(errno.EIO, f"the shell says {done.stderr!r}")
        self.added(item, mount)

    def pair(self) -> None:
        """One process has a new file open in each of two mounts; each close gets its own answer."""
        a, data_a = self.new()
        b, data_b = self.new()
        mount_a, mount_b = self.w.mount(a.store), self.w.mount(b.store)
        path_a = self.w.directory(mount_a, a.box) / a.name
        path_b = self.w.directory(mount_b, b.box) / b.name
        with self.w.operation("pair", [], [a]):
            fd_a, fd_b = os.open(path_a, NEW, 0o600), os.open(path_b, NEW, 0o600)
            write_all(fd_a, data_a)
            write_all(fd_b, data_b)
            os.close(fd_a)
        self.added(a, mount_a)
        with self.w.operation("pair", [], [b]):
            os.close(fd_b)
        self.added(b, mount_b)

    def refused(self) -> None:
        """A message that can't be stored is refused by its close, whatever else is open."""
        item, data = self.new()
        mount = self.w.mount(item.store)
        path = self.w.directory(mount, item.box) / item.name
        other, _ = self.new()
        elsewhere = self.w.mount(other.store)
        beside = self.w.directory(elsewhere, other.box) / other.name
        # What is beside is closed without a byte: no message.
        with self.w.operation("refused", [], []), opened(beside, NEW):
            fd = os.open(path, NEW, 0o600)
            write_all(fd, GZIP + data[:500])
            try:
                os.close(fd)
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
            else:
                raise Fault(f"{path}: close returns 0, of a message that can't be stored")
        soon(f"{path}, refused", partial(gone, path))  # the kernel's release comes behind the close

    def cut(self) -> None:
        """A writer that is killed leaves nothing."""
        item, _ = self.new()
        mount = self.w.mount(item.store)
        path = self.w.directory(mount, item.box) / item.name
        with self.w.operation("cut", [], []):
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CUT, path], capture_output=True, check=False
            )
            if done.returncode != -signal.SIGKILL:
                raise OSError(errno.EIO, f"the writer says {done.stderr!r}")
        self.w.gone(path)

    # -- messages that are replaced ------------------------------------------------------------------------

    def append(self) -> None:
        if (own := self.w.some(lambda own: len(own.item.text) < 400)) is not None:
            self._append(own)

    def standing(self) -> None:
        """What replaces the message whose name readers look for at any time; the first makes it."""
        standing = self.w.some(lambda own: own.standing)
        if standing is None:
            box = self.rng.choice(["INBOX", "Work"])
            item, data = self.new(box, name=f"standing-{self.w.config.worker}")
            mount = self.w.mount(item.store)
            with self.w.operation("standing", [], [item]):
                self._temporary(mount, box, data, self.w.directory(mount, box) / item.name)
            self.added(item, mount)
        elif len(standing.item.text) < 200 and self.rng.random() < 0.5:
            self._append(standing)
        else:
            self._write_over(standing, self.rng.random() < 0.5)

    def _append(self, own: Own) -> None:
        w = self.w
        mount = w.mount(own.item.store, own)
        path = w.path(own, mount)
        ident = w.ident()
        data = texts.more(ident, self.rng.choice([1, 60, 2000]))
        text = str(Text.of(own.item.text).appended(ident))
        item = replace(own.item, name=path.name, text=text)
        with w.operation("append", [own.item], [item]), opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            write_all(fd, data)
        w.change(own, item, mount, same=True)
        w.check(own, mount)

    def write_over(self) -> None:
        if (own := self.w.some()) is not None:
            self._write_over(own, temporary=False)

    def over(self) -> None:
        if (own := self.w.some()) is not None:
            self._write_over(own, temporary=True)

    def _write_over(self, own: Own, temporary: bool) -> None:
        """With O_TRUNC, or by renaming a temporary."""
        w = self.w
        mount = w.mount(own.item.store, own)
        path = w.path(own, mount)
        ident = w.ident()
        data = texts.first(ident, w.size())
        item = replace(own.item, name=path.name, text=str(Text("", (ident,))))
        with w.operation("over" if temporary else "write_over", [own.item], [item]):
            if temporary:
                self._temporary(mount, own.item.box, data, path)
            else:
                with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
                    write_all(fd, data, self.rng.choice([1, 2]))
        w.change(own, item, mount, same=True)
        w.check(own, mount)

    def over_own(self) -> None:
        """One message takes the place of another one, of the same or of another mailbox."""
        w = self.w
        if (source := w.loose()) is None:
            return
        target = w.some(lambda own: own is not source and own.item.store == source.item.store)
        if target is None:
            return
        mount = w.mount(source.item.store, source)
        old, path = w.path(source, mount), w.path(target, mount)
        item = replace(target.item, name=path.name, text=source.item.text)
        with w.operation("over_own", [source.item, target.item], [item]):
            os.rename(old, path)
        w.own.remove(source)
        w.change(target, item, mount, same=True)
        w.check(target, mount)
        w.gone(old)

    def date(self) -> None:
        w = self.w
        if (own := w.some()) is None:
            return
        mount = w.mount(own.item.store, own)
        path = w.path(own, mount)
        item = replace(own.item, name=path.name)
        seconds = 1_500_000_000 + self.rng.randrange(100_000_000)
        with w.operation("date", [own.item], [item]):
            os.utime(path, (seconds, seconds))
        w.change(own, item, mount, same=True)
        w.check(own, mount)
        if int(path.stat().st_mtime) != seconds:
            raise Fault(f"{path}: of {path.stat().st_mtime}, not {seconds}")

    # -- messages that go elsewhere ------------------------------------------------------------------------

    def rename(self) -> None:
        self._to("rename", lambda own: own.item.box)

    def move(self) -> None:
        self._to("move", lambda own: self.w.box())

    def _to(self, kind: str, where: Callable[[Own], str]) -> None:
        w = self.w
        if (own := w.loose()) is None:
            return
        box = where(own)
        mount = w.mount(own.item.store, own)
        old = w.path(own, mount)
        item = replace(own.item, box=box, name=w.fresh(box))
        with w.operation(kind, [own.item], [item]):
            os.rename(old, w.directory(mount, box) / item.name)
        w.change(own, item, mount)
        w.check(own, mount)
        w.gone(old)

    def copy(self) -> None:
        self._copy()

    def _copy(self) -> Own | None:
        w = self.w
        if (own := w.some()) is None:
            return None
        box = w.box()
        mount = w.mount(own.item.store, own)
        path = w.path(own, mount)
        item = replace(own.item, box=box, name=w.fresh(box))
        with w.operation("copy", [], [item]):
            os.link(path, w.directory(mount, box) / item.name)
        self.added(item, mount)
        return w.own[-1]

    def copy_and_remove(self) -> None:
        if (made := self._copy()) is not None:
            self._unlink(made, self.w.mount(made.item.store, made))

    def unlink(self) -> None:
        if (own := self.w.loose()) is not None:
            self._unlink(own, self.w.mount(own.item.store, own))

    def _unlink(self, own: Own, mount: int) -> None:
        w = self.w
        path = w.path(own, mount)
        with w.operation("unlink", [own.item], []):
            os.unlink(path)
        w.own.remove(own)
        w.gone(path)
        if self.rng.random() < 0.1:
            for number, other in enumerate(w.config.mounts):
                if other.store == own.item.store and number != mount:
                    there = w.directory(number, own.item.box) / path.name
                    w.delayed(soon(f"{there}, removed elsewhere", partial(gone, there)))

    def unlink_many(self) -> None:
        """More in a row than are expunged one by one."""
        w = self.w
        store = w.store()
        mount = w.mount(store)
        for own in [own for own in w.own if own.item.store == store and not own.standing][:14]:
            self._unlink(own, mount)

    def flags(self) -> None:
        w = self.w
        if (own := w.some()) is None:
            return
        mount = w.mount(own.item.store, own)
        path = w.path(own, mount)
        old = own.item.flags.split()
        if self.rng.random() < 0.6:
            name, value = "flags", self.rng.choice(FLAGS)
            kept = [word for word in old if not word.startswith("\\")]
        else:
            name, value = "keywords", self.rng.choice(KEYWORDS)
            kept = [word for word in old if word.startswith("\\")]
        item = replace(own.item, flags=words(value, *kept))
        with w.operation("flags", [own.item], [item]):
            os.setxattr(path, f"user.dbox.{name}", value.encode())
        own.item = item
        own.flagged = (
            mount if own.flagged == mount else None
        )  # what was set elsewhere comes with it, or later
        if own.item.name:
            w.check(own, mount)

    # -- what belongs to all -------------------------------------------------------------------------------

    def share(self) -> None:
        """Append to what others append to at the same time, through whatever mount."""
        w = self.w
        if not w.config.shares:
            return
        name, store = self.rng.choice(w.config.shares), w.store()
        mount = w.mount(store)
        path = w.directory(mount, SHARED) / name
        ident = w.ident()
        data = texts.more(ident, self.rng.choice([1, 40, 90]))
        with (
            w.operation("share", [], [], f"{store}:{name}:{ident}"),
            opened(path, os.O_WRONLY | os.O_APPEND) as fd,
        ):
            write_all(fd, data)
        if self.rng.random() < 0.2:
            holds = ident in text_of(path).segments
            if not holds:
                w.delayed(soon(f"{ident} in {path}", lambda: ident in text_of(path).segments))

    def take(self) -> None:
        """Move away what others want to have, too: one gets it."""
        self._hunt(take=True)

    def prey(self) -> None:
        """Remove what others want to have, too: one does it."""
        self._hunt(take=False)

    def _hunt(self, take: bool) -> None:
        w = self.w
        if not w.config.prey:
            return
        store, name, text = self.rng.choice(w.config.prey)
        mount = w.mount(store)
        path = w.directory(mount, SHARED) / name
        box = w.box()
        item = Item(store, box, w.fresh(box), text)
        with w.operation("take" if take else "prey", [], [item] if take else [], text) as end:
            try:
                if take:
                    os.rename(path, w.directory(mount, box) / item.name)
                else:
                    os.unlink(path)
            except FileNotFoundError:
                end.lost = True
        if not end.lost and take:
            self.added(item, mount)

    # -- mailboxes, and looking ----------------------------------------------------------------------------

    def directory(self) -> None:
        """A mailbox is made, a message goes into it, the mailbox is renamed, and goes again."""
        w = self.w
        store = w.store()
        mount = w.mount(store)
        place = w.directory(mount, f"Dir{w.config.worker}-{w.journal.number}")
        later = place.with_name(f"{place.name}r")
        item, data = self.new(place.name, store)
        renamed = replace(item, box=later.name)
        with w.operation("mkdir", [], []):
            os.mkdir(place)
        with w.operation("create", [], [item]), opened(place / item.name, NEW) as fd:
            write_all(fd, data)
        with w.operation("rename_directory", [item], [renamed]):
            os.rename(place, later)
        if str(text_of(later / item.name)) != item.text:
            raise Fault(f"{later / item.name} is {text_of(later / item.name)}")
        with w.operation("unlink", [renamed], []):
            os.unlink(later / item.name)
        with w.operation("rmdir", [], []):
            os.rmdir(later)

    def look(self) -> None:
        """A listing has every message of this worker in that mailbox, and each name once."""
        w = self.w
        if (own := w.some(lambda own: bool(own.item.name and own.seen))) is None:
            return
        mount = self.rng.choice(sorted(own.seen))
        began = time.monotonic()
        names = os.listdir(w.directory(mount, own.item.box))
        if len(set(names)) < len(names):
            raise Fault(f"{own.item.box} lists a name twice: {sorted(names)}")
        for other in w.own:
            where = other.item.store, other.item.box
            if (
                where == (own.item.store, own.item.box)
                and mount in other.seen
                and other.item.name not in names
            ):
                raise Fault(
                    f"{other.item} is not in the listing of {time.monotonic() - began:.3f} s: {sorted(names)}"
                )
        if own.uid and uid_of(w.path(own, mount)) != own.uid:
            raise Fault(f"{own.item}: uid {uid_of(w.path(own, mount))}, not {own.uid}")
