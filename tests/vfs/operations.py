"""The operations of :mod:`tests.vfs.interleaved`, on the store of :func:`tree_of`.

INBOX has ``1.eml`` and ``note``, Work ``job`` and ``other``; Empty and Other have nothing.
"""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.memory_tree import Tree
from dboxfs.store import Kind
from dboxfs.store.location import TreeLayout
from tests.vfs.inside import JULY, mounted
from tests.vfs.interleaved import Call, Made, Operation, Process, Stage, Stopping

JOB = b"Subject: job\n\nthird\n"
NOTE = b"Subject: note\n\nfourth\n"
OTHER = b"Subject: other\n\nfifth\n"


async def tree_of(kind: Kind, layout: TreeLayout) -> Tree:
    """The files of the store."""
    async with mounted(kind, layout=layout) as m:
        p = m.program()
        await p.write("INBOX/note", NOTE, received=JULY)
        await p.write("Work/job", JOB, received=JULY)
        await p.write("Work/other", OTHER, received=JULY)
        await p.set_xattr("Work/job", "flags", "\\Flagged")
        for name in ("Empty", "Other"):
            await p.mkdir(name)
        return m.tree


def maker(tree: Tree, kind: Kind, layout: TreeLayout, mounts: int = 1) -> Made:
    """Mounts a copy of the store, again and again: once, or twice."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Stage]:
        drivers: list[Stopping] = []

        def stopping(driver: Driver) -> Driver:
            drivers.append(Stopping(driver))
            return drivers[0]

        copied = copy.deepcopy(tree)
        async with AsyncExitStack() as stack:
            driver = MemoryDriver(tree=copied)
            first = second = await stack.enter_async_context(
                mounted(kind, driver=driver, faults=stopping, layout=layout, shared=True)
            )
            if mounts > 1:
                other = mounted(kind, driver=MemoryDriver(tree=copied), layout=layout, shared=True)
                second = await stack.enter_async_context(other)
            yield Stage(first, second, drivers[0])

    return make


def opens(path: str, flags: int) -> Call:
    async def call(process: Process) -> None:
        process.file = await process.program.open(path, flags)

    return call


def writes(data: bytes) -> Call:
    async def call(process: Process) -> None:
        assert process.file is not None
        await process.file.write(data)

    return call


async def closes(process: Process) -> None:
    assert process.file is not None
    await process.file.close()


def renames(old: str, new: str) -> Call:
    async def call(process: Process) -> None:
        await process.program.rename(old, new)

    return call


def written(path: str, flags: int, data: bytes) -> Operation:
    """open, write and close."""
    return Operation((opens(path, os.O_WRONLY | flags), writes(data), closes))


def one(call: Call) -> Operation:
    """A single system call."""
    return Operation((call,))


def unlinks(path: str) -> Call:
    async def call(process: Process) -> None:
        await process.program.unlink(path)

    return call


def links(old: str, new: str) -> Call:
    async def call(process: Process) -> None:
        await process.program.link(old, new)

    return call


def sets(path: str, name: str, value: str) -> Call:
    async def call(process: Process) -> None:
        await process.program.set_xattr(path, name, value)

    return call


def makes(path: str) -> Call:
    async def call(process: Process) -> None:
        await process.program.mkdir(path)

    return call


def removes(path: str) -> Call:
    async def call(process: Process) -> None:
        await process.program.rmdir(path)

    return call


NEW = b"Subject: new\n\nsixth\n"

OPERATIONS = {
    "create": written("Work/new", os.O_CREAT, NEW),
    "create exclusively": written("Work/new", os.O_CREAT | os.O_EXCL, NEW),
    "create in Empty": written("Empty/new", os.O_CREAT, NEW),
    "append": written("Work/job", os.O_APPEND, b"more\n"),
    "truncate": written("Work/job", os.O_TRUNC, b"Subject: job\n\nanew\n"),
    "rename": one(renames("Work/job", "Work/new")),
    "rename over": one(renames("Work/other", "Work/job")),
    "move": one(renames("INBOX/note", "Work/note")),
    "move over": one(renames("INBOX/note", "Work/job")),
    "move away": one(renames("Work/job", "INBOX/job")),
    "unlink": one(unlinks("Work/job")),
    "unlink other": one(unlinks("Work/other")),
    "link": one(links("Work/job", "Work/new")),
    "link away": one(links("Work/job", "Empty/job")),
    "flags": one(sets("Work/job", "flags", "\\Seen")),
    "keywords": one(sets("Work/other", "keywords", "one two")),
    "mkdir": one(makes("Work/sub")),
    "mkdir Job": one(makes("Job")),
    "rmdir": one(removes("Empty")),
    "rename mailbox": one(renames("Work", "Job")),
    "rename mailbox into": one(renames("Other", "Work/Other")),
    "rename mailbox Empty": one(renames("Empty", "Job")),
}
"""What programs do, mostly to the same files."""
