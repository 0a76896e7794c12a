"""Names that messages were written under, and what else is kept beside the messages."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from dboxfs.fsapi import Fault, FaultsDriver, ThreadsDriver
from dboxfs.fsapi.temporary import Process
from dboxfs.store.names.codec import Line, LineKind, decode_lines, encode_line
from dboxfs.store.write import WriteOptions
from dboxfs.vfs.options import MountOptions
from tests.fuse.inside import aside, mounted
from tests.fuse_rw.rw import ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts


@both
@resynced
class TestNames:
    def test_a_name_stays(self, rw: Writable) -> None:
        awkward = ["with space", "50%", "ümläut", "new\nline", "%41", "-rf", "a:2,S", "x" * 255]
        for name in awkward:
            (rw.inbox / name).write_bytes(TWO + name.encode())
        for options in ("rw", "rw", "ro"):
            assert rw.names() == sorted(["1.eml", *awkward])
            for uid, name in enumerate(awkward, 2):
                assert (rw.inbox / name).read_bytes() == TWO + name.encode()
                assert not (rw.inbox / f"{uid}.eml").exists()
            rw.remount(options)

    def test_a_name_that_another_uid_would_have(self, rw: Writable) -> None:
        (rw.inbox / "3.eml").write_bytes(TWO)
        assert (rw.names(), rw.last().uid) == (["1.eml", "3.eml"], 2)
        rw.account.save(b"Subject: third\n\n")
        deadline = time.monotonic() + 5
        while len(rw.names()) < 3:
            assert time.monotonic() < deadline
        for _ in range(2):
            assert (rw.inbox / "3.eml").read_bytes() == TWO
            assert (rw.inbox / "uid-3.eml").read_bytes() == b"Subject: third\n\n"
            assert rw.names() == ["1.eml", "3.eml", "uid-3.eml"]
            rw.remount()
        (rw.inbox / "3.eml").unlink()
        assert rw.names() == ["1.eml", "3.eml"]
        assert (rw.inbox / "3.eml").read_bytes() == b"Subject: third\n\n"

    def test_a_restored_tree_overwrites_nothing(self, rw: Writable) -> None:
        tree = rw.tmp / "tree"
        tree.mkdir()
        for number in (5, 4, 3, 2, 1, 9, 8, 7):
            (tree / f"{number}.eml").write_bytes(TWO + b"%d\n" % number)
        expected = sorted(TWO + b"%d\n" % number for number in (1, 2, 3, 4, 5, 7, 8, 9))
        backwards = [tree / f"{number}.eml" for number in (9, 8, 7, 5, 4, 3, 2, 1)]
        rw.run("tar", "-C", tree, "-cf", rw.tmp / "tree.tar", *[path.name for path in backwards])
        commands: list[tuple[str, list[str | Path]]]
        commands = [("a", ["cp", *backwards, "a/"]), ("b", ["rsync", "-rt", f"{tree}/", "b/"]),
                             ("c", ["tar", "-C", "c", "-xf", rw.tmp / "tree.tar"]),
                             ("d", ["mv", *backwards, "d/"])]  # fmt: skip
        for box, command in commands:
            (rw.mnt / box).mkdir()
            rw.run(*command)
            assert sorted(rw.texts(box)) == expected, box
            assert rw.names(box) == [f"{number}.eml" for number in (1, 2, 3, 4, 5, 7, 8, 9)]
            for number in (1, 9):
                assert (rw.mnt / box / f"{number}.eml").read_bytes() == TWO + b"%d\n" % number

    def test_names_go_with_a_renamed_mailbox_and_end_with_a_deleted_one(self, rw: Writable) -> None:
        (rw.work / "mine").write_bytes(TWO)
        rw.account.doveadm("mailbox rename", "Work", "Play")
        rw.remount()
        assert rw.names("Play") == ["mine"]
        rw.account.doveadm("mailbox delete", "Play")
        rw.account.doveadm("mailbox create", "Play")
        rw.account.save(ONE, "Play")
        rw.remount()
        assert rw.names("Play") == ["1.eml"]

    def test_names_end_with_an_expunge_by_dovecot(self, rw: Writable) -> None:
        (rw.inbox / "mine").write_bytes(TWO)
        rw.account.doveadm("expunge", "mailbox", "INBOX", "uid", "2")
        rw.remount()
        assert rw.names() == ["1.eml"]
        (rw.inbox / "mine").write_bytes(ONE)
        assert rw.names() == ["1.eml", "mine"]

    def test_a_rename_over_a_message_keeps_flags_keywords_and_name(self, rw: Writable) -> None:
        rw.account.doveadm("flags add", r"\Seen $Label", "mailbox", "INBOX", "uid", "1")
        (rw.inbox / "mine").write_bytes(TWO)
        log = rw.account.root / "mailboxes/INBOX/dbox-Mails/dovecot.index.log"
        with (rw.inbox / "1.eml").open("rb") as old:
            size = log.stat().st_size
            (rw.inbox / "mine").rename(rw.inbox / "1.eml")
            written = log.read_bytes()[size:]
            assert old.read() == ONE
        message = rw.last()
        assert (message.uid, message.flags, message.keywords) == (2, r"\Seen", "$Label")
        assert (rw.texts(), rw.names()) == ([TWO], ["1.eml"])
        assert (rw.inbox / "1.eml").read_bytes() == TWO
        (found,) = (rw.account.root / "dboxfs-names").iterdir()
        lines = [line for _, line in decode_lines(found.read_bytes()) if line is not None]
        assert (lines[-1].uid, lines[-1].name, lines[-1].after) == (2, b"1.eml", 1)
        assert written.count(b"$Label") == 1
        rw.remount()
        assert rw.names() == ["1.eml"]

    def test_a_torn_line_is_left_out_and_the_file_mended(self, rw: Writable) -> None:
        (rw.inbox / "mine").write_bytes(TWO)
        (rw.inbox / "other").write_bytes(TWO)
        (file,) = (rw.account.root / "dboxfs-names").iterdir()
        rw.mounts.umount(rw.mnt)
        lines = [line for line in file.read_bytes().splitlines(keepends=True) if b" +" not in line]
        file.write_bytes(b"".join(lines)[:-3])
        rw.mnt = rw.mounts.mount(rw.account.location, "rw")
        assert rw.names() == ["1.eml", "3.eml", "mine"]
        (rw.inbox / "3.eml").rename(rw.inbox / "third")
        rw.remount()
        assert rw.names() == ["1.eml", "mine", "third"]

    def test_flags_keywords_and_subscriptions(self, rw: Writable) -> None:
        path = rw.inbox / "1.eml"
        os.setxattr(path, "user.dbox.flags", rb"\Seen \Flagged")
        os.setxattr(path, "user.dbox.keywords", b"$Label other")
        assert (rw.last().flags, rw.last().keywords) == (r"\Flagged \Seen", "$Label other")
        os.setxattr(path, "user.dbox.flags", b"")
        os.removexattr(path, "user.dbox.keywords")
        assert (rw.last().flags, rw.last().keywords) == ("", "")
        os.setxattr(rw.work, "user.dbox.subscribed", b"1")
        assert rw.account.subscriptions() == ["Work"]
        os.setxattr(rw.work, "user.dbox.subscribed", b"0")
        assert rw.account.subscriptions() == []
        for name, value, number in [
            ("user.dbox.flags", b"Seen", errno.EINVAL),
            ("user.dbox.flags", b"\xff", errno.EINVAL),
            ("user.dbox.uid", b"5", errno.EPERM),
            ("user.dbox.guid", b"other", errno.EPERM),
            ("user.dbox.unknown", b"", errno.EINVAL),
            ("user.other", b"", errno.EINVAL),
            ("trusted.other", b"", errno.EOPNOTSUPP),
        ]:
            with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is looked at
                os.setxattr(path, name, value)
            assert refused.value.errno == number
        with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EPERM):
            os.setxattr(rw.inbox, "user.dbox.uidvalidity", b"1")
        with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EINVAL):
            os.setxattr(rw.work, "user.dbox.subscribed", b"yes")
        assert rw.last().text == ONE


def test_lines_are_checked() -> None:
    said = [Line(7, 1, b"a b%\n\xff"), Line(7, 2, b"plain", 1, LineKind.ANNOUNCED, "17-0123abcd-4-5")]
    lines = [encode_line(line) for line in said]
    data = b"".join(lines)
    whole = [(len(lines[0]), said[0]), (len(data), said[1])]
    assert list(decode_lines(data)) == whole
    for end in range(len(lines[0]), len(data)):
        assert list(decode_lines(data[:end])) == whole[:1]
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        found = [line for _, line in decode_lines(bytes(damaged))]
        left = said[:1] if at >= len(lines[0]) else said[1:]
        assert [line for line in found if line] == ([] if at == len(lines[0]) - 1 else left)


@both
@resynced
@pytest.mark.parametrize("options", ["rw,fsync=never", "rw,eol=lf", "rw,alone"])
def test_options(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str, options: str) -> None:
    rw = Writable.make(dovecot, mounts, tmp_path, driver, options)
    (rw.inbox / "new").write_bytes(b"Subject: x\r\n\r\ntext\r\n")
    expected = b"Subject: x\n\ntext\n" if "eol" in options else b"Subject: x\r\n\r\ntext\r\n"
    assert rw.texts() == [ONE, expected]
    (rw.inbox / "1.eml").unlink()
    (rw.inbox / "new").rename(rw.work / "new")
    assert (rw.texts(), rw.texts("Work")) == ([], [expected])
    rw.settled()


@resynced
@pytest.mark.parametrize("driver", ["mdbox"])
@pytest.mark.parametrize("options", ["rw", "ro"])
def test_another_mount_sees_names_at_once(rw: Writable, options: str) -> None:
    other = rw.mounts.mount(rw.account.location, options) / "INBOX"

    def soon(expected: list[str]) -> None:
        deadline = time.monotonic() + 3
        while sorted(os.listdir(other)) != expected:
            assert time.monotonic() < deadline, os.listdir(other)
            time.sleep(0.01)

    (rw.inbox / "a").write_bytes(TWO)
    soon(["1.eml", "a"])
    assert (other / "a").read_bytes() == TWO
    (rw.inbox / "1.eml").rename(rw.inbox / "b")
    soon(["a", "b"])
    assert (other / "b").read_bytes() == ONE
    (rw.inbox / "b").rename(rw.inbox / "a")
    soon(["a"])
    assert (other / "a").read_bytes() == ONE
    if options == "rw":
        (other / "c").write_bytes(TWO)
        (other / "a").rename(other / "d")
        deadline = time.monotonic() + 3
        while rw.names() != ["c", "d"]:
            assert time.monotonic() < deadline, rw.names()
            time.sleep(0.01)
        (rw.inbox / "d").rename(rw.inbox / "e")
    rw.mounts.umount(other.parent)
    expected = rw.names()
    rw.remount()
    assert rw.names() == expected == (["c", "e"] if options == "rw" else ["a"])


@both
@resynced
@pytest.mark.expected_log("SIGKILL")
def test_kill_9_of_the_daemon(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> None:
    rw = Writable.make(dovecot, mounts, tmp_path, driver)
    mounts.umount(rw.mnt)
    with mounts.foreground(rw.account.location, "-o", "rw") as (mnt, daemon):
        (mnt / "INBOX" / "whole").write_bytes(TWO)
        (mnt / "INBOX" / ".temporary").write_bytes(TWO)
        file = (mnt / "INBOX" / "half").open("wb", buffering=0)
        file.write(TWO * 20_000)
        os.fsync(file.fileno())
        synced = (mnt / "INBOX" / "synced").open("wb", buffering=0)
        synced.write(TWO)
        os.fsync(synced.fileno())
        daemon.kill()
        daemon.wait()
        with pytest.RaisesExc(OSError):
            file.write(TWO)
        for left in (file, synced):
            with pytest.RaisesExc(OSError):
                left.close()
        mounts.umount(mnt)
    directories = [path.parent for path in rw.account.root.rglob(".temp.*")]
    assert len(directories) == 2, "nothing is left over"
    mine = Process.this().temporary_name(1)
    others = [
        mine,
        mine.replace(f".{mine.split('.')[-2]}.", ".elsewhere."),
        ".temp.1700000000.P99999Q1M1.host",
    ]
    for name in others:
        (directories[0] / name).write_bytes(b"another's")
    rw.mnt = mounts.mount(rw.account.location, "rw")
    deadline = time.monotonic() + 3
    while sorted(path.name for path in rw.account.root.rglob(".temp.*")) != sorted(others):
        assert time.monotonic() < deadline, list(rw.account.root.rglob(".temp.*"))
        time.sleep(0.01)
    assert (rw.names(), rw.texts()) == (["1.eml", "whole"], [ONE, TWO])
    (rw.inbox / "after").write_bytes(ONE)
    assert rw.texts() == [ONE, TWO, ONE]
    rw.settled()


@resynced
async def test_a_rename_that_fails_leaves_both_names(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(ONE)
    account.save(TWO)
    fault = Fault("open_shared", 1, path="INBOX/dbox-Mails/dovecot.index.log", error=errno.EIO)
    driver = FaultsDriver(ThreadsDriver(workers=4), [fault])
    options = MountOptions(write=WriteOptions())
    async with mounted(account, tmp_path / "mnt", driver=driver, options=options) as mnt:
        one, two = mnt / "INBOX" / "1.eml", mnt / "INBOX" / "2.eml"

        def texts() -> dict[str, bytes]:
            return {path.name: path.read_bytes() for path in (mnt / "INBOX").iterdir()}

        with pytest.RaisesExc(OSError, check=lambda error: error.errno == errno.EIO):
            await aside(lambda: two.rename(one))
        assert await aside(texts) == {"1.eml": ONE, "2.eml": TWO}
        await aside(one.unlink)
        assert await aside(texts) == {"2.eml": TWO}
        await aside(lambda: two.rename(one))
        assert await aside(texts) == {"1.eml": TWO}
    assert [message.text for message in account.fetch()] == [TWO]
