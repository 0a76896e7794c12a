"""Everything that a program can do, in any order: each mount of the store is what the model says."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.vfs.rename import NOREPLACE
from tests.vfs.inside import JULY, ONE, File, Mounted, Program, make_store, mounted
from tests.vfs.model import Box, Message, Model, Writing, Wrong

R = TypeVar("R")

NAMES = st.sampled_from(["alpha", "beta", "2.eml", ".tmp"])
WHICH = st.integers(0, 1 << 16)
"""One of the files, or mailboxes, that are there by then."""

NOWHERE = 8
"""Of so many files, one is none."""

NEW_BOXES = st.sampled_from(["Sub", "Other"])
DATA = st.sampled_from([b"Subject: a\n\n", b"text\n", b"more\r\nand more\r\n", b"x" * 5000])
FLAGS = st.sampled_from(["", "\\Seen", "\\Flagged \\Seen", "\\Answered"])
KEYWORDS = st.sampled_from(["", "one", "one two"])


class Loop:
    """An event loop in a thread of its own, with a mount in it."""

    def __init__(self, kind: Kind) -> None:
        self._token: trio.lowlevel.TrioToken
        self._ready = threading.Event()
        self._swap: Callable[[], None]
        self._kind = kind
        self.mounted: Mounted
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        driver = MemoryDriver()
        driver.make_dirs("/nowhere/on/this/disk")
        await make_store(driver, self._kind)
        tree, self._goes_on = driver.tree, True
        while self._goes_on:
            self._end = trio.Event()
            async with mounted(self._kind, driver=MemoryDriver(tree=tree)) as self.mounted:
                self.mounted.nursery.cancel_scope.deadline = float("inf")
                self._ready.set()
                await self._end.wait()
        self._ready.set()

    def run(self, work: Callable[[], Awaitable[R]]) -> R:
        async def bounded() -> R:
            with trio.fail_after(20):
                return await work()

        return trio.from_thread.run(bounded, trio_token=self._token)

    def remount(self) -> None:
        self._ready.clear()
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._ready.wait()

    def close(self) -> None:
        self._goes_on = False
        self.remount()
        self._thread.join()


class Machine(RuleBasedStateMachine):
    """One process, sdbox or mdbox."""

    kind = Kind.SDBOX

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop(self.kind)
        self.program = Program(self.loop.mounted.vfs)
        self.model = Model()
        self.open: list[tuple[File, Writing]] = []

    @initialize()
    def begin(self) -> None:
        inbox = self.model.root.children["INBOX"] = Box()
        inbox.add(Message(None, ONE, JULY, fresh=False))
        self.model.root.children["Work"] = Box()

    def teardown(self) -> None:
        self.loop.close()

    def both(self, expected: Callable[[], object], work: Callable[[], Awaitable[object]]) -> None:
        """Do it in the model and in the mount: both do it, or both refuse it with the same errno."""
        number = 0
        try:
            expected()
        except Wrong as wrong:
            number = wrong.number
        got = 0
        try:
            self.loop.run(work)
        except (OSError, DboxfsError) as error:
            got = error.errno or -1
        assert errno.errorcode.get(got, "0") == errno.errorcode.get(number, "0")

    def _box(self, which: int) -> str:
        """A mailbox that is there."""
        paths = sorted(path for path, _ in self.model.boxes())
        return paths[which % len(paths)]

    def _near(self, path: str, which: int) -> str:
        """This mailbox, more often than another one."""
        return path if which % 3 else self._box(which)

    def _file(self, which: int) -> tuple[str, str]:
        """A file that is there, or one that isn't."""
        there = sorted(
            (path, name) for path, box in self.model.boxes() for name in (*box.names(), *box.temporaries)
        )
        there += [(self.model.path(w.box), w.name) for w in self.model.writings if self.model.is_new(w)]
        if not there or which % NOWHERE == 0:
            return self._box(which), "nothing"
        return there[which % len(there)]

    def _is_open(self, path: str, name: str) -> bool:
        """Whether a file of this name is open, or a message that is shown so."""
        box = self.model.box(path)
        uid = box.names().get(name)
        return any(
            w.box is box and ((w.uid is not None and w.uid == uid) or (w.uid is None and w.name == name))
            for w in self.model.writings
        )

    def _is_file(self, path: str, name: str) -> bool:
        """Whether it is no message yet."""
        box = self.model.box(path)
        return name in box.temporaries or self.model.writing(box, name) is not None

    # -- files ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.open) < 3)
    @rule(which=WHICH, name=NAMES, append=st.booleans(), data=DATA)
    def begin_to_write(self, which: int, name: str, append: bool, data: bytes) -> None:
        path = self._box(which)
        if self._is_open(path, name):
            return
        writing = self.model.open(path, name, append=append)
        flags = os.O_APPEND if append else os.O_TRUNC
        file = self.loop.run(lambda: self.program.create(f"{path}/{name}", flags))
        self.open.append((file, writing))
        self._write(file, writing, data)

    @rule(which=WHICH, name=NAMES, append=st.booleans(), data=DATA)
    def write_a_file(self, which: int, name: str, append: bool, data: bytes) -> None:
        """The same, and close it."""
        before = len(self.open)
        self.begin_to_write(which, name, append, data)
        if len(self.open) > before:
            self.close(before)

    @precondition(lambda self: bool(self.open))
    @rule(which=WHICH, data=DATA)
    def write_on(self, which: int, data: bytes) -> None:
        self._write(*self.open[which % len(self.open)], data)

    def _write(self, file: File, writing: Writing, data: bytes) -> None:
        self.model.write(writing, data)
        at = len(writing.data) - len(data)
        self.loop.run(lambda: file.write(data, at=at))

    @precondition(lambda self: bool(self.open))
    @rule(which=WHICH, date=st.sampled_from([JULY, JULY + 1, -1000]))
    def give_a_date(self, which: int, date: int) -> None:
        file, writing = self.open[which % len(self.open)]
        if writing.uid is not None and not writing.dirty:
            return  # a file that was committed: see set_date
        writing.date = date
        self.loop.run(lambda: file.set_received(date))

    @precondition(lambda self: bool(self.open))
    @rule(which=WHICH)
    def close(self, which: int) -> None:
        file, writing = self.open.pop(which % len(self.open))
        self.both(lambda: self.model.close(writing), file.close)

    @precondition(lambda self: bool(self.open))
    @rule(which=WHICH)
    def read_back(self, which: int) -> None:
        file, writing = self.open[which % len(self.open)]
        assert self.loop.run(file.read) == writing.data

    @precondition(lambda self: bool(self.open))
    @rule(which=WHICH)
    def fsync(self, which: int) -> None:
        file, _ = self.open[which % len(self.open)]
        self.loop.run(file.fsync)

    # -- names ---------------------------------------------------------------------------------

    @rule(which=WHICH, where=WHICH, new=NAMES, noreplace=st.booleans())
    def rename(self, which: int, where: int, new: str, noreplace: bool) -> None:
        path, name = self._file(which)
        self._rename(path, name, self._near(path, where), new, noreplace)

    @precondition(lambda self: bool(self.open))
    @rule(which=WHICH, over=WHICH)
    def rename_over_an_open_file(self, which: int, over: int) -> None:
        path, name = self._file(which)
        writing = self.open[over % len(self.open)][1]
        if not any(box is writing.box for _, box in self.model.boxes()):
            return
        names = {uid: shown for shown, uid in writing.box.names().items()}
        new = writing.name if writing.uid is None else names.get(writing.uid, writing.name)
        self._rename(path, name, self.model.path(writing.box), new, noreplace=False)

    def _rename(self, path: str, name: str, new_path: str, new: str, noreplace: bool) -> None:
        if new.startswith(".") and (self._is_file(new_path, new) or not self._is_file(path, name)):
            return  # two temporaries of one name; a message with a name that begins with a dot
        self.both(
            lambda: self.model.rename(path, name, new_path, new, noreplace=noreplace),
            lambda: self.program.rename(f"{path}/{name}", f"{new_path}/{new}", NOREPLACE * noreplace),
        )

    @rule(which=WHICH, where=WHICH, new=NAMES)
    def link(self, which: int, where: int, new: str) -> None:
        path, name = self._file(which)
        new_path = self._near(path, where)
        if self._is_file(path, name) or new.startswith("."):
            return
        self.both(
            lambda: self.model.link(path, name, new_path, new),
            lambda: self.program.link(f"{path}/{name}", f"{new_path}/{new}"),
        )

    @rule(which=WHICH)
    def unlink(self, which: int) -> None:
        path, name = self._file(which)
        self.both(lambda: self.model.unlink(path, name), lambda: self.program.unlink(f"{path}/{name}"))

    # -- attributes ----------------------------------------------------------------------------

    @rule(which=WHICH, date=st.sampled_from([JULY, JULY + 1, -1000]))
    def set_date(self, which: int, date: int) -> None:
        path, name = self._file(which)
        if self._is_open(path, name) or self._is_file(path, name):
            return  # it goes to what is written
        self.both(
            lambda: self.model.set_date(path, name, date),
            lambda: self.program.set_received(f"{path}/{name}", date),
        )

    @rule(which=WHICH, words=st.one_of(FLAGS, KEYWORDS))
    def set_words(self, which: int, words: str) -> None:
        path, name = self._file(which)
        if self._is_file(path, name):
            return
        attribute = "flags" if words.startswith("\\") else "keywords"
        self.both(
            lambda: self.model.set_words(path, name, attribute, words),
            lambda: self.program.set_xattr(f"{path}/{name}", attribute, words),
        )

    # -- mailboxes -----------------------------------------------------------------------------

    @rule(path=st.sampled_from(["", "INBOX"]), name=NEW_BOXES)
    def mkdir(self, path: str, name: str) -> None:
        self.both(lambda: self.model.mkdir(path, name), lambda: self.program.mkdir(f"{path}/{name}"))

    def _directory(self, which: int) -> tuple[str, str]:
        """A mailbox that is there, and not INBOX, or one that isn't."""
        path = self._box(which) if which % NOWHERE else "nothing"
        above, _, name = ("nothing" if path == "INBOX" else path).rpartition("/")
        return above, name

    @rule(which=WHICH)
    def rmdir(self, which: int) -> None:
        path, name = self._directory(which)
        self.both(lambda: self.model.rmdir(path, name), lambda: self.program.rmdir(f"{path}/{name}"))

    @rule(which=WHICH, new_path=st.sampled_from(["", "INBOX"]), new=NEW_BOXES)
    def rename_box(self, which: int, new_path: str, new: str) -> None:
        path, name = self._directory(which)
        if (path, name) == (new_path, new):
            return
        self.both(
            lambda: self.model.rename_box(path, name, new_path, new),
            lambda: self.program.rename(f"{path}/{name}", f"{new_path}/{new}"),
        )

    @rule()
    def remount(self) -> None:
        self.open.clear()
        self.loop.remount()
        self.program = Program(self.loop.mounted.vfs)
        self.model.remount()

    # -- what has to hold ----------------------------------------------------------------------

    @invariant()
    def the_mount_shows_what_the_model_has(self) -> None:
        shown = self.loop.run(self._shown)
        assert shown == {path: self._expected(box) for path, box in self.model.boxes()}

    def _expected(self, box: Box) -> dict[str, tuple[int, bytes, str, str, bool]]:
        names = [(name, uid) for name, uid in box.names().items() if not self._is_being_written(box, name)]
        return {name: (uid, *self._tuple(box.messages[uid])) for name, uid in names}

    def _is_being_written(self, box: Box, name: str) -> bool:
        """Whether the name is that of an open file which is no message yet, and so leads to that file."""
        return self.model.writing(box, name) is not None

    @staticmethod
    def _tuple(message: Message) -> tuple[bytes, str, str, bool]:
        return message.data, message.flags, message.keywords, message.date == Model.NOW

    async def _shown(self) -> dict[str, dict[str, tuple[int, bytes, str, str, bool]]]:
        program = self.program
        found: dict[str, dict[str, tuple[int, bytes, str, str, bool]]] = {}
        for path, _ in self.model.boxes():
            found[path] = {}
            children = set(self.model.box(path).children)
            for name in set(await program.names(path)) - children:
                if self._is_being_written(self.model.box(path), name):
                    continue
                full = f"{path}/{name}"
                date = (await program.stat(full)).modified_ns // 10**9
                found[path][name] = (
                    int(await program.xattr(full, "uid")),
                    await program.read(full),
                    await program.xattr(full, "flags"),
                    await program.xattr(full, "keywords"),
                    date not in (JULY, JULY + 1, -1000),
                )
        return found


class MdboxMachine(Machine):
    """The same for mdbox."""

    kind = Kind.MDBOX


LIMITS = settings(
    max_examples=int(os.environ.get("DBOXFS_MACHINE", "25")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestSdbox = Machine.TestCase
TestSdbox.settings = LIMITS
TestMdbox = MdboxMachine.TestCase
TestMdbox.settings = LIMITS
