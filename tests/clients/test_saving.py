"""How mail programs and editors save a file: their system calls, as strace shows them, made again.

Each sequence is one process, since a file that is not a message yet is there for who made it only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse_rw.rw import ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts

pytestmark = resynced
sdbox = pytest.mark.parametrize("driver", ["sdbox"])
mdbox = pytest.mark.parametrize("driver", ["mdbox"])

BEGIN = f"""
import os
from os import O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR, O_TRUNC, O_WRONLY
TEXT = {TWO!r}
def same(*found):
    assert len({{(st.st_dev, st.st_ino, st.st_rdev) for st in found}}) == 1
def gone(path):
    try: os.stat(path)
    except FileNotFoundError: return
    raise AssertionError(path)
def fill(fd, *, sync=True):
    os.write(fd, TEXT[:7]); os.write(fd, TEXT[7:])
    if sync: os.fsync(fd)
    os.close(fd)
"""

MUTT = """  # mutt 2.2.12, "s" on an attachment
gone("INBOX/saved.eml")
os.mkdir("INBOX/.muttG4FAby", 0o700)
os.close(os.open("INBOX/.muttG4FAby/saved.eml", O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW, 0o600))
os.link("INBOX/.muttG4FAby/saved.eml", "INBOX/saved.eml")
os.unlink("INBOX/.muttG4FAby/saved.eml")
gone("INBOX/.muttG4FAby/saved.eml")
os.rmdir("INBOX/.muttG4FAby")
fd = os.open("INBOX/saved.eml", O_WRONLY|O_CREAT|O_NOFOLLOW, 0o600)
same(os.lstat("INBOX/saved.eml"), os.fstat(fd))
fill(fd, sync=False)
"""

MH = """  # mutt saving into an MH folder: a name with a dot, linked to its own
fd = os.open("INBOX/.mutt-host-1-2", O_WRONLY|O_EXCL|O_CREAT, 0o600)
fill(fd)
os.utime("INBOX/.mutt-host-1-2", (1689000000, 1689000000))
os.link("INBOX/.mutt-host-1-2", "INBOX/saved.eml")
same(os.lstat("INBOX/.mutt-host-1-2"), os.lstat("INBOX/saved.eml"))
os.unlink("INBOX/.mutt-host-1-2")
"""

THUNDERBIRD = """  # a unique name, made empty; opened again, written, and given its name by a rename
os.close(os.open("INBOX/saved-1.eml", O_RDWR|O_CREAT|O_EXCL, 0o600))
assert os.lstat("INBOX/saved-1.eml").st_size == 0
os.chmod("INBOX/saved-1.eml", 0o600)
fd = os.open("INBOX/saved-1.eml", O_WRONLY|O_CREAT|O_TRUNC, 0o600)
fill(fd)
assert os.stat("INBOX/saved-1.eml").st_size == len(TEXT)
os.rename("INBOX/saved-1.eml", "INBOX/saved.eml")
"""

NSTMP = """  # what Thunderbird does to compact a folder
fd = os.open("INBOX/nstmp", O_WRONLY|O_CREAT|O_TRUNC, 0o600)
fill(fd)
os.rename("INBOX/nstmp", "INBOX/saved.eml")
"""


@pytest.fixture
def rw(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> Iterator[Writable]:
    """A writable mount; in the end Dovecot and a repair agree with what is in it."""
    made = Writable.make(dovecot, mounts, tmp_path, driver)
    yield made
    made.settled()


@both
def test_mail_programs_save(rw: Writable) -> None:
    for sequence in (MUTT, MH, THUNDERBIRD, NSTMP):
        rw.run("python3", "-c", BEGIN + sequence)
        assert (rw.texts(), rw.names(), rw.account.mailboxes()) == (
            [ONE, TWO],
            ["1.eml", "saved.eml"],
            ["INBOX", "Work"],
        ), sequence
        rw.run("rm", "INBOX/saved.eml")


@mdbox
def test_mail_programs_save_over_a_message(rw: Writable) -> None:
    rw.run("mv", "INBOX/1.eml", "INBOX/saved.eml")
    for sequence in (THUNDERBIRD, NSTMP):
        rw.account.doveadm("flags add", r"\Seen $Label", "mailbox", "INBOX", "all")
        rw.run("python3", "-c", BEGIN + sequence)
        assert (rw.texts(), rw.names()) == ([TWO], ["saved.eml"]), sequence
        assert (rw.last().flags, rw.last().keywords) == (r"\Seen", "$Label"), sequence


@sdbox
def test_editors_that_rename_and_write_anew_keep_flags(rw: Writable) -> None:
    quiet = "INBOX/1.eml < /dev/null > /dev/null 2>&1"
    vim = "vim -es -u NONE -N -c 'set {} backupskip=' -c '%s/first/{}/' -c wq " + quiet
    editors = [
        vim.format("backupcopy=no", "once"),
        vim.format("backupcopy=no backup", "once").replace("/first/", "/once/"),
        vim.format("backupcopy=no backup", "twice").replace("/first/", "/once/"),
        "sed -i.bak s/twice/again/ INBOX/1.eml",
        "perl -i.orig -pe s/again/first/ INBOX/1.eml",
    ]
    rw.account.doveadm("flags add", r"\Seen $Label", "mailbox", "INBOX", "uid", "1")
    for command in editors:
        rw.sh(command)
        found = {rw.inbox / name: name for name in rw.names()}
        (message,) = [m for m in rw.account.fetch() if m.text == (rw.inbox / "1.eml").read_bytes()][-1:]
        assert (message.flags, message.keywords) == (r"\Seen", "$Label"), (command, found)
    assert rw.names() == ["1.eml", "1.eml.bak", "1.eml.orig", "1.eml~"]
    assert (rw.inbox / "1.eml").read_bytes() == ONE


@mdbox
def test_a_name_that_was_given_up_otherwise_gives_nothing(rw: Writable) -> None:
    rw.account.doveadm("flags add", r"\Seen $Label", "mailbox", "INBOX", "uid", "1")
    rw.sh("mv INBOX/1.eml INBOX/elsewhere; echo new > INBOX/1.eml")
    assert (rw.last().flags, rw.last().keywords) == ("", "")
    rw.sh("echo other > INBOX/other; mv INBOX/elsewhere INBOX/elsewhere~; rm INBOX/elsewhere~")
    rw.sh("mv INBOX/other INBOX/elsewhere")
    assert {(m.flags, m.keywords) for m in rw.account.fetch()} == {("", "")}


@sdbox
def test_an_empty_file_is_there_for_who_made_it(rw: Writable) -> None:
    rw.run(
        "python3",
        "-c",
        BEGIN
        + """
os.close(os.open("INBOX/empty", O_WRONLY|O_CREAT|O_EXCL))
assert os.stat("INBOX/empty").st_size == 0
try: os.open("INBOX/empty", O_WRONLY|O_CREAT|O_EXCL)
except FileExistsError: pass
else: raise AssertionError("made twice")
assert os.system("test -e INBOX/empty") != 0
os.rename("INBOX/empty", "INBOX/renamed"); gone("INBOX/empty")
os.unlink("INBOX/renamed"); gone("INBOX/renamed")
for number in range(200): os.close(os.open(f"INBOX/{number}", O_WRONLY|O_CREAT))
os.close(os.open("INBOX/1.eml", O_WRONLY|O_TRUNC))
assert os.listdir("INBOX") == ["1.eml"], os.listdir("INBOX")
os.close(os.open("INBOX/mine", O_WRONLY|O_CREAT))
assert os.system("echo other > INBOX/mine") == 0
assert open("INBOX/mine").read() == "other\\n"
os.close(os.open("INBOX/more", O_WRONLY|O_CREAT))
assert os.system("mv INBOX/mine INBOX/more") == 0
assert open("INBOX/more").read() == "other\\n"
os.rename("INBOX/more", "INBOX/mine")
""",
    )
    assert (rw.texts(), rw.names()) == ([ONE, b"other\n"], ["1.eml", "mine"])
