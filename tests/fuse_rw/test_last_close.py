"""Whoever holds a file open, in whatever order they close it: one whole message, and never a part of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.store.write import WriteOptions
from dboxfs.vfs import close_policy
from dboxfs.vfs.options import MountOptions
from tests.fuse.inside import aside, mounted, soon
from tests.fuse_rw.rw import ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts

BEGIN = f"""
import os, sys, time
def write(text): os.write(fd, text.encode())
def fork(child):
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(0)
    return pid
def shown(): assert os.listdir(".") == [], os.listdir(".")
fd = os.open("new", os.O_WRONLY | os.O_CREAT)
write({TWO.decode()!r})
"""

FORKS = {
    "child-after-the-close": """
def child(): time.sleep(0.1); shown(); write("child\\n"); shown()
fork(child); os.close(fd); shown(); os.wait()
""",
    "child-after-the-end": """
def child():
    while os.getppid() == parent: time.sleep(0.01)
    shown(); write("child\\n")
    fd2 = os.dup(fd); os.close(fd); shown(); os.close(fd2)
parent = os.getpid(); fork(child)
""",
    "grandchild-alone": """
def grandchild(): time.sleep(0.2); shown(); write("child\\n")
def child(): fork(grandchild)
os.waitpid(fork(child), 0); write("parent\\n"); os.close(fd); shown(); time.sleep(0.4)
""",
    "child-that-executes": """
def child(): os.execvp("sh", ["sh", "-c", f"sleep 0.1; echo child >&{fd}"])
os.set_inheritable(fd, True); fork(child); os.close(fd); shown(); os.wait()
""",
    "children-in-the-middle": """
def child(): shown()
for _ in range(3):
    os.waitpid(fork(child), 0); write("more\\n"); shown()
os.close(fd)
""",
    "copies": """
copies = [os.dup(fd) for _ in range(3)]
for copy in (fd, copies[1], copies[0]): os.close(copy); shown()
os.write(copies[2], b"copy\\n"); shown(); os.close(copies[2])
""",
    "thread-that-ends": """
import threading
def open_it():
    global fd
    fd = os.open("new", os.O_WRONLY | os.O_CREAT)
os.unlink("new"); os.close(fd)
thread = threading.Thread(target=open_it); thread.start(); thread.join()
write("thread\\n"); os.close(os.dup(fd)); shown(); write("more\\n"); os.close(fd)
""",
}
WHOLE = {
    "child-after-the-close": TWO + b"child\n",
    "child-after-the-end": TWO + b"child\n",
    "grandchild-alone": TWO + b"parent\nchild\n",
    "child-that-executes": TWO + b"child\n",
    "children-in-the-middle": TWO + b"more\n" * 3,
    "copies": TWO + b"copy\n",
    "thread-that-ends": b"thread\nmore\n",
}


@resynced
@pytest.mark.parametrize("driver", ["mdbox"])
def test_forks(rw: Writable) -> None:
    for name, script in FORKS.items():
        (rw.mnt / name).mkdir()
        rw.run("python3", "-c", BEGIN + script, cwd=rw.mnt / name)
        deadline = time.monotonic() + 5
        while not rw.names(name):
            assert time.monotonic() < deadline, f"{name}: nothing was committed"
            time.sleep(0.02)
        assert [(m.uid, m.text) for m in rw.account.fetch(name)] == [(1, WHOLE[name])], name


@both
@resynced
def test_fsync_and_a_close_in_the_middle_put_the_bytes_on_disk(rw: Writable) -> None:
    fd = os.open(rw.inbox / "new", os.O_WRONLY | os.O_CREAT)
    written = b""
    for sync in (os.fsync, os.fdatasync, lambda fd: os.close(os.dup(fd))):
        written += TWO
        os.write(fd, TWO)
        sync(fd)
        temporary = [path.read_bytes() for path in rw.account.root.rglob(".temp.*")]
        assert (temporary, rw.texts(), rw.names()) == ([written], [ONE], ["1.eml"])
    os.close(fd)
    assert rw.texts() == [ONE, written]


@both
@resynced
def test_shell_groups_in_the_background(rw: Writable) -> None:
    seen = rw.tmp / "seen"
    rw.sh("(echo a; (sleep 0.1; /bin/echo b); { sleep 0.1; echo c; } & wait; echo d) > INBOX/one")
    rw.sh(f"{{ echo a; {{ sleep 0.3; echo b; }} & }} > INBOX/two; ls INBOX > {seen}; wait")
    assert seen.read_text().split() == ["1.eml", "one"]
    rw.sh("echo x | (cat; echo y) | tee INBOX/three > /dev/null")
    assert rw.texts() == [ONE, b"a\nb\nc\nd\n", b"a\nb\n", b"x\ny\n"]
    assert [message.uid for message in rw.account.fetch()] == [1, 2, 3, 4]


@resynced
@pytest.mark.parametrize("driver", ["sdbox"])
class TestOthersHoldIt:
    """Who opened the file has closed it and was told so; a child that never writes has it open still."""

    @staticmethod
    def leave(path: Path) -> Callable[[], None]:
        """Write a file, with a child that keeps a descriptor; gives what ends the child."""
        script = 'exec 3> "$0"; printf %s "$1" >&3; sleep 100 & exec 3>&- || exit; echo $!'
        shell = subprocess.Popen(["bash", "-c", script, path, TWO], stdout=subprocess.PIPE)
        assert shell.stdout is not None
        child = int(shell.stdout.readline())
        shell.stdout.close()
        assert shell.wait() == 0
        return lambda: os.kill(child, signal.SIGTERM)

    def test_it_is_committed_when_the_mount_ends(
        self, dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str
    ) -> None:
        rw = Writable.make(dovecot, mounts, tmp_path, driver)
        mounts.umount(rw.mnt)
        with mounts.foreground(rw.account.location, "-o", "rw") as (mnt, daemon):
            ends = [self.leave(mnt / "INBOX" / name) for name in ("new", "1.eml")]
            assert rw.texts() == [ONE]
            daemon.terminate()
            assert daemon.wait() == 0
            for end in ends:
                end()
        rw.mnt = rw.mounts.mount(rw.account.location, "rw")
        assert (rw.texts(), rw.names()) == ([TWO, TWO], ["1.eml", "new"])
        rw.settled()

    async def test_it_is_committed_after_a_while(
        self, dovecot: Dovecot, tmp_path: Path, driver: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(close_policy, "HOLDER_SECONDS", 0.3)
        account = dovecot.account(f"{driver}:{{home}}/mail")
        account.save(ONE)
        async with mounted(account, tmp_path / "mnt", options=MountOptions(write=WriteOptions())) as mnt:
            inbox = mnt / "INBOX"
            end = await aside(lambda: self.leave(inbox / "new"))
            assert await aside(lambda: os.listdir(inbox)) == ["1.eml"]
            empty = inbox / "empty"
            await aside(lambda: empty.write_bytes(b""))
            assert await aside(empty.exists)
            await soon(lambda: not empty.exists(), 3)
            await soon(lambda: sorted(os.listdir(inbox)) == ["1.eml", "new"], 3)
            await aside(end)
        assert [message.text for message in account.fetch()] == [ONE, TWO]
