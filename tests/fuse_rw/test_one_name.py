"""A message has exactly one name: the one that a listing shows."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.fuse_rw.rw import JULY, ONE, TWO, Writable, both, resynced

OTHER = b"Subject: other\n\nof somebody else\n"

pytestmark = resynced


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == number)


def make(path: Path, data: bytes = TWO) -> None:
    """Make a file that must not be there."""
    with open(path, "xb") as file:
        file.write(data)


def soon(rw: Writable, names: list[str], mailbox: str = "INBOX") -> None:
    deadline = time.monotonic() + 3
    while rw.names(mailbox) != sorted(names):
        assert time.monotonic() < deadline, rw.names(mailbox)
        time.sleep(0.01)


@both
def test_what_a_listing_does_not_show_is_not_there_and_free_to_create(rw: Writable) -> None:
    make(rw.work / "mine")
    for name in ("1.eml", "uid-1.eml", "uid-uid-1.eml", "01.eml", "2.eml", "4294967297.eml"):
        path = rw.work / name
        assert not path.exists(), name
        for call in (path.unlink, path.read_bytes, lambda path=path: path.rename(rw.work / "x")):
            with refused(errno.ENOENT):
                call()
        with refused(errno.ENOENT):
            os.setxattr(path, "user.dbox.flags", rb"\Flagged")
        make(path, OTHER)
        assert path.read_bytes() == OTHER
        path.unlink()
        os.link(rw.work / "mine", path)
        path.unlink()
    assert (rw.names("Work"), rw.texts("Work")) == (["mine"], [TWO])
    assert rw.last("Work").flags == ""
    for options in ("ro", "rw"):
        rw.remount(options)
        assert rw.names("Work") == ["mine"]
        assert not (rw.work / "1.eml").exists()


@both
def test_what_it_shows_is_there_whoever_named_it(rw: Writable) -> None:
    rw.account.save(TWO)
    soon(rw, ["1.eml", "2.eml"])
    with refused(errno.EEXIST):
        os.open(rw.inbox / "2.eml", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with refused(errno.EEXIST):
        os.link(rw.inbox / "1.eml", rw.inbox / "2.eml")
    (rw.inbox / "2.eml").write_bytes(OTHER)
    assert (rw.names(), rw.texts()) == (["1.eml", "2.eml"], [ONE, OTHER])
    assert (rw.inbox / "2.eml").read_bytes() == OTHER
    (rw.inbox / "1.eml").rename(rw.inbox / "2.eml")
    assert (rw.names(), rw.texts()) == (["2.eml"], [ONE])


@both
def test_a_restored_mailbox_is_complete_in_whatever_order_its_files_come(rw: Writable) -> None:
    tree = rw.tmp / "tree"
    tree.mkdir()
    numbers = [*range(24, 0, -2), *range(1, 24, 2)]
    for number in numbers:
        rw.file(f"tree/{number}.eml", b"Subject: %d\n\n" % number)
    for box, several in (("one", False), ("several", True)):
        (rw.mnt / box).mkdir()
        copies = [f"cp -a {tree}/{number}.eml {box}/" for number in numbers]
        rw.sh(" & ".join(copies) + " & wait" if several else " && ".join(copies))
        assert rw.names(box) == sorted(f"{number}.eml" for number in numbers)
        for number in numbers:
            assert (rw.mnt / box / f"{number}.eml").read_bytes() == b"Subject: %d\n\n" % number
        assert len(rw.texts(box)) == len(numbers)


@both
def test_a_name_that_is_written_goes_before_that_of_a_uid(rw: Writable) -> None:
    """And the other message keeps what it is called for as long as that is so."""
    for name in ("3.eml", "uid-3.eml"):
        make(rw.work / name)
    rw.account.save(OTHER, "Work")
    soon(rw, ["3.eml", "uid-3.eml", "uid-uid-3.eml"], "Work")
    make(rw.work / "more")
    for _ in range(2):
        assert (rw.work / "uid-uid-3.eml").read_bytes() == OTHER
        rw.remount()
    (rw.work / "uid-uid-3.eml").rename(rw.work / "named")
    (rw.work / "named").rename(rw.work / "uid-uid-3.eml")
    (rw.work / "uid-3.eml").unlink()
    assert (rw.work / "uid-uid-3.eml").read_bytes() == OTHER, "a program has named it so"
    with refused(errno.ENOENT):
        (rw.work / "uid-3.eml").stat()


@both
def test_a_name_that_becomes_free_is_that_of_the_message_it_belongs_to(rw: Writable) -> None:
    make(rw.work / "2.eml")
    rw.account.save(OTHER, "Work")
    soon(rw, ["2.eml", "uid-2.eml"], "Work")
    assert (rw.work / "uid-2.eml").read_bytes() == OTHER
    (rw.work / "2.eml").rename(rw.work / "else")
    assert rw.names("Work") == ["2.eml", "else"]
    assert (rw.work / "2.eml").read_bytes() == OTHER
    with refused(errno.ENOENT):
        (rw.work / "uid-2.eml").stat()
    (rw.work / "else").rename(rw.work / "uid-2.eml")
    assert ((rw.work / "uid-2.eml").read_bytes(), (rw.work / "2.eml").read_bytes()) == (TWO, OTHER)


@both
def test_a_message_that_comes_while_a_file_of_its_name_is_written_is_called_otherwise(rw: Writable) -> None:
    with open(rw.inbox / "2.eml", "xb", buffering=0) as file:
        file.write(TWO)
        rw.account.save(OTHER)
        soon(rw, ["1.eml", "2.eml"])
        os.setxattr(file.fileno(), "user.dbox.flags", rb"\Flagged")
    soon(rw, ["1.eml", "2.eml", "uid-2.eml"])
    deadline = time.monotonic() + 2
    while (rw.inbox / "2.eml").read_bytes() != TWO:
        assert time.monotonic() < deadline
    assert (rw.inbox / "uid-2.eml").read_bytes() == OTHER
    assert {m.text: m.flags for m in rw.account.fetch()} == {ONE: "", OTHER: "", TWO: r"\Flagged"}


@both
@pytest.mark.parametrize("how", ["O_EXCL", "O_TRUNC", "append"])
def test_a_new_file_is_what_its_descriptor_stands_for(rw: Writable, how: str) -> None:
    """Not the message whose uid its name holds: there are such in every restored mailbox."""
    for name in ("7.eml", "8.eml", "9.eml"):
        make(rw.work / name)
    before = {m.uid: (m.flags, m.received, m.text) for m in rw.account.fetch("Work")}
    flags = {"O_EXCL": os.O_EXCL, "O_TRUNC": os.O_TRUNC, "append": os.O_APPEND}[how]
    for number in (1, 2, 3):
        fd = os.open(rw.work / f"{number}.eml", os.O_CREAT | os.O_RDWR | flags, 0o600)
        assert os.fstat(fd).st_size == 0
        assert os.listxattr(fd) == []
        os.write(fd, OTHER)
        os.setxattr(fd, "user.dbox.flags", rb"\Flagged")
        os.utime(fd, (JULY, JULY))
        os.fchmod(fd, 0o644)
        assert (os.fstat(fd).st_size, int(os.fstat(fd).st_mtime)) == (len(OTHER), JULY)
        os.ftruncate(fd, 0)
        os.pwrite(fd, OTHER[:5], 0)
        os.close(fd)
    after = {m.uid: (m.flags, m.received, m.text) for m in rw.account.fetch("Work")}
    assert {uid: after.pop(uid) for uid in before} == before
    assert [value for _, value in sorted(after.items())] == [(r"\Flagged", JULY, OTHER[:5])] * 3
    assert rw.names("Work") == [f"{number}.eml" for number in (1, 2, 3, 7, 8, 9)]


@both
@pytest.mark.parametrize("over", [False, True])
def test_a_file_that_lost_its_name_is_never_the_one_that_got_it(rw: Writable, over: bool) -> None:
    """Its descriptor stands for what was written through it, and is a message of its own in the end."""
    make(rw.inbox / "heir")
    path = rw.inbox / ("1.eml" if over else "new")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(fd, OTHER)
    (rw.inbox / "heir").rename(path)
    assert os.fstat(fd).st_size == len(OTHER)
    os.setxattr(fd, "user.dbox.flags", rb"\Flagged")
    assert os.getxattr(fd, "user.dbox.flags") == rb"\Flagged"
    os.utime(fd, (JULY, JULY))
    os.ftruncate(fd, len(OTHER))
    assert path.read_bytes() == TWO
    assert os.getxattr(path, "user.dbox.flags") == b""
    os.close(fd)
    found = {m.text: (m.flags, m.received == JULY) for m in rw.account.fetch()}
    assert found.pop(OTHER) == (r"\Flagged", True)
    assert found == {TWO: ("", False)} if over else {ONE: ("", False), TWO: ("", False)}
