"""The test's side of :mod:`tests.through.serving`: daemons that fail, hang or die where they are told to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.live.mounts import is_mounted
from tests.through.serving import listen

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Served:
    """One mounted daemon."""

    mnt: Path
    pid: int
    log: Path
    _lines: Any
    freed: bool = False

    def ask(self, **request: object) -> Any:
        """What the daemon answers; ConnectionError: it is dead."""
        self._lines.write(json.dumps(request).encode() + b"\n")
        self._lines.flush()
        answer = self._lines.readline()
        if not answer:
            raise ConnectionError("the daemon is gone")
        return json.loads(answer)

    def plan(self, *faults: dict[str, object], away: int = 0) -> None:
        """These faults from now on, and operations counted from now on."""
        self.ask(do="plan", faults=faults, away=away)

    def operations(self) -> tuple[list[str], list[str]]:
        """The kinds of the operations since the last plan, and the ends of the names of their files."""
        kinds, names = self.ask(do="operations")
        return kinds, names

    def state(self) -> dict[str, Any]:
        """What must not grow."""
        found: dict[str, Any] = self.ask(do="state")
        return found

    @property
    def alive(self) -> bool:
        """The process has not ended."""
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return text.rpartition(")")[2].split()[0] not in "ZX"

    def run(self, script: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """A shell script in the mountpoint, which ends at the first command that fails.

        If the daemon dies, and the script waits for it all the same (see SEMANTICS, "Killed"), ``umount -f``
        sets it free; ``freed`` tells.
        """
        script_env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
        command = ["bash", "-ec", script]
        with subprocess.Popen(
            command, cwd=self.mnt, env=script_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            deadline = time.monotonic() + 60
            while True:
                try:
                    out, err = process.communicate(timeout=3)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        process.kill()
                        raise
                    if not self.alive and not self.freed:
                        self.freed = True
                        subprocess.run(["umount", "-f", "-l", self.mnt], check=True)
                else:
                    return subprocess.CompletedProcess(command, process.returncode, out, err)


@dataclass(slots=True)
class Daemons:
    """Starts them.  Use as a context manager."""

    directory: Path = field(init=False)
    _process: subprocess.Popen[bytes] = field(init=False)
    _count: int = field(init=False, default=0)

    def __enter__(self) -> Daemons:
        self.directory = Path(tempfile.mkdtemp(prefix="dboxfs-through."))  # short: it holds sockets
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.through.serving"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate(timeout=20)
        shutil.rmtree(self.directory)

    @contextlib.contextmanager
    def mounted(self, store: str, options: str = "rw") -> Iterator[Served]:
        """One daemon; unmounted in the end, whether it lives or not."""
        self._count += 1
        place = self.directory / str(self._count)
        place.mkdir()
        mnt, path, log = place / "mnt", place / "socket", place / "log"
        mnt.mkdir()
        wanted = {"store": store, "options": options}
        wanted |= {"mountpoint": str(mnt), "socket": str(path), "log": str(log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with listen(path) as server:
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
            connection, _ = server.accept()
        with connection, connection.makefile("rwb") as lines:
            served = Served(mnt, pid, log, lines)
            try:
                yield served
            finally:
                _unmount(served)

    def log_lines(self) -> list[str]:
        """The warnings and errors of all daemons, and what is no log line."""
        logs = self.directory.glob("*/log")
        lines = [line for log in logs for line in log.read_text().splitlines()]
        return [
            line for line in lines if any(w in line for w in ("WARNING", "ERROR", "CRITICAL", "Traceback"))
        ]


def _unmount(served: Served) -> None:
    if is_mounted(served.mnt):
        # A daemon that is dead may still have a thread in the kernel that only -f sets free.
        subprocess.run(["umount", *([] if served.alive else ["-f", "-l"]), served.mnt], check=False)
    if is_mounted(served.mnt):
        subprocess.run(["umount", "-l", served.mnt], check=True)
    deadline = time.monotonic() + 10
    while served.alive:
        assert time.monotonic() < deadline, "the daemon does not end"
        time.sleep(0.002)
