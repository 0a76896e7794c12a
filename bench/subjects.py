"""What is measured: a directory tree that can be made fresh, that is, unmounted and mounted again.

All daemons are children of the bench in the foreground, so that their pid is known and they can't outlive it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.clients import drop_caches
from bench.errors import BenchError
from bench.stores import location_of

_DBOXFS = Path(sys.executable).with_name("dboxfs")
_MOUNT_SECONDS = 120.0


class Subject(AbstractContextManager["Subject"]):
    """A tree at ``path``.  ``pid``: of the daemon behind it, None for plain files.

    ``source``: the directory that it takes its bytes from, if it is a mount of one.
    """

    def __init__(self, name: str, path: Path, source: Path | None = None) -> None:
        self.name = name
        self.path = path
        self.source = source

    @property
    def pid(self) -> int | None:
        return None

    def fresh(self, *, cold: bool) -> None:
        """Make it as after a boot: caches dropped (when *cold*), then mounted anew."""
        self.stop()
        if cold:
            drop_caches()
        self.start()

    def start(self) -> None:
        """Mount it."""

    def stop(self) -> None:
        """Unmount it."""

    def requests(self) -> int | None:
        """How many requests the kernel has made so far, those of this question among them; None: unknown."""
        return None

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Mount(Subject):
    """A file system at WORK/mnt/NAME whose daemon is *command* with the mountpoint behind it."""

    def __init__(
        self, name: str, command: Sequence[str | Path], work: Path, source: Path | None = None
    ) -> None:
        super().__init__(name, work / "mnt" / name, source)
        self._command = [*map(str, command), str(self.path)]
        self._log = work / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        self.path.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_root()
            )
        deadline = time.monotonic() + _MOUNT_SECONDS
        while not is_mounted(self.path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchError(f"{self.name}: not mounted; see {self._log}: {_last_line(self._log)}")
            time.sleep(0.005)
        os.stat(self.path)

    def stop(self) -> None:
        process, self._process = self._process, None
        if is_mounted(self.path):
            lazy = ["-l"] if process is None else []
            unmount = ["umount", *lazy] if os.geteuid() == 0 else ["fusermount3", "-u"]
            subprocess.run([*unmount, str(self.path)], check=False, capture_output=True)
        if process is None:
            return
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # another mount namespace may have a copy of the mount
            process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchError(f"{self.name}: its daemon had to be killed; see {self._log}") from None


class Dboxfs(Mount):
    """A mount of ours.

    ``options``: of ``-o``. ``program``: another ``dboxfs`` than the installed one. ``command``: what makes
    it, without mountpoint.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        work: Path,
        command: Sequence[str | Path] = (),
        program: Sequence[str | Path] = (),
        options: str = "",
    ) -> None:
        how = ("-f", "--log-level", "warning", *(("-o", options) if options else ()))
        ours = (*(program or (_DBOXFS,)), "mount", *how, location_of(root))
        super().__init__(name, command or ours, work, root)

    def stats(self) -> dict[str, object]:
        """What the mount says of itself."""
        found: dict[str, object] = json.loads((self.path / ".dboxfs" / "stats.json").read_text())
        return found

    def requests(self) -> int | None:
        found = self.stats()["requests"]
        assert isinstance(found, dict)
        return sum(found.values())


def unopened(program: Sequence[str]) -> str:
    """The option of a mount without OPEN, which an sdbox has to be asked for; empty: *program* has none."""
    told = subprocess.run([*program, "mount", "--help"], capture_output=True, text=True, check=False).stdout
    return "open=none" if "open=auto|classic|none" in told else ""


def passthrough(name: str, plain: Path, work: Path) -> Mount:
    """The C passthrough over *plain*, compiled here."""
    program = work / "passthrough"
    source = Path(__file__).with_name("passthrough.c")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        _compile(source, program)
    return Mount(name, [program, plain], work, plain)


def _compile(source: Path, program: Path) -> None:
    try:
        found = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
        )
        command = ["gcc", "-O2", "-Wall", "-o", str(program), str(source), *found.stdout.split()]
        subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as exc:
        raise BenchError(f"{exc.filename} is missing: run scripts/setup") from None
    except subprocess.CalledProcessError as exc:
        raise BenchError(f"{exc.cmd[0]}: {exc.stderr.strip()[:300]}") from None


def floor(messages: int, seed: int, work: Path) -> Mount:
    """The bare in-memory file system with the same messages."""
    command = [sys.executable, "-m", "bench.floor", str(messages), str(seed)]
    return Mount("floor", command, work)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there, by the kernel's own table."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return any(line.split()[4] == str(path).replace(" ", "\\040") for line in table.splitlines())


def _root() -> Path:
    """Where ``bench`` can be imported from."""
    return Path(__file__).parent.parent


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"
