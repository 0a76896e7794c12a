"""Two operations on one store, of which the second comes at a chosen step of the first.

An operation is a list of system calls of one program (:class:`Operation`).  :func:`in_turn` makes two of them
one call after the other, in an order in which the calls may come: that gives an :class:`Outcome`.
:func:`amid` stops the driver of the first program at its nth file operation, and lets the second one run
until it ends, or waits for the first.  What comes out then has to be what some order of whole calls gives.

The two programs use one mount of the store, or each a mount of its own (:class:`Stage`).  Of two mounts, each
hears of what the other has done before a call of :func:`in_turn`, and of nothing during :func:`amid`.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio
from msgspec import Struct
from msgspec.structs import replace

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.ops import Job, Op
from dboxfs.store import open_store
from dboxfs.vfs.attrs import NS
from tests.vfs.inside import File, Mounted, Program

R = TypeVar("R")

_NOW = time.time() - 3600
"""A received date behind it is not one that a program has set."""

_LEFT = re.compile(r"\.temp\.|note|TrasH|\.lock|\.newlock|\.tmp|no-mailbox|dboxfs-new")
"""What no operation leaves behind."""

_BLOCKED = 2.0
"""Seconds of the mock clock: the second operation waits for the first by then."""


class Stopping:
    """A driver that can be stopped before an operation; everything else goes on meanwhile.

    :ivar count: the operations since :meth:`stop_at`.
    """

    def __init__(self, inner: Driver) -> None:
        self.capabilities = replace(inner.capabilities, chains=False)
        self.depth = inner.depth
        self.kernel_cached = False
        self.count = 0
        self.reached = trio.Event()
        self._inner = inner
        self._nth = 0
        self._go: Callable[[], None] = _nothing

    def stop_at(self, nth: int) -> None:
        """From now on, stop before the *nth* operation, from 1; 0: never."""
        self.count, self._nth, self.reached = 0, nth, trio.Event()

    def go_on(self) -> None:
        """Carry the operation out."""
        self._nth = 0
        go, self._go = self._go, _nothing
        go()

    async def start(self, nursery: trio.Nursery) -> None:
        await self._inner.start(nursery)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        job = Job(op, done)
        self.count += 1

        def begin() -> None:
            self._inner.submit(op, relay)

        def relay(inner: Job[R]) -> None:
            job.result, job.error = inner.result, inner.error
            job.done(job)

        if self.count == self._nth:
            self._go = begin
            self.reached.set()
        else:
            begin()
        return job

    def open_nowait(self, path: str, nofollow: bool = False) -> int | None:
        return None

    def read_nowait(self, fd: int, size: int, offset: int) -> bytes | None:
        return None

    def stat_nowait(self, fd: int) -> os.stat_result | None:
        return self._inner.stat_nowait(fd)

    def close_nowait(self, fd: int) -> bool:
        return False

    def stats(self) -> dict[str, int | float]:
        return self._inner.stats()

    async def aclose(self) -> None:
        self.go_on()
        await self._inner.aclose()


def _nothing() -> None:
    """No operation is stopped."""


class Process:
    """A program, and the file that it has open."""

    def __init__(self, m: Mounted) -> None:
        self.program: Program = m.program()
        self.file: File | None = None
        self.errors: list[int | str] = []

    async def make(self, call: Call) -> bool:
        """Make a call, and keep what it gave; False: it failed."""
        for attempt in (1, 2):
            try:
                self.errors.append(await call(self) or 0)
            except (OSError, DboxfsError) as error:
                if error.errno == errno.ESTALE and attempt == 1:  # the kernel walks the path once more
                    continue
                self.errors.append(-(error.errno or 0))
                return False
            return True
        raise AssertionError("unreachable")


Call = Callable[[Process], Awaitable[str | None]]


class Operation(Struct, frozen=True):
    """System calls of one program; those behind one that fails are not made."""

    calls: tuple[Call, ...]


class Outcome(Struct, frozen=True):
    """What two operations answered, and what is in the store then.

    :ivar first: of each call 0, what it has read, or its errno, negative.
    :ivar left: temporary files, and errors that were only counted.
    :ivar messages: mailbox, name, text, and flags, keywords and received date of each message.
    """

    first: tuple[int | str, ...]
    second: tuple[int | str, ...]
    messages: tuple[tuple[str, str, str, str], ...]
    mailboxes: tuple[str, ...]
    left: tuple[str, ...]


class Stage(Struct, frozen=True):
    """Where two programs work.

    :ivar first, second: the mounts that they use: one, or two of the same store.
    :ivar driver: that of the first one.
    """

    first: Mounted
    second: Mounted
    driver: Stopping

    async def hear(self) -> None:
        """Have each of two mounts hear of what the other has done, as inotify tells a mount."""
        if self.first is not self.second:
            for m in (self.first, self.second):
                await hear(m)


async def hear(m: Mounted) -> None:
    """Have a mount read everything that has changed."""
    await m.store.refresh_tree()
    for folder in list(m.store.folders.values()):
        await m.store.refresh_mailbox(folder)
        await m.name_reader.look(folder)


async def outcome(stage: Stage, first: Process, second: Process) -> Outcome:
    """The outcome, as each mount shows it; the store has the same messages."""
    await stage.hear()
    messages = await _shown(stage.first)
    if stage.second is not stage.first:
        assert await _shown(stage.second) == messages, "the mounts show different things"
    m = stage.first
    assert sorted((where, text) for where, _, text, _ in messages) == await _stored(m)
    left = [os.path.basename(path) for path in m.files() if _LEFT.search(path)]
    for mount in {id(m): m, id(stage.second): stage.second}.values():
        left += ["an error"] * mount.vfs.writer.stats()["lost_errors"]
    return Outcome(
        tuple(first.errors),
        tuple(second.errors),
        tuple(messages),
        tuple(sorted(m.store.folders)),
        tuple(left),
    )


async def _shown(m: Mounted) -> list[tuple[str, str, str, str]]:
    """Mailbox, name, text and marks of every message, as a mount shows them."""
    program, messages = m.program(), []
    for name, folder in sorted(m.store.folders.items()):
        if folder.mailbox is None:
            continue
        for shown, text in (await program.texts(name)).items():
            marks = [await program.xattr(f"{name}/{shown}", kind) for kind in ("flags", "keywords")]
            received = (await program.stat(f"{name}/{shown}")).modified_ns // NS
            dated = str(received) if received < _NOW else "now"
            messages.append((name, shown, text.decode(), " ".join([*marks, dated])))
    return messages


async def _stored(m: Mounted) -> list[tuple[str, str]]:
    """Mailbox and text of every message, as a store that is opened now has them."""
    found = []
    async with open_store(m.fs, m.location, follow=False) as fresh:
        for name, folder in fresh.folders.items():
            box = folder.mailbox
            for uid in box.uids.tolist() if box is not None else []:
                assert box is not None
                body = await box.open(uid)
                found.append((name, (await body.read(body.size, 0)).decode()))
                body.close()
    return sorted(found)


Made = Callable[[], AbstractAsyncContextManager[Stage]]
"""Mounts a store, once or twice, with a driver that can be stopped."""


def orders(first: Operation, second: Operation) -> list[tuple[int, ...]]:
    """The orders in which the calls of two operations may come: 0 for one of the first, 1 of the second.

    Those in which one operation comes as a whole are the first ones.
    """
    ones, twos = len(first.calls), len(second.calls)
    whole = [(0,) * ones + (1,) * twos, (1,) * twos + (0,) * ones]
    return whole + [order for order in _orders(ones, twos) if order not in whole]


async def in_turn(make: Made, first: Operation, second: Operation, order: Sequence[int]) -> Outcome:
    """What one order of their calls gives."""
    async with make() as stage:
        processes = Process(stage.first), Process(stage.second)
        calls = [iter(first.calls), iter(second.calls)]
        for turn in order:
            call = next(calls[turn], None)
            if call is None:
                continue
            await stage.hear()
            if not await processes[turn].make(call):
                calls[turn] = iter(())
        return await outcome(stage, *processes)


def _orders(first: int, second: int) -> Iterator[tuple[int, ...]]:
    for places in itertools.combinations(range(first + second), second):
        yield tuple(int(at in places) for at in range(first + second))


async def amid(make: Made, first: Operation, second: Operation, nth: int) -> tuple[Outcome, int]:
    """The outcome if the second operation comes at the *nth* step of the first; and how many steps it has."""
    async with make() as stage:
        one, two, driver = Process(stage.first), Process(stage.second), stage.driver
        ended = trio.Event()

        async def run_first() -> None:
            await _run(one, first)
            ended.set()
            driver.reached.set()

        driver.stop_at(nth)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_first)
            await driver.reached.wait()
            steps = driver.count
            second_ended = trio.Event()

            async def run_second() -> None:
                await _run(two, second)
                second_ended.set()

            nursery.start_soon(run_second)
            with trio.move_on_after(_BLOCKED):
                await second_ended.wait()
            driver.go_on()
            await ended.wait()
        return await outcome(stage, one, two), steps


async def _run(process: Process, operation: Operation) -> None:
    for call in operation.calls:
        if not await process.make(call):
            break
