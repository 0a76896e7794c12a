"""Daemons whose storage can be made to fail: the process that the tests of this directory start.

``python -m tests.through.serving`` reads one JSON object a line from its standard input, forks a daemon for
each, and answers with its process id::

    {"store": MAIL_LOCATION, "mountpoint": PATH, "options": "rw,alone", "socket": PATH, "log": PATH}

The daemon is what ``dboxfs mount -f`` runs, but with one worker and the ``faults`` driver in front of it, so
that the nth operation is the same at every run.  When the mount is usable it connects to the Unix socket and
answers requests there, a JSON object a line each:

``{"do": "plan", "faults": [...], "away": nth}``
    The faults from now on (:class:`~dboxfs.fsapi.Fault`; ``crash`` kills this process with SIGKILL).
    ``away``: before the nth operation the store's root directory is renamed, as if it had been unmounted.
``{"do": "operations"}``
    The kinds of all operations since the last plan, and the ends of the names of their files.
``{"do": "state"}``
    What must not grow: descriptors of the store, locks, bytes in buffers, open uploads, resident memory.

Forking is cheap: all modules are imported once.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import trio

from dboxfs.cli.logs import log_to
from dboxfs.cli.mount_options import parse_options
from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem, ThreadsDriver
from dboxfs.fsapi.ops import Job, Op, itself
from dboxfs.fuse.mount import run
from dboxfs.store import parse_location
from dboxfs.vfs.drafts import Drafts
from dboxfs.vfs.serving import OneStore
from tests.live.mounts import opened

R = TypeVar("R")

AWAY = ".away"
"""Added to the name of the store's root while it is away."""


class Tampered(FaultsDriver):
    """Writes down the operations, and takes the store away when it is told to."""

    def __init__(self, root: str) -> None:
        super().__init__(ThreadsDriver(1), depth=1, on_crash=_die)
        self.kinds: list[str] = []
        self.files: list[str] = []
        self._root = root
        self._away = 0

    def begin(self, faults: list[dict[str, Any]], away: int) -> None:
        self.kinds.clear()
        self.files.clear()
        self._away = away
        crash = {fault["crash"]: Crash(fault["crash"]) for fault in faults if fault.get("crash")}
        self.replan(Fault(**{**fault, "crash": crash.get(fault.get("crash"))}) for fault in faults)

    def submit(self, op: Op[R], done: Callable[[Job[R]], None], *, background: bool = False) -> Job[R]:
        self.kinds.append(itself(op).kind)
        self.files.append(_file(itself(op)))
        if len(self.kinds) == self._away:
            os.rename(self._root, self._root + AWAY)
        return super().submit(op, done, background=background)


def _file(op: Op[Any]) -> str:
    """The last part of the name that an operation has to do with."""
    fd = getattr(op, "fd", -1)
    try:
        path = os.readlink(f"/proc/self/fd/{fd}") if fd >= 0 else ""
    except FileNotFoundError:
        path = ""
    path = path or getattr(op, "target", "") or getattr(op, "path", "")
    return "/".join(path.split("/")[-3:])


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Counted(FileSystem):
    """Knows those that share its driver: the store's has the rights of its owner."""

    made: ClassVar[list[FileSystem]] = []

    async def start(self, nursery: trio.Nursery) -> None:
        self.made.append(self)
        await super().start(nursery)


def _state(home: str) -> dict[str, object]:
    # Not isinstance, which asks what a weak reference refers to, and that may be gone.
    table = next(found for found in gc.get_objects() if type(found) is Drafts)
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "descriptors": sorted(name for name in names if name.startswith(home)),
        "locks": sum(len(fs.locks) for fs in Counted.made),
        "dirty": sum(fs.engine.dirty for fs in Counted.made),
        "budget": table._budget.used,
        "uploads": len(table._by_inode),
        "writing": len(table._opens),
        "names": len(table._by_name),
        "handles": sum(fs.stats()["open_handles"] for fs in Counted.made),
        "resident": next(int(line.split()[1]) for line in status if line.startswith("VmRSS")),
    }


async def _control(path: str, ready: trio.Event, driver: Tampered, home: str) -> None:
    await ready.wait()
    stream = await trio.open_unix_socket(path)
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            answer: object = None
            if request["do"] == "plan":
                driver.begin(request["faults"], request["away"])
            elif request["do"] == "operations":
                answer = [driver.kinds, driver.files]
            else:
                answer = _state(home)
            await stream.send_all(json.dumps(answer).encode() + b"\n")


async def _serve(wanted: dict[str, str]) -> None:
    location = parse_location(wanted["store"])
    options = parse_options([opened(wanted["options"])]).mount
    driver = Tampered(location.root)
    ready = trio.Event()
    async with Counted(driver) as fs, trio.open_nursery() as nursery:
        home = os.path.dirname(location.root)
        nursery.start_soon(_control, wanted["socket"], ready, driver, home)
        store = OneStore(fs, location, options, logging.getLogger(__name__).warning)
        await run(fs, store, wanted["mountpoint"], options, ready.set)
        nursery.cancel_scope.cancel()


def _daemon(wanted: dict[str, str]) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    log_to(wanted["log"], "info", foreground=True)
    try:
        trio.run(_serve, wanted)
    except BaseException as exc:  # noqa: BLE001 - there is nobody above
        with open(wanted["log"], "a") as log:
            log.write(f"ERROR {exc!r}\n{traceback.format_exc()}")
        return 1
    return 0


def main() -> None:
    """See the module."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_daemon(json.loads(line)))
        print(pid, flush=True)


def listen(path: Path) -> socket.socket:
    """The test's end, before the daemon connects."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    server.settimeout(20)
    return server


if __name__ == "__main__":
    main()
