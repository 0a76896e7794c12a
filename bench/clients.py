"""One measured command: its time, what it read, what the file system's daemon used meanwhile.

Clients are run so that they do all their work and little else:

* GNU tar doesn't read files when its archive is /dev/null.  It does with /dev/zero, which swallows what is
  written to it as fast, without a pipe and its second process.
* The locale is C.  Nothing is printed but by ``ls``, into /dev/null.
* A client that read less than it had to is an error, by the kernel's own count (``rchar`` in /proc/PID/io,
  looked at between its end and its burial), so a shortcut like that of tar can't go unnoticed.
"""

from __future__ import annotations

import os
import resource
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.mail import ABSENT

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of wall clock, of CPU in the client, and of CPU in the daemon (0 where there is none).

    ``cut``: nobody waited for its end, so it would have taken longer than this.
    """

    wall: float
    client_cpu: float
    daemon_cpu: float
    cut: bool = False


_BORG = """
export BORG_BASE_DIR="$1.base" BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
[ -d "$1" ] || borg init -e none "$1"
cd "$0" && borg create "$1"::"$(date +%s%N)" .
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A command on a directory.  ``reads_all``: it has to read every byte; ``status``: of its success."""

    name: str
    reads_all: bool
    status: int = 0

    def command(self, directory: Path) -> list[str]:
        where = str(directory)
        match self.name:
            case "tar":
                return ["tar", "-cf", "/dev/zero", "-C", where, "."]
            case "grep":
                return ["grep", "-r", ABSENT, where]
            case "cat":
                return ["find", where, "-type", "f", "-exec", "cat", "{}", "+"]
            case "find":
                return ["find", where, "-name", "none"]
            case "ls":
                return ["ls", "-lR", where]
            case "rsync":
                return ["rsync", "-a", "--checksum", "--dry-run", f"{where}/", f"{directory.parent}/none/"]
            case "rg":
                return ["rg", "--no-ignore", "--hidden", "--text", ABSENT, where]
            case "parallel":
                return ["sh", "-c", 'find "$0" -type f -print0 | xargs -0 -P 4 -n 500 cat', where]
            case "getfattr":
                return ["getfattr", "--absolute-names", "-R", "-d", where]
            case "borg":
                repository = directory.parent / f"borg-{directory.name}"
                return ["sh", "-c", _BORG, where, str(repository)]
        raise ValueError(self.name)

    @property
    def program(self) -> str:
        """What it takes to be installed."""
        return "xargs" if self.name == "parallel" else self.name


TAR = Client("tar", reads_all=True)
GREP = Client("grep", reads_all=True, status=1)
CAT = Client("cat", reads_all=True)
FIND = Client("find", reads_all=False)
LS = Client("ls", reads_all=False)
RSYNC = Client("rsync", reads_all=False)
RG = Client("rg", reads_all=True, status=1)
PARALLEL = Client("parallel", reads_all=True)
GETFATTR = Client("getfattr", reads_all=False)
BORG = Client("borg", reads_all=False)

ALL = (TAR, GREP, CAT, FIND, LS, RSYNC, RG, PARALLEL, GETFATTR, BORG)


def measure(
    command: Sequence[str],
    *,
    status: int = 0,
    must_read: int = 0,
    daemon: int | None = None,
    environment: Mapping[str, str] | None = None,
    patience: float = 600,
) -> Sample:
    """Run *command* to its end, or for *patience* seconds.

    :param must_read: bytes that it and its children have to read.
    :param daemon: pid of the process whose CPU time is to be counted.
    :raises BenchError: another exit status, or too little read.
    """
    environment = environment or {**os.environ, "LC_ALL": "C"}
    daemon_before, client_before = cpu_of(daemon), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
        ended = _await_end(process.pid, patience)
        wall = time.perf_counter() - start
        if not ended:
            process.kill()
        read = _read_by(process.pid) if ended else None
        process.wait()
        errors.seek(0)
        said = errors.read(400).decode(errors="replace").strip()
    client_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = " ".join(command)
    if ended and (process.returncode != status or said):
        raise BenchError(f"{told}: status {process.returncode}: {said}")
    if read is not None and read < must_read:
        raise BenchError(f"{told}: read {read} bytes, {must_read} expected")
    client = client_after.ru_utime + client_after.ru_stime - client_before.ru_utime - client_before.ru_stime
    return Sample(wall, client, cpu_of(daemon) - daemon_before, cut=not ended)


def _await_end(pid: int, patience: float) -> bool:
    """Wait for the end of a child without burying it."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], patience)[0])
    finally:
        os.close(descriptor)


def _read_by(pid: int) -> int | None:
    """Bytes read by a process and the children that it waited for; None: the kernel doesn't tell."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None
    return int(text.split()[1])


def cpu_of(pid: int | None) -> float:
    """Seconds of CPU that a process has used, with all its threads; 0 for None."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_of(pid: int) -> int:
    """Resident bytes of a process at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise BenchError(f"process {pid} has gone")


def load(directory: Path) -> None:
    """Bring all files below *directory* into the kernel's cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            path.read_bytes()


def drop_caches() -> bool:
    """Empty the kernel's caches, then load the clients again; False where we may not."""
    if os.geteuid() != 0:
        return False
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    for program in ("tar", "grep", "cat", "find", "ls", "doveadm"):
        command = [program, "help"] if program == "doveadm" else [program, "--version"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return True
