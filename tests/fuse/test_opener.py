"""Who holds a file: the process that opened it and what it has forked since."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from dboxfs.fuse.opener import MOST, Holders, children, held, killed, process_of

ME = os.getpid()


def one(pid: int) -> int:
    """Only this process has opened the file."""
    return int(pid == ME)


def test_copies_and_other_opens(tmp_path: Path) -> None:
    holders = Holders(ME)
    first = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    inode = os.fstat(first).st_ino
    reading = os.open(tmp_path / "file", os.O_RDONLY)
    assert (held(ME, inode), holders.look(inode, one)) == (1, True)
    second = os.open(tmp_path / "file", os.O_WRONLY)
    os.close(first)
    assert not holders.look(inode, lambda _: 2), "the other one was opened, not copied"
    assert held(ME, inode) == 1
    os.close(second)
    os.close(reading)
    assert (held(ME, inode), holders.look(inode, one)) == (0, False)


def test_a_child_that_was_there_before_is_not_looked_at(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    inode = os.fstat(fd).st_ino
    child = subprocess.Popen(["sleep", "30"], pass_fds=[fd])
    os.close(fd)
    time.sleep(0.05)
    late = Holders(ME)
    assert not late.look(inode, one)
    early = Holders(ME)
    early._since -= 1000
    assert early.look(inode, one)
    assert not early.opener_holds
    child.kill()
    child.wait()
    assert not early.look(inode, one)


def test_large_families_cost_no_more_than_so_many(tmp_path: Path) -> None:
    code = "import os, sys\nfor _ in range(200):\n    if not os.fork(): sys.stdin.read(); os._exit(0)\n"
    code += "print('ready', flush=True); sys.stdin.read()"
    parent = subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    holders = Holders(parent.pid)
    parent.stdout.readline()
    assert len(children(parent.pid)) == 200
    assert not holders.look(1, one)
    assert 10 < len(holders._members) <= MOST + 1
    parent.communicate()


def test_threads_belong_to_their_process() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [ME]
    assert process_of(ME) == ME


@pytest.mark.parametrize("pid", [0, -1, 1 << 30])
def test_nobody(pid: int) -> None:
    assert not Holders(pid).look(1, one)
    assert not killed(pid)
