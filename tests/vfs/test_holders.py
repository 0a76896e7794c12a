"""Who holds a file: the process that opened it and what it has forked since."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dboxfs.util.mounts import Membership, table
from dboxfs.vfs.holders import MOST_PROCESSES, Holders, children, held, killed, process_of

ME = os.getpid()
ANY = Membership(None)


def one(pid: int) -> int:
    """Only this process has opened the file."""
    return int(pid == ME)


def test_copies_and_other_opens(tmp_path: Path) -> None:
    holders = Holders(ME, ANY)
    first = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    inode = os.fstat(first).st_ino
    reading = os.open(tmp_path / "file", os.O_RDONLY)
    assert (held(ME, inode, ANY), holders.look(inode, one)) == (1, True)
    second = os.open(tmp_path / "file", os.O_WRONLY)
    os.close(first)
    assert not holders.look(inode, lambda _: 2), "the other one was opened, not copied"
    assert held(ME, inode, ANY) == 1
    os.close(second)
    os.close(reading)
    assert (held(ME, inode, ANY), holders.look(inode, one)) == (0, False)


def test_a_child_that_was_there_before_is_not_looked_at(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    inode = os.fstat(fd).st_ino
    child = subprocess.Popen(["sleep", "30"], pass_fds=[fd])
    os.close(fd)
    time.sleep(0.05)
    late = Holders(ME, ANY)
    assert not late.look(inode, one)
    early = Holders(ME, ANY)
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
    holders = Holders(parent.pid, ANY)
    parent.stdout.readline()
    assert len(children(parent.pid)) == 200
    assert not holders.look(1, one)
    assert 10 < len(holders._members) <= MOST_PROCESSES + 1
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
    assert not Holders(pid, ANY).look(1, one)
    assert not killed(pid)


def test_a_file_with_the_same_number_in_another_mount_is_another_file(tmp_path: Path) -> None:
    """Two file systems that count from the same number, and one that is mounted twice."""
    first, second, again = tmp_path / "first", tmp_path / "second", tmp_path / "again"
    for place in (first, second, again):
        place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", first], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", second], check=True)
    subprocess.run(["mount", "--bind", first, again], check=True)
    try:
        (mount,) = [mount for mount in table() if mount.point == str(first)]
        membership = Membership(mount.device)
        ours = os.open(again / "file", os.O_WRONLY | os.O_CREAT)
        other = os.open(second / "file", os.O_WRONLY | os.O_CREAT)
        inode = os.fstat(ours).st_ino
        assert os.fstat(other).st_ino == inode
        assert held(ME, inode, membership) == 1
        assert held(ME, inode, ANY) == 2
        os.close(ours)
        assert held(ME, inode, membership) == 0
        late = tmp_path / "late"
        late.mkdir()
        subprocess.run(["mount", "--bind", first, late], check=True)
        ours = os.open(late / "file", os.O_WRONLY)
        assert held(ME, inode, membership) == 1, "the table has changed since it was read"
        subprocess.run(["umount", "-l", late], check=True)
        assert held(ME, inode, membership) == 1, "it is in no table, and nobody can tell"
        os.close(ours)
        os.close(other)
        membership.close()
    finally:
        for place in (again, second, first):
            subprocess.run(["umount", "-l", place], check=True)


def test_a_file_of_another_mount_namespace_is_told_from_ours(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    code = "import os, sys\nfd = os.open(sys.argv[1] + '/file', os.O_WRONLY | os.O_CREAT)\n"
    code += "print(os.fstat(fd).st_ino, flush=True); sys.stdin.read()"
    script = 'mount -t tmpfs none "$1" && exec python3 -c "$0" "$1"'
    command = ["unshare", "-m", "sh", "-ec", script, code, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        inode = int(other.stdout.readline())
        theirs = [mount for mount in table(f"/proc/{other.pid}/mountinfo") if mount.point == str(place)]
        assert held(other.pid, inode, Membership("0:1")) == 0
        assert held(other.pid, inode, Membership(theirs[-1].device)) == 1
        other.communicate()


def test_descriptors_are_found_wherever_they_are(tmp_path: Path) -> None:
    """Behind gaps, among many, and by numbers far above the others."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    first = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    inode = os.fstat(first).st_ino
    far = fcntl.fcntl(first, fcntl.F_DUPFD, 3000)
    os.close(first)
    assert held(ME, inode, ANY) == 1
    code = "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 20); os.dup2(fd, 7); os.close(fd)\n"
    code += "print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        ["python3", "-c", code, str(far)],
        pass_fds=[far],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as few:
        assert few.stdout is not None
        few.stdout.readline()
        assert held(few.pid, inode, ANY) == 2
        few.communicate()
    many = [os.dup(far) for _ in range(100)]
    assert held(ME, inode, ANY) == 101
    for fd in (*many, far):
        os.close(fd)
    assert held(ME, inode, ANY) == 0


def test_a_look_takes_few_system_calls(tmp_path: Path) -> None:
    """It is made for every file that is saved, on the thread that answers the kernel."""
    code = """
import os, sys
from dboxfs.util.mounts import Membership
from dboxfs.vfs.holders import Holders, killed
pid = int(sys.argv[1])
holders = Holders(pid, Membership(None))
os.path.exists("/begin")
killed(pid), holders.look(1, lambda _: 1)
os.path.exists("/end")
"""
    log = tmp_path / "calls"
    null = subprocess.DEVNULL
    with subprocess.Popen(["sleep", "30"], stdin=null, stdout=null, stderr=null) as sleeper:
        try:
            subprocess.run(
                ["strace", "-o", log, sys.executable, "-c", code, str(sleeper.pid)], check=True, timeout=60
            )
        finally:
            sleeper.kill()
    calls = log.read_text().partition('"/begin"')[2].partition('"/end"')[0].splitlines()[1:-1]
    assert 8 <= len(calls) <= 12, calls
