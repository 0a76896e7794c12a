"""The stores of a stress, the private Dovecot's users for them, and the daemons that show them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.dovecot import Account
from tests.live.mounts import DBOXFS, is_mounted
from tests.stress.clients import flags_of, uid_of, words
from tests.stress.journal import Item, Key
from tests.stress.texts import Mangled, parse

Report = Callable[[str], None]
"""To be called with what is wrong."""


def namespaces_with(mnt: Path) -> list[int]:
    """Processes that have the mount, perhaps in a namespace of their own: it lives as long as they do."""
    found = []
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            if f" {mnt} " in table.read_text():
                found.append(int(table.parent.name))
    return found


LOUD = ("WARNING", "ERROR", "CRITICAL", "Traceback")


@dataclass(slots=True)
class Served:
    """One mountpoint, and the daemon that serves it.

    :ivar ended: how long the daemon took to end after its last unmount, seconds.
    """

    mnt: Path
    location: str
    options: str
    log: Path
    ended: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None)
    _read: int = 0

    def mount(self) -> None:
        """RuntimeError: it can't be mounted."""
        command: list[str | Path] = [DBOXFS, "mount", "-f", "-o", self.options, "--cache-dir", "none"]
        command += ["--log-file", self.log, self.location, self.mnt]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not is_mounted(self.mnt):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                _, said = self._process.communicate()
                raise RuntimeError(f"dboxfs mount {self.location}: {said.decode(errors='replace').strip()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL; the mountpoint stays, and answers ENOTCONN."""
        assert self._process is not None
        self._process.kill()

    def free(self) -> None:
        """End whoever still waits for a dead daemon."""
        subprocess.run(["umount", "-f", "-l", self.mnt], check=False, capture_output=True)

    def unmount(self, seconds: float = 60.0) -> None:
        """RuntimeError: it can't be unmounted, or the daemon does not end."""
        if self._process is None:
            return
        if is_mounted(self.mnt):
            done = subprocess.run(
                [DBOXFS, "umount", self.mnt], capture_output=True, text=True, check=False, timeout=3 * seconds
            )  # it has a patience of its own
            if done.returncode:
                raise RuntimeError(f"dboxfs umount {self.mnt}: {done.stderr.strip()}{self._dump()}")
        began = time.monotonic()
        try:
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            who = ", ".join(map(str, namespaces_with(self.mnt))) or "none"
            raise RuntimeError(
                f"the daemon of {self.mnt} is there {seconds:.0f} s after its unmount; processes in whose "
                f"namespace it is mounted: {who}{self._dump()}"
            ) from None
        self.ended = time.monotonic() - began
        self._process = None

    def _dump(self) -> str:
        """What the daemon does now, as it writes it to its log at a SIGUSR1."""
        if self._process is None or self._process.poll() is not None or not self.log.exists():
            return ""
        before = self.log.stat().st_size
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(2)
        return "\n" + self.log.read_bytes()[before:].decode(errors="replace")

    def abandon(self) -> None:
        """Take it away, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            while is_mounted(self.mnt):
                self.free()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=20)

    def complaints(self) -> list[str]:
        """What the daemons have logged as warning or worse since this was asked last."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        found = [line for line in lines[self._read :] if any(word in line for word in LOUD)]
        self._read = len(lines)
        return found


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as a view shows it."""

    item: Item
    uid: int


def mount_view(mnt: Path, store: int, report: Report) -> list[Shown]:
    """Every message of a mount."""
    found = []
    for top, _, names in os.walk(mnt):
        box = str(Path(top).relative_to(mnt))
        for name in names:
            path = Path(top, name)
            try:
                text = str(parse(path.read_bytes()))
                found.append(Shown(Item(store, box, name, text, flags_of(path)), uid_of(path)))
            except Mangled as exc:
                report(f"{path}: {exc}")
            except OSError as exc:
                report(f"{path}: {exc}")
    return found


def dovecot_view(account: Account, store: int, report: Report) -> list[Shown]:
    """Every message that Dovecot has."""
    found = []
    for box in account.status():
        for message in account.fetch(box):
            flags = words(message.flags, message.keywords)
            try:
                text = str(parse(message.text))
                found.append(Shown(Item(store, box, "", text, flags), message.uid))
            except Mangled as exc:
                report(f"Dovecot, {box}, uid {message.uid}: {exc}")
    return found


def keys(view: list[Shown]) -> list[Key]:
    return [shown.item.key for shown in view]
