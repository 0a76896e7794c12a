"""``umount`` of a mount with ``-o restore``: it shows how far the commit is, and says in a line what it did.

The mount is a directory with the two files that matter: a FIFO as ``.dboxfs/commit``, whose writer waits for
the test, and ``restore.json``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dboxfs.cli import restoring
from dboxfs.cli import umount as umounting
from dboxfs.util import mounts
from tests.cli.test_progress import Terminal

ALL = 400


class Restoring:
    """A mount that commits; it is 10 seconds later each time that its report is read."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self.unmounted = False
        self._control = point / ".dboxfs"
        self._control.mkdir()
        os.mkfifo(self._control / "commit")
        self.report(0)

    def report(self, done: int, *, failed: dict[str, str] | None = None) -> None:
        values = {
            "messages": done, "staged": ALL - done, "bytes": done * 50_000, "mailboxes": done // 100,
            "kept_uid": done, "kept_guid": max(done - 1, 0), "failed": failed or {},
            "not_kept": [{"mailbox": "Work", "name": "7.eml", "what": "guid 07", "why": "another text"}],
            "not_kept_and_not_told": 0,
        }  # fmt: skip
        whole = self._control / "new"
        whole.write_text(json.dumps(values))
        whole.replace(self._control / "restore.json")

    def commit(self, terminal: Terminal, failed: dict[str, str]) -> None:
        """Answer the writer of ``commit`` only after each step was shown."""
        for done in (100, 200, 300):
            self.report(done)
            for _ in range(10_000):
                if f"restored {done} of {ALL}" in terminal.getvalue():
                    break
                time.sleep(0.001)
        self.report(ALL, failed=failed)
        fifo = os.open(self._control / "commit", os.O_RDONLY)  # the writer's open waits for this
        assert os.read(fifo, 100) == b"commit\n"
        os.close(fifo)


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restoring:
    made = Restoring(tmp_path)

    def unmount(_: object, *, lazy: bool) -> None:
        made.unmounted = not lazy

    found = SimpleNamespace(point=str(tmp_path), connection=0)
    monkeypatch.setattr(mounts, "mounted_on", lambda _: None if made.unmounted else found)
    monkeypatch.setattr(mounts, "servers", lambda _: [])
    monkeypatch.setattr(mounts, "is_there", lambda _: not made.unmounted)
    monkeypatch.setattr(umounting, "_is_dead", lambda *_: False)
    monkeypatch.setattr(umounting, "_unmount", unmount)
    monkeypatch.setattr(restoring, "_POLL", 0.001)
    return made


@pytest.mark.parametrize("failed", [{}, {"Work": "No space left on device"}], ids=["all", "not all"])
def test_umount_shows_the_progress_of_the_commit_and_then_says_what_it_did(
    mount: Restoring,
    failed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal, ticks = Terminal(), iter(range(0, 1_000_000, 10))
    monkeypatch.setattr("dboxfs.cli.progress.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr("sys.stderr", terminal)
    other = threading.Thread(target=mount.commit, args=(terminal, failed))
    other.start()
    status = umounting.umount(Namespace(mountpoint=str(mount.point), lazy=False, force=False, quiet=False))
    other.join()
    shown = terminal.lines()
    found = [line for line in shown if line.startswith("restored 300 of 400 messages, 15.0 MB, ")]
    assert found
    assert all(line.endswith(" left") for line in found)
    assert (status, mount.unmounted) == ((1, False) if failed else (0, True))
    assert capsys.readouterr().out == (
        "restored 400 messages, 20.0 MB, in 4 mailboxes: 400 kept their uid, 399 their guid; "
        "1 not kept: Work/7.eml: guid 07 (another text)\n"
    )
    assert shown[-1].endswith("Work: not committed: No space left on device\n" if failed else "")
