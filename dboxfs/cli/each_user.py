"""A command for all users of a site, some at a time (``--users SOURCE``).

Each user's run is a process of its own, forked from this one: it only has the rights of the store's owner, it
may crash or hang, and its end frees its memory.  When the run ends, its lines are printed with the user's
name before them; the lines of a run with status 0 only for commands that ask for it (``tells_all``).

The journal (``--resume FILE``) has a line for each run that has ended: the user, as the mount shows the name,
a tab, and the exit status.  The next run with the same FILE leaves out the users that were done, and repeats
the others; when all are done, FILE is removed.

Exit status: 0: all runs had 0; 1: a run had another one; 2: a run could not be done (``check``).
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import IO, NoReturn

from msgspec import Struct, field

from dboxfs.cli.late import load_late
from dboxfs.cli.logs import one_line
from dboxfs.cli.progress import Meter
from dboxfs.cli.site import USERS_HELP, choose_users
from dboxfs.cli.status import EXIT_INTERRUPTED, UsageError, first_error, message
from dboxfs.cli.user_keys import keyed_users
from dboxfs.errors import NoSuchStore
from dboxfs.store import Location
from dboxfs.vfs.site.shown import shown_user
from dboxfs.vfs.site.source import UserSource

JOBS = 2
NOT_DONE = 2
"""Exit status of a run that could not be done."""

_MOST_KEPT = 1 << 20
"""Bytes of a run's output that wait for its end."""

_GIVEN_UP = -1000


class EachUser(Struct, frozen=True):
    """A command that can be run for each user.

    :ivar done: a participle for the summary ("checked").
    :ivar run: the command for one store; returns its exit status.
    :ivar tells_all: print the lines of a run also if its status is 0.
    :ivar says_not_done: exit with status 2 if a run could not be done.
    :ivar prepare: called with the user's name and location, before the run drops root's rights.
    """

    done: str
    run: Callable[[argparse.Namespace], int]
    tells_all: bool = False
    says_not_done: bool = False
    prepare: Callable[[argparse.Namespace, str, Location], None] = lambda *_: None


def add_each_user(parser: argparse.ArgumentParser) -> None:
    """Declare the options that a command takes beside ``--users``."""
    parser.add_argument(
        "--jobs",
        type=_positive,
        default=JOBS,
        metavar="N",
        help="with --users: so many at a time (default 2)",
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="with --users: record finished users in FILE; a later run with FILE skips them",
    )
    parser.add_argument(
        "--patience", type=_positive, metavar="SECONDS",
        help="with --users: give up a user after that (default: never)",
    )  # fmt: skip
    parser.epilog = f"{parser.epilog}\n\n{USERS_HELP}" if parser.epilog else USERS_HELP


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def for_each_user(arguments: argparse.Namespace, command: EachUser) -> int:
    """Run *command* for all users of ``arguments.users``; returns the exit status.

    :raises UsageError, DboxfsError, OSError: the users can't be found out, or the journal can't be written.
    """
    if arguments.user is not None or arguments.settings:
        raise UsageError("--users: names all stores; leave out --user and --set")
    source = choose_users(arguments.users, arguments.config)
    if hasattr(arguments, "crypt_key"):
        source = keyed_users(source, arguments)
    names = source.names()
    journal = _Journal(arguments.resume)
    todo = [name for name in names if not journal.is_done(name)]
    runs = _Runs(arguments, command, source, journal, len(todo))
    try:
        runs.all(todo)
    finally:
        runs.end()
        journal.close()
    if not runs.left_over:
        journal.remove()
    return runs.summary(len(names) - len(todo))


class _Journal:
    """The users that are done; *path* None: there is no journal."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._done: set[bytes] = set()
        if path is None:
            return
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by close()
        self._file.seek(0)
        text, ended = self._file.read(), dict[bytes, bytes]()
        for line in text.split(b"\n")[:-1]:
            name, _, status = line.rpartition(b"\t")
            ended[name] = status
        if text and not text.endswith(b"\n"):  # the writer was killed in the middle of a line
            self._file.write(b"\t\n")
        self._done = {name for name, status in ended.items() if status in (b"0", b"1")}

    def is_done(self, name: str) -> bool:
        """Whether an earlier run has ended for a user."""
        return shown_user(name) in self._done

    def add(self, name: str, status: int) -> None:
        """Note that a run has ended."""
        if self._file is not None:
            self._file.write(b"%s\t%d\n" % (shown_user(name), status))
            self._file.flush()

    def remove(self) -> None:
        """Remove the journal: all users are done."""
        if self._path is not None:
            os.unlink(self._path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class _Run(Struct, eq=False):
    """The run for one user.  ``output``: the pipe with its output.  ``began``: monotonic seconds."""

    name: str
    pid: int
    output: int
    began: float
    text: bytearray = field(default_factory=bytearray)


class _Runs:
    """The runs for all users."""

    def __init__(
        self, arguments: argparse.Namespace, command: EachUser, source: UserSource, journal: _Journal, of: int
    ) -> None:
        self._arguments = arguments
        self._command = command
        self._source = source
        self._journal = journal
        self._of = of
        self._counts: Counter[int] = Counter()
        self._meter = Meter(quiet=getattr(arguments, "quiet", False))
        self._selector = selectors.DefaultSelector()
        self._running: set[_Run] = set()

    def all(self, names: Sequence[str]) -> None:
        """Run the command for each, some at a time."""
        load_late()
        waiting = list(reversed(names))
        while waiting or self._running:
            while waiting and len(self._running) < self._arguments.jobs:
                self._begin(waiting.pop())
            for key, _ in self._selector.select(timeout=0.5):
                self._read(key.data)
            self._give_up()
            self._meter.show(self._command.done, self._counts.total(), self._of, what="users")

    def _begin(self, name: str) -> None:
        self._meter.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ours)
            _be(self._arguments, self._command, self._source, name, theirs)
        os.close(theirs)
        run = _Run(name, pid, ours, time.monotonic())
        self._running.add(run)
        self._selector.register(ours, selectors.EVENT_READ, run)

    def _read(self, run: _Run) -> None:
        data = os.read(run.output, 1 << 16)
        run.text += data
        if not data:
            _, status = os.waitpid(run.pid, 0)
            self._ended(run, os.waitstatus_to_exitcode(status))
        elif len(run.text) > _MOST_KEPT:
            self._tell(run)

    def _give_up(self) -> None:
        patience = self._arguments.patience
        for run in list(self._running):
            if patience is not None and time.monotonic() - run.began > patience:
                os.kill(run.pid, signal.SIGKILL)
                run.text += f"given up: not done within {patience} s\n".encode()
                self._ended(run, _GIVEN_UP)

    def _ended(self, run: _Run, status: int) -> None:
        self._selector.unregister(run.output)
        os.close(run.output)
        self._running.discard(run)
        if status < 0 and status != _GIVEN_UP:
            run.text += f"ended by {signal.Signals(-status).name}\n".encode()
        if status or self._command.tells_all:
            self._tell(run)
        self._counts[status] += 1
        self._journal.add(run.name, status)

    def _tell(self, run: _Run) -> None:
        """Print the output of a run, with the user's name."""
        self._meter.clear()
        lines = run.text.decode("utf-8", "backslashreplace").splitlines()
        run.text.clear()
        name = run.name.encode("utf-8", "backslashreplace").decode()
        for line in lines:
            if line.startswith("{") and getattr(self._arguments, "json", False):
                print(json.dumps({"user": name, **json.loads(line)}))
            else:
                print(one_line(f"{name}: {line.removeprefix('dboxfs: ')}"))

    @property
    def left_over(self) -> int:
        """Number of users that were not done."""
        return self._of - self._counts[0] - self._counts[1]

    def end(self) -> None:
        """Kill the remaining runs, after an interrupt."""
        self._meter.clear()
        for run in self._running:
            os.kill(run.pid, signal.SIGTERM)

    def summary(self, before: int) -> int:
        """Print the summary; returns the exit status.

        :param before: number of users that an earlier run has done.
        """
        parts = [f"{self._counts[0]} with status 0", f"{self._counts[1]} with status 1"]
        parts += [f"{self.left_over} not done", *([f"{before} done by an earlier run"] if before else [])]
        text = f"{self._of} users {self._command.done}: {', '.join(parts)}; {self._meter.seconds:.1f} s"
        if getattr(self._arguments, "json", False):
            print(text, file=sys.stderr)
        else:
            print(text)
        if self.left_over and self._command.says_not_done:
            return NOT_DONE
        return 1 if self.left_over or self._counts[1] else 0


def _be(
    arguments: argparse.Namespace, command: EachUser, source: UserSource, name: str, output: int
) -> NoReturn:
    """Run the command for one user, and end this process."""
    status = NOT_DONE
    try:
        for number in (0, 1, 2):
            os.dup2(output if number else os.open(os.devnull, os.O_RDONLY), number)
        arguments.users = None
        arguments.each = lambda damaged: _located(arguments, command, source, name, damaged=damaged)
        status = command.run(arguments)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except BaseException as exc:  # noqa: BLE001 - no caller is left above this
        error = first_error(exc)
        print(one_line(message(error) or f"unexpected {error!r}"), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _located(
    arguments: argparse.Namespace, command: EachUser, source: UserSource, name: str, *, damaged: bool
) -> Location:
    """The user's store; from now on this process has the rights of the store's owner.

    :raises DboxfsError, OSError: the store can't be found.
    """
    location = source.locate(name, damaged=damaged)
    command.prepare(arguments, name, location)
    if os.geteuid() == 0:
        try:
            owner = os.stat(location.root)
        except OSError as exc:
            raise NoSuchStore(f"{location.root}: {exc.strerror}") from None
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
    return location
