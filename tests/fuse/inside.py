"""A mount served by the test's own event loop, so that its driver and its clockwork can be tampered with.

Whatever touches the mount must do so in another thread: the loop has to answer.  :func:`aside` does that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pyfuse3
import trio

from dboxfs.fsapi import Driver, FileSystem, ThreadsDriver
from dboxfs.fuse.mount import run
from dboxfs.store import parse_location
from dboxfs.vfs.options import MountOptions, Opens
from dboxfs.vfs.serving import OneStore
from tests.live.dovecot import Account
from tests.live.mounts import OPEN, is_mounted

T = TypeVar("T")

DEFAULT = MountOptions(opens=Opens(OPEN)) if OPEN else MountOptions()
"""Of mounts that ask for nothing else."""


async def aside(work: Callable[[], T]) -> T:
    """Do *work* in a thread; ten seconds are too long for anything here."""
    with trio.fail_after(10):
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


@asynccontextmanager
async def mounted(
    account: Account,
    mountpoint: Path,
    *,
    driver: Driver | None = None,
    fs_class: type[FileSystem] = FileSystem,
    options: MountOptions | None = None,
) -> AsyncIterator[Path]:
    mountpoint.mkdir(exist_ok=True)
    ready = trio.Event()
    location = parse_location(account.location)

    async def serve() -> None:
        async with fs_class(driver or ThreadsDriver(workers=4)) as fs:
            store = OneStore(fs, location, options or DEFAULT, logging.getLogger(__name__).warning)
            await run(fs, store, str(mountpoint), options or DEFAULT, ready.set)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(10):
                await ready.wait()
            try:
                yield mountpoint
            finally:
                pyfuse3.terminate()
    finally:
        if is_mounted(mountpoint):
            subprocess.run(["umount", "-l", mountpoint], check=False)


async def soon(check: Callable[[], bool], seconds: float = 1.0) -> None:
    """``check``, done aside, becomes true within a second from now; until then it may fail, too."""
    with trio.move_on_after(seconds):
        while True:
            with contextlib.suppress(OSError):
                if await aside(check):
                    return
            await trio.sleep(0.01)
    assert await aside(check)


def listed(path: Path) -> set[str]:
    return set(os.listdir(path))
