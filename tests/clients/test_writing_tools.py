"""The tools that people put mail in with, take it out and change it; ``doveadm`` says what came of it."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse_rw.rw import JULY, LONG, ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts

pytestmark = [both, resynced]


@pytest.fixture
def rw(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> Iterator[Writable]:
    """A writable mount; in the end Dovecot and a repair agree with what is in it."""
    made = Writable.make(dovecot, mounts, tmp_path, driver)
    yield made
    made.settled()


def test_cp(rw: Writable) -> None:
    for number, data in enumerate((TWO, LONG, b"no header", b"\xff\r\n\0bytes\r")):
        source = rw.file(f"source{number}", data)
        rw.run("cp", source, "INBOX/")
        rw.run("cmp", source, f"INBOX/source{number}")
        assert rw.last().text == data
    assert rw.names() == ["1.eml", "source0", "source1", "source2", "source3"]


@pytest.mark.parametrize("how", [["cp", "-p"], ["cp", "-a"], ["install", "-p"], ["rsync", "-a"], ["mv"]])
def test_the_date_comes_along(rw: Writable, how: list[str]) -> None:
    source = rw.file("two", TWO)
    rw.run(*how, source, "INBOX/")
    assert (rw.last().text, rw.last().received) == (TWO, JULY)
    assert (rw.inbox / "two").stat().st_mtime == JULY
    assert rw.texts() == [ONE, TWO]


@pytest.mark.parametrize("extra", [[], ["--inplace"], ["--partial"]])
def test_a_second_rsync_transfers_nothing(rw: Writable, extra: list[str]) -> None:
    tree = rw.tmp / "tree"
    tree.mkdir()
    for number in range(5):
        (tree / f"m{number}").write_bytes(TWO * (number + 1))
        os.utime(tree / f"m{number}", (JULY, JULY))
    command = ["rsync", "-rtO", "--out-format=%n", *extra, f"{tree}/", "INBOX/"]
    assert sorted(rw.run(*command).split()) == [f"m{n}" for n in range(5)]
    uids = [message.uid for message in rw.account.fetch()]
    assert rw.run(*command) == ""
    assert [message.uid for message in rw.account.fetch()] == uids
    (tree / "m3").write_bytes(LONG)
    rw.run("rsync", "-rtO", *extra, f"{tree}/", "INBOX/")
    assert (rw.inbox / "m3").read_bytes() == LONG
    assert len(rw.account.fetch()) == 6
    rw.remount()
    rw.run("rsync", "-rtOc", *extra, f"{tree}/", "INBOX/")
    assert rw.last().text == LONG


def test_rsync_inplace_makes_a_message_shorter(rw: Writable) -> None:
    source = rw.file("m", LONG)
    rw.run("rsync", "-t", "--inplace", source, "INBOX/")
    source = rw.file("m", TWO)
    rw.run("rsync", "-t", "--inplace", source, "INBOX/")
    assert rw.texts() == [ONE, TWO]


def test_mv_out_and_between(rw: Writable) -> None:
    guid = rw.last().guid
    rw.run("mv", "INBOX/1.eml", "Work/")
    assert (rw.texts(), rw.texts("Work"), rw.last("Work").guid) == ([], [ONE], guid)
    assert rw.names("Work") == ["1.eml"]
    rw.run("mv", "Work/1.eml", rw.tmp / "out")
    assert ((rw.tmp / "out").read_bytes(), rw.texts("Work")) == (ONE, [])


def test_mv_gives_a_name(rw: Writable) -> None:
    rw.run("mv", "INBOX/1.eml", "INBOX/mine")
    assert rw.names() == ["mine"]
    assert (rw.inbox / "mine").read_bytes() == ONE
    assert not (rw.inbox / "1.eml").exists()
    rw.remount()
    assert rw.names() == ["mine"]
    assert rw.last().uid == 1


def test_mv_over_a_message(rw: Writable) -> None:
    rw.account.doveadm("flags add", r"\Seen $Label", "mailbox", "INBOX", "uid", "1")
    rw.run("mv", rw.file("two", TWO), "Work/")
    rw.run("mv", "Work/two", "INBOX/1.eml")
    assert (rw.texts(), rw.texts("Work")) == ([TWO], [])
    assert (rw.last().flags, rw.last().keywords) == (r"\Seen", "$Label")
    assert rw.names() == ["1.eml"]


def test_ln_copies(rw: Writable) -> None:
    rw.account.doveadm("flags add", r"\Flagged", "mailbox", "INBOX", "uid", "1")
    rw.run("ln", "INBOX/1.eml", "Work/copy")
    rw.run("ln", "INBOX/1.eml", "INBOX/again")
    assert (rw.texts(), rw.texts("Work"), rw.last("Work").flags) == ([ONE, ONE], [ONE], r"\Flagged")
    assert rw.names("Work") == ["copy"]
    rw.run("ln", "INBOX/1.eml", "Work/copy", status=1)


def test_rm(rw: Writable) -> None:
    rw.run("rm", "INBOX/1.eml")
    assert (rw.texts(), rw.names()) == ([], [])


def test_rm_r_of_many(rw: Writable) -> None:
    for number in range(300):
        (rw.work / f"m{number}").write_bytes(TWO)
    assert len(rw.texts("Work")) == 300
    rw.run("rm", "-r", "Work")
    assert rw.account.mailboxes() == ["INBOX"]


def test_tar(rw: Writable) -> None:
    archive = rw.tmp / "some.tar"
    with tarfile.open(archive, "w") as tar:
        for name, data in (("a", TWO), ("sub/b", ONE), ("long", LONG)):
            tar.add(rw.file("entry", data), f"box/{name}")
    rw.run("tar", "-xf", archive)
    assert sorted(rw.texts("box")) == sorted([TWO, LONG])
    assert rw.texts("box/sub") == [ONE]
    assert {message.received for message in rw.account.fetch("box")} == {JULY}


def test_unzip(rw: Writable) -> None:
    archive = rw.tmp / "some.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(rw.file("two", TWO), "two")
    rw.run("unzip", "-q", archive, "-d", "INBOX")
    assert rw.texts() == [ONE, TWO]


def test_python_copy2_and_move(rw: Writable) -> None:
    source = rw.file("two", TWO)
    shutil.copy2(source, rw.inbox / "two")
    assert (rw.texts(), rw.last().received) == ([ONE, TWO], JULY)
    shutil.move(rw.inbox / "two", rw.work / "moved")
    assert (rw.texts(), rw.texts("Work"), rw.last("Work").received) == ([ONE], [TWO], JULY)


def test_shell_redirections(rw: Writable) -> None:
    rw.sh("cat > INBOX/new <<< $'Subject: s\\n\\nx'")
    assert rw.last().text == b"Subject: s\n\nx\n"
    rw.sh("echo more >> INBOX/new")
    assert rw.texts() == [ONE, b"Subject: s\n\nx\nmore\n"]
    rw.sh("(echo Subject: p; sleep 0.05; echo; /bin/echo in parts; ) > INBOX/parts")
    assert rw.last().text == b"Subject: p\n\nin parts\n"
    rw.sh("{ echo Subject: q; (echo; exec /bin/echo child); } > INBOX/group")
    assert rw.last().text == b"Subject: q\n\nchild\n"
    rw.sh("exec 3> INBOX/dup; echo Subject: d >&3; exec 4>&3 3>&-; echo >&4; echo end >&4")
    assert rw.last().text == b"Subject: d\n\nend\n"
    assert len(rw.texts()) == 5
    assert [message.uid for message in rw.account.fetch()] == [1, 3, 4, 5, 6]


def test_tee_and_dd(rw: Writable) -> None:
    source = rw.file("long", LONG)
    rw.sh(f"tee INBOX/tee < {source} > /dev/null")
    rw.run("dd", f"if={source}", "of=INBOX/dd", "bs=4k", "conv=fsync", "status=none")
    assert rw.texts() == [ONE, LONG, LONG]
    rw.run("dd", "if=/dev/zero", "of=INBOX/dd", "bs=10", "seek=3", "count=1", "conv=notrunc", "status=none")
    assert rw.texts() == [ONE, LONG, LONG[:30] + bytes(10) + LONG[40:]]


@pytest.mark.parametrize("how", [["cp", "--sparse=always"], ["rsync", "-aS"], ["rsync", "-a", "--inplace"]])
def test_holes(rw: Writable, how: list[str]) -> None:
    text = ONE + bytes(1_000_000) + TWO + bytes(300_000)
    rw.run(*how, rw.file("holes", text), "INBOX/")
    assert rw.texts() == [ONE, text]
    rw.run("cmp", rw.tmp / "holes", "INBOX/holes")


def test_sed_in_place(rw: Writable) -> None:
    rw.account.doveadm("flags add", r"\Seen", "mailbox", "INBOX", "uid", "1")
    rw.run("sed", "-i", "s/first/changed/", "INBOX/1.eml")
    assert (rw.texts(), rw.last().flags) == ([b"Subject: one\n\nchanged\n"], r"\Seen")
    assert rw.names() == ["1.eml"]


def test_vim(rw: Writable) -> None:
    rw.run("cp", rw.file("two", TWO), "INBOX/")
    rw.sh("vim -es -u NONE -N -c '%s/second/edited/' -c 'wq' INBOX/two < /dev/null > /dev/null 2>&1")
    assert rw.texts() == [ONE, TWO.replace(b"second", b"edited")]
    assert rw.names() == ["1.eml", "two"]


def test_touch(rw: Writable) -> None:
    rw.run("touch", "INBOX/new")
    assert rw.names() == ["1.eml"]
    rw.run("touch", "-d", f"@{JULY}", "INBOX/1.eml")
    assert (rw.texts(), rw.last().received) == ([ONE], JULY)
    assert rw.names() == ["1.eml"]


def test_chmod_and_chown_change_nothing(rw: Writable) -> None:
    before = rw.everything()
    rw.run("chmod", "644", "INBOX/1.eml", "INBOX")
    rw.run("chown", "0:0", "INBOX/1.eml")
    assert rw.everything() == before


def test_mailboxes(rw: Writable) -> None:
    rw.sh("mkdir -p Lists/trio Entwürfe && cp INBOX/1.eml Lists/trio/ && mv Lists Archive")
    assert rw.account.mailboxes() == ["Archive", "Archive/trio", "Entwürfe", "INBOX", "Work"]
    assert rw.texts("Archive/trio") == [ONE]
    rw.run("rmdir", "Archive/trio", status=1)
    rw.run("rmdir", "Work")
    rw.run("rm", "Archive/trio/1.eml")
    rw.run("rmdir", "Archive/trio")
    assert rw.account.mailboxes() == ["Archive", "Entwürfe", "INBOX"]
