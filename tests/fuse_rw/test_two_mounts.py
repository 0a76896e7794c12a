"""Two mounts of one store: a name stands for the one message or the other at any time, appends are joined."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fuse_rw.rw import ONE, TWO, Writable, both, resynced
from tests.fuse_rw.test_same_file import WAYS, another

pytestmark = resynced


class Looking:
    """Looks a file up again and again while the block runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.looks = 0
        self.missing: list[BaseException] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._ended.is_set():
            try:
                with open(self.path, "rb") as file:
                    assert file.read()
                assert self.path.stat().st_size
                os.getxattr(self.path, "user.dbox.flags")
            except (OSError, AssertionError) as exc:
                self.missing.append(exc)
            self.looks += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


@both
@pytest.mark.parametrize("options", ["rw", "ro"])
def test_a_name_is_there_while_the_other_mount_replaces_its_message(rw: Writable, options: str) -> None:
    other = rw.mounts.mount(rw.account.location, options)
    (rw.inbox / "it").write_bytes(TWO)
    looking = Looking(other / "INBOX" / "it")
    while not looking.path.exists():
        pass
    with looking:
        for way in WAYS:
            script = f"import os\nfor n in range(100, 110):\n name = 'INBOX/it'; {WAYS[way]}"
            rw.run("python3", "-I", "-c", script)
    assert looking.missing == []
    assert looking.looks > 25
    rw.mounts.umount(other)


@both
def test_what_is_appended_through_two_mounts_is_all_there(rw: Writable) -> None:
    other = rw.mounts.mount(rw.account.location, "rw")
    script = "import os\nfor n in range(25):\n with open('INBOX/{}', 'ab') as f: f.write(b'{}%d\\n' % n)"
    for name, before in (("1.eml", ONE), ("log", b"")):
        with ThreadPoolExecutor() as pool:
            writers = [
                pool.submit(rw.run, "python3", "-I", "-c", script.format(name, who), cwd=cwd)
                for who, cwd in (("a", rw.mnt), ("b", other))
            ]
        for writer in writers:
            writer.result()
        text = (rw.inbox / name).read_bytes()
        assert text.startswith(before)
        found = text.removeprefix(before).split()
        assert [line for line in found if line[:1] == b"a"] == [b"a%d" % n for n in range(25)]
        assert [line for line in found if line[:1] == b"b"] == [b"b%d" % n for n in range(25)]
    assert sorted(os.listdir(other / "INBOX")) == rw.names() == ["1.eml", "log"]
    rw.mounts.umount(other)


@both
def test_two_mounts_that_write_a_message_from_its_beginning_leave_one(rw: Writable) -> None:
    other = rw.mounts.mount(rw.account.location, "rw")
    for n in range(6):
        one, two = b"Subject: one %d\n\n" % n, b"Subject: two %d\n\n" % n
        with another(other / "INBOX" / "1.eml", two), another(rw.inbox / "1.eml", one):
            pass
        assert rw.texts() == [two]
    assert rw.names() == ["1.eml"]
    rw.mounts.umount(other)


@both
def test_what_the_other_mount_has_just_replaced_is_copied_as_it_is_now(rw: Writable) -> None:
    other = rw.mounts.mount(rw.account.location, "rw")
    (rw.inbox / "it").write_bytes(TWO)
    while not (other / "INBOX" / "it").exists():
        pass
    for n in range(25):
        with open(rw.inbox / "it", "ab") as file:
            file.write(b"%d\n" % n)
        os.link(other / "INBOX" / "it", other / "Work" / f"copy{n}")
    assert sorted(rw.texts("Work"), key=len) == [
        TWO + b"".join(b"%d\n" % i for i in range(n + 1)) for n in range(25)
    ]
    rw.mounts.umount(other)
