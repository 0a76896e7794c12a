"""Stores of many users on disk, and processes of theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from dboxfs.fsapi import FileSystem, Permissions, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import Neighbour, NewMessage, StoreWriter, WriteOptions, init_store

JULY = 1_689_000_000
ALONE = WriteOptions(Neighbour.ALONE)


def text_of(name: str) -> bytes:
    """The message that each user of :class:`Vmail` has in INBOX."""
    return f"Subject: for {name}\n\nhello\n".encode()


@dataclass(frozen=True, slots=True)
class Vmail:
    """``<root>/<domain>/<user>/mail`` with stores; all users can get to their own."""

    root: Path
    kind: Kind

    @property
    def template(self) -> str:
        """What --users takes."""
        return f"{self.kind.value}:{self.root}/%d/%n/mail"

    def store(self, name: str) -> Path:
        """The root of a user's store."""
        local, _, domain = name.partition("@")
        return self.root / domain / local / "mail"

    def make(self, name: str, uid: int = os.getuid(), texts: Sequence[bytes] = ()) -> None:
        """A store with an INBOX of these messages, or :func:`text_of`, whose owner and group is *uid*."""
        store = self.store(name)
        store.parent.mkdir(parents=True)
        os.chown(store.parent, uid, uid)
        os.chmod(store.parent, 0o700)
        messages = [NewMessage(text, JULY) for text in texts or [text_of(name)]]

        async def run() -> None:
            async with FileSystem(ThreadsDriver()) as fs:
                location = Location(self.kind, str(store))
                await init_store(fs, location, Permissions(0o700, uid, uid), ALONE)
                writer = StoreWriter(fs, location, await fs.stat(location.root), ALONE)
                await writer.save("INBOX", messages)

        trio.run(run)


@contextmanager
def vmail(kind: Kind) -> Iterator[Vmail]:
    """An empty one."""
    root = Path(tempfile.mkdtemp(prefix="dboxfs-vmail-"))
    root.chmod(0o755)
    try:
        yield Vmail(root, kind)
    finally:
        shutil.rmtree(root)


def as_user(uid: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the system as another user, in C's locale."""
    return subprocess.run(
        command, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, timeout=60,
        check=False, cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
