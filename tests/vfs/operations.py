"""The operations of :mod:`tests.vfs.interleaved`, on the store of :func:`tree_of`.

INBOX has ``1.eml`` and ``note``, Work ``job``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.memory_tree import Tree
from dboxfs.store import Kind
from dboxfs.store.location import TreeLayout
from tests.vfs.inside import JULY, Mounted, mounted
from tests.vfs.interleaved import Call, Made, Operation, Process, Stopping

JOB = b"Subject: job\n\nthird\n"
NOTE = b"Subject: note\n\nfourth\n"


async def tree_of(kind: Kind, layout: TreeLayout) -> Tree:
    """The files of the store."""
    async with mounted(kind, layout=layout) as m:
        p = m.program()
        await p.write("INBOX/note", NOTE, received=JULY)
        await p.write("Work/job", JOB, received=JULY)
        return m.tree


def maker(tree: Tree, kind: Kind, layout: TreeLayout) -> Made:
    """Mounts a copy of the store, again and again."""

    @asynccontextmanager
    async def make() -> AsyncIterator[tuple[Mounted, Stopping]]:
        drivers: list[Stopping] = []

        def stopping(driver: Driver) -> Driver:
            drivers.append(Stopping(driver))
            return drivers[0]

        driver = MemoryDriver(tree=copy.deepcopy(tree))
        async with mounted(kind, driver=driver, faults=stopping, layout=layout) as m:
            yield m, drivers[0]

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


SAVE = written("Work/new", os.O_CREAT, b"Subject: work\n\nseventh\n")
APPEND = written("Work/job", os.O_APPEND, b"more\n")
MOVE = Operation((renames("INBOX/note", "Work/note"),))
RENAME_MAILBOX = Operation((renames("Work", "Job"),))
