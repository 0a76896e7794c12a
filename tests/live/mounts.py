"""Mounting with the installed ``dboxfs``, as a user would, and always unmounting.

The mount is a daemon of its own, so a test that fails, hangs or is interrupted can't take it along:
:class:`Mounts` takes down whatever is left (lazily, by ``fusermount3 -u -z``) when it is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.live import forked

DBOXFS = Path(sys.executable).with_name("dboxfs")
IO = os.environ.get("DBOXFS_TEST_IO", "auto")
"""The driver that mounts use: the whole suite can be run with another one."""
OPEN = os.environ.get("DBOXFS_TEST_OPEN", "")
"""``open=`` of the read-only mounts that don't ask for one: the whole suite can be run in both ways; empty:
what is the default.
"""
_LOUD = re.compile(r"\b(WARNING|ERROR|CRITICAL|Traceback)\b", re.IGNORECASE)


def dboxfs(
    *args: str | Path, timeout: float = 60, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``dboxfs`` to its end, whatever its status (:mod:`tests.live.forked`).

    :param pass_fds: descriptors that it inherits; it is started for itself then.
    """
    if not pass_fds:
        return forked.run([str(DBOXFS), *map(str, args)], timeout)
    return subprocess.run(
        [DBOXFS, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        pass_fds=pass_fds,
    )


def opened(options: str) -> str:
    """*options* of a mount, with :data:`OPEN` where they leave that to it."""
    given = [option for option in options.split(",") if option]
    if OPEN and "rw" not in given and not any(option.startswith("open=") for option in given):
        given.append(f"open={OPEN}")
    return ",".join(given)


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there, by the kernel's own table (which asks no daemon)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return str(mountpoint) in [point.encode().decode("unicode_escape") for point in points]


def wait_until_unmounted(mountpoint: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while is_mounted(mountpoint):
        assert time.monotonic() < deadline, f"{mountpoint} is still mounted"
        time.sleep(0.01)


def _remove(directory: Path, seconds: float = 60) -> None:
    """Remove *directory*, into which a daemon that is ending may still write its log."""
    deadline = time.monotonic() + seconds
    while directory.exists():
        try:
            shutil.rmtree(directory)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@dataclass(slots=True)
class Mounts:
    """Makes mounts below a directory and remembers them."""

    directory: Path
    _made: list[Path] = field(default_factory=list)
    _reachable: list[Path] = field(default_factory=list)

    def __enter__(self) -> Mounts:
        return self

    def __exit__(self, *exc: object) -> None:
        for mountpoint in self._made:
            if is_mounted(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
        for above in self._reachable:
            _remove(above)

    def mountpoint(self, *, for_all: bool = False) -> Path:
        """A new empty directory, unmounted at the end whoever mounts there.

        :param for_all: other users get there too.
        """
        path = self.directory / f"mnt{len(self._made) + 1}"
        if for_all:
            above = Path(tempfile.mkdtemp(prefix="dboxfs-mnt-"))
            above.chmod(0o755)
            self._reachable.append(above)
            path = above / "mnt"
        path.mkdir()
        self._made.append(path)
        return path

    def log_file(self, mountpoint: Path) -> Path:
        return mountpoint.with_suffix(".log")

    def mount(self, store: str | Path, options: str = "", *, for_all: bool = False) -> Path:
        """``dboxfs mount`` as a daemon; returns the mountpoint once the command says that it is usable."""
        mountpoint = self.mountpoint(for_all=for_all)
        args: list[str | Path] = ["mount", "--io", IO, "--log-file", self.log_file(mountpoint)]
        if options := opened(options):
            args += ["-o", options]
        done = dboxfs(*args, store, mountpoint)
        assert done.returncode == 0, f"dboxfs mount: status {done.returncode}: {done.stderr}"
        assert is_mounted(mountpoint)
        return mountpoint

    def umount(self, mountpoint: Path) -> None:
        done = dboxfs("umount", mountpoint)
        assert done.returncode == 0, f"dboxfs umount: status {done.returncode}: {done.stderr}"
        wait_until_unmounted(mountpoint)

    @contextlib.contextmanager
    def foreground(
        self, store: str | Path, *args: str, prefix: tuple[str, ...] = ()
    ) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
        """``dboxfs mount -f`` as a child process (after ``prefix``, say strace), ended by unmounting."""
        mountpoint = self.mountpoint()
        log = self.log_file(mountpoint)
        way = [f"-oopen={OPEN}"] if OPEN and not any("rw" in arg for arg in args) else []
        command = [
            *prefix,
            str(DBOXFS),
            "mount",
            "-f",
            "--io",
            IO,
            "--log-file",
            str(log),
            *way,
            *args,
            str(store),
            str(mountpoint),
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + 30
            while not is_mounted(mountpoint):
                assert process.poll() is None, f"dboxfs mount -f: status {process.returncode}"
                assert time.monotonic() < deadline, "dboxfs mount -f: nothing mounted after 30 seconds"
                time.sleep(0.01)
            yield mountpoint, process
        finally:
            if is_mounted(mountpoint) and process.poll() is None:
                subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
            process.communicate(timeout=20)

    def log_lines(self) -> list[str]:
        """The warnings and errors in the logs of all mounts."""
        logs = [self.log_file(made) for made in self._made]
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
        return [line for line in lines if _LOUD.search(line)]


def xattrs(path: Path) -> dict[str, str]:
    """The ``user.dbox.`` attributes of a file or directory, by the name after that prefix."""
    names = [name for name in os.listxattr(path) if name.startswith("user.dbox.")]
    return {name.removeprefix("user.dbox."): os.getxattr(path, name).decode() for name in names}
