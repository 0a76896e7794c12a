"""Directories that are made, renamed and removed: who works in one stays in it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time

import pytest

from tests.fuse_rw.rw import Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts

BEGIN = """
import os, sys, time
def soon(path): time.sleep(0.1); assert os.getcwd() == path, f"{os.getcwd()}, not {path}"
top = os.getcwd()
"""


@both
@resynced
def test_a_working_directory_stays_one(rw: Writable) -> None:
    steps = """
os.mkdir("A"); os.chdir("A"); soon(f"{top}/A")
os.rename("../A", "../B"); soon(f"{top}/B")
os.mkdir("Sub"); os.chdir("Sub"); soon(f"{top}/B/Sub")
open("new", "w").write("a message\\n"); soon(f"{top}/B/Sub")
os.rename("../../B", "../../Work/C"); soon(f"{top}/Work/C/Sub")
os.rename(f"{top}/Work/C/Sub", f"{top}/Sub"); soon(f"{top}/Sub")
assert os.listdir(".") == ["new"]
os.chdir(top); os.rmdir("Work/C"); os.mkdir("Work/C"); os.chdir("Work/C"); soon(f"{top}/Work/C")
"""
    rw.run("python3", "-I", "-c", BEGIN + steps)
    assert sorted(rw.account.status()) == ["INBOX", "Sub", "Work", "Work/C"]


@both
@resynced
def test_a_parent_without_messages_is_usable_under_its_new_name_at_once(rw: Writable) -> None:
    rw.account.doveadm("mailbox create", "Above/Below")
    deadline = time.monotonic() + 2
    while not (rw.mnt / "Above/Below").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Nothing may be between the steps: the kernel has the old inode numbers at hand.
    rw.sh(
        "ls -lR Above >/dev/null; mv Above Else; echo x > Else/Below/new; stat Else Else/Below; mv Else Last"
    )
    rw.sh("cat Last/Below/new; mkdir Else; mv Last/Below Else; stat Else/Below; [ ! -e Last ]")
    # Nor does it remember anything of a directory that was not looked at.
    rw.remount()
    back_and_forth = """
for _ in range(10):
    for old, new in (("Else", "Third"), ("Third", "Else")):
        os.rename(old, new); os.stat(f"{new}/Below"); os.stat(f"{new}/Below/new")
"""
    rw.run("python3", "-I", "-c", BEGIN + back_and_forth)
    assert rw.texts("Else/Below") == [b"x\n"]


@both
@resynced
def test_what_dovecot_does_to_directories_is_seen_where_somebody_works(rw: Writable) -> None:
    rw.account.doveadm("mailbox create", "Work/Sub")
    waiting = """
def until(true):
    end = time.monotonic() + 2
    while not true(): assert time.monotonic() < end; time.sleep(0.01)
os.chdir("Work"); until(lambda: os.path.isdir("Sub"))
print("ready", flush=True); sys.stdin.readline()
until(lambda: not os.path.exists("Sub")); until(lambda: os.path.isdir("Other"))
soon(f"{top}/Work"); assert os.listdir(".") == ["Other"], os.listdir(".")
"""
    command = ["python3", "-I", "-c", BEGIN + waiting]
    with subprocess.Popen(command, cwd=rw.mnt, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        rw.account.doveadm("mailbox rename", "Work/Sub", "Work/Other")
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(10) == 0


@both
@resynced
def test_a_name_that_would_not_be_shown_is_refused(rw: Writable) -> None:
    for refused in (b"5.eml", b"x%41", b"%2Ex", b"nul%00", b"\xff"):
        path = os.fsencode(rw.mnt) + b"/" + refused
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.mkdir(path)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.rename(os.fsencode(rw.work), path)
    assert sorted(rw.account.status()) == ["INBOX", "Work"]
    for name in ("5%2Eeml", "x%2541", "100%", "a.eml"):
        (rw.mnt / name).mkdir()
        (rw.mnt / name / "new").write_bytes(b"in %s\n" % name.encode())
    assert sorted(rw.account.status()) == ["100%", "5.eml", "INBOX", "Work", "a.eml", "x%41"]
    assert rw.texts("5.eml") == [b"in 5%2Eeml\n"]
    for name in ("5%2Eeml", "x%2541", "100%", "a.eml"):  # as a mailbox, its name is another one
        shutil.rmtree(rw.mnt / name)


def test_parents_that_dovecot_drops_stay_until_it_does(dovecot: Dovecot, mounts: Mounts) -> None:
    account = dovecot.account("mdbox:{home}/mail:NO-NOSELECT")
    account.doveadm("mailbox create", "INBOX", "By/Dovecot/Deleted", "By/Mount/Deleted")
    mnt = mounts.mount(account.location, "rw")

    def shown() -> list[str]:
        return sorted(os.path.relpath(above, mnt) for above, _, _ in os.walk(mnt))

    def shows(*wanted: str) -> None:
        deadline = time.monotonic() + 20
        while shown() != [".", *wanted]:
            assert time.monotonic() < deadline, shown()
            time.sleep(0.02)

    account.doveadm("mailbox delete", "By/Dovecot/Deleted")
    shows("By", "By/Mount", "By/Mount/Deleted", "INBOX")
    (mnt / "By/Mount/Deleted").rmdir()
    assert shown() == [".", "By", "By/Mount", "INBOX"], "rmdir removes no more than it is told to"
    assert account.mailboxes() == ["INBOX"], "listing the mailboxes has Dovecot drop the others"
    shows("INBOX")
