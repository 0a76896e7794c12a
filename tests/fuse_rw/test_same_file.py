"""Several who write, rename, link and remove the same file: no bytes vanish, no message is destroyed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dboxfs.store.write import WriteOptions
from dboxfs.vfs.options import MountOptions
from tests.fuse.inside import aside, mounted, soon
from tests.fuse_rw.rw import JULY, ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot

MORE = b"more\n"
OTHER = b"Subject: other\n\nof somebody else\n"


@contextmanager
def another(path: Path, data: bytes, mode: str = "wb", times: int = 1) -> Iterator[None]:
    """Another process has *path* open and has written *data*; it closes it in the end."""
    script = (
        "import os, sys; path, mode, data, times = sys.argv[1:]; f = open(path, mode, 0); "
        "f.write(os.fsencode(data) * int(times)); print(flush=True); sys.stdin.readline(); f.close()"
    )
    command = ["python3", "-I", "-c", script, str(path), mode, os.fsdecode(data), str(times)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield
        process.communicate(b"\n", timeout=20)
        assert process.returncode == 0


def text(path: Path) -> bytes:
    return path.read_bytes()


@both
@resynced
class TestWhoWritesIt:
    def test_all_that_is_appended_is_there(self, rw: Writable) -> None:
        rw.sh("for i in 1 2 3 4; do (echo line$i >> INBOX/log) & done; wait")
        assert sorted(text(rw.inbox / "log").split()) == [b"line1", b"line2", b"line3", b"line4"]
        with another(rw.inbox / "1.eml", b"a\n", "ab"), another(rw.inbox / "1.eml", b"b\n", "ab"):
            rw.sh("echo c >> INBOX/1.eml")
        assert text(rw.inbox / "1.eml") == ONE + b"c\nb\na\n"
        large = b"x" * 70 + b"\n"
        with another(rw.inbox / "1.eml", large, "ab", 8000):
            rw.sh("echo d >> INBOX/1.eml")
        assert text(rw.inbox / "1.eml") == ONE + b"c\nb\na\nd\n" + large * 8000
        assert rw.names() == ["1.eml", "log"]

    def test_a_message_that_is_renamed_or_moved_goes_on_being_written(self, rw: Writable) -> None:
        with another(rw.inbox / "1.eml", MORE, "ab"):
            (rw.inbox / "1.eml").rename(rw.inbox / "named")
        assert (rw.names(), text(rw.inbox / "named")) == (["named"], ONE + MORE)
        with another(rw.inbox / "named", MORE, "ab"):
            (rw.inbox / "named").rename(rw.work / "moved")
        assert (rw.names(), rw.names("Work")) == ([], ["moved"])
        assert text(rw.work / "moved") == ONE + MORE + MORE

    def test_a_message_that_is_removed_is_not_there_again(self, rw: Writable) -> None:
        with another(rw.inbox / "1.eml", MORE, "ab"):
            (rw.inbox / "1.eml").unlink()
        assert (rw.names(), rw.texts()) == ([], [])

    def test_what_was_written_outlasts_an_expunge_by_somebody_else(self, rw: Writable) -> None:
        with another(rw.inbox / "1.eml", MORE, "ab"):
            rw.account.doveadm("expunge", "mailbox", "INBOX", "all")
            time.sleep(0.1)
        assert (rw.names(), rw.texts()) == (["1.eml"], [ONE + MORE])

    def test_a_message_under_a_name_with_a_dot_is_a_message(self, rw: Writable) -> None:
        (rw.inbox / "1.eml").rename(rw.inbox / ".hidden")
        rw.sh("echo more >> INBOX/.hidden")
        assert (text(rw.inbox / ".hidden"), rw.texts()) == (ONE + MORE, [ONE + MORE])
        (rw.inbox / ".hidden").write_bytes(TWO)
        assert (rw.names(), rw.texts()) == ([".hidden"], [TWO])
        assert list(rw.account.root.rglob(".temp.*")) == []

    def test_writing_on_after_a_temporary_was_linked_changes_the_message(self, rw: Writable) -> None:
        with open(rw.inbox / ".new", "wb", buffering=0) as file:
            file.write(TWO)
            os.link(rw.inbox / ".new", rw.inbox / "new")
            assert text(rw.inbox / "new") == TWO
            file.write(MORE)
        assert text(rw.inbox / "new") == TWO + MORE
        os.rename(rw.inbox / ".new", rw.inbox / "again")
        assert (rw.names(), text(rw.inbox / "again")) == (["1.eml", "again"], TWO + MORE)

    def test_a_file_that_is_written_is_not_linked(self, rw: Writable) -> None:
        with open(rw.inbox / "new", "wb", buffering=0) as file:
            file.write(TWO[:9])
            with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
                os.link(rw.inbox / "new", rw.inbox / "other")
            file.write(TWO[9:])
        assert (rw.names(), rw.texts()) == (["1.eml", "new"], [ONE, TWO])

    @pytest.mark.parametrize("mode", ["wb", "ab"])
    def test_a_message_that_is_written_over_is_what_it_was_for_others(self, rw: Writable, mode: str) -> None:
        def asked() -> int:
            requests: dict[str, int] = json.loads((rw.mnt / ".dboxfs/stats.json").read_text())["requests"]
            return requests["getattr"]

        path = rw.inbox / "1.eml"
        with another(path, MORE, mode):
            before = asked()
            for _ in range(5):  # whatever the kernel has made of the size meanwhile
                assert (path.stat().st_size, text(path)) == (len(ONE), ONE)
            assert asked() >= before + 5
            (there,) = os.scandir(rw.inbox)
            assert there.stat().st_size == len(ONE)

    def test_a_date_that_is_set_while_a_message_is_written_over_stays(self, rw: Writable) -> None:
        source = rw.file("source", TWO, JULY)
        rw.run("cp", "-p", source, rw.inbox / "1.eml")
        assert int((rw.inbox / "1.eml").stat().st_mtime) == JULY
        assert [(m.uid, m.received, m.text) for m in rw.account.fetch()] == [(2, JULY, TWO)]


@both
@resynced
class TestWhoGetsItsName:
    @pytest.mark.parametrize("temporary", [False, True])
    def test_a_file_that_is_given_the_name_of_one_being_written_stays(
        self, rw: Writable, temporary: bool
    ) -> None:
        name = ".tmp" if temporary else "other"
        (rw.inbox / name).write_bytes(OTHER)
        with another(rw.inbox / "new", TWO):
            (rw.inbox / name).rename(rw.inbox / "new")
            assert text(rw.inbox / "new") == OTHER
        assert text(rw.inbox / "new") == OTHER
        assert sorted(rw.texts()) == sorted([ONE, OTHER, TWO])
        assert len(rw.names()) == 3

    def test_so_does_one_that_takes_the_place_of_a_message_being_written(self, rw: Writable) -> None:
        (rw.inbox / "other").write_bytes(OTHER)
        with another(rw.inbox / "1.eml", MORE, "ab"):
            (rw.inbox / "other").rename(rw.inbox / "1.eml")
        assert text(rw.inbox / "1.eml") == OTHER
        assert sorted(rw.texts()) == sorted([OTHER, ONE + MORE])

    @pytest.mark.parametrize("where", ["INBOX", "Work"])
    def test_nor_at_the_moment_in_which_it_is_closed(self, rw: Writable, where: str) -> None:
        (rw.inbox / "it").write_bytes(ONE)
        for n in range(12):
            heir = b"Subject: heir %d\n\nits text\n" % n
            (rw.mnt / where / "heir").write_bytes(heir)
            fd = os.open(rw.inbox / "it", os.O_WRONLY | (os.O_TRUNC if n % 2 else os.O_APPEND))
            os.write(fd, b"Subject: written %d\n\n" % n)
            closing = threading.Thread(target=os.close, args=(fd,))
            closing.start()
            time.sleep(n / 2000)
            (rw.mnt / where / "heir").rename(rw.inbox / "it")
            closing.join()
            assert text(rw.inbox / "it") == heir, n
        assert heir in rw.texts()

    def test_two_mounts_that_make_the_same_file_keep_both(self, rw: Writable) -> None:
        mnt = rw.mounts.mount(rw.account.location, "rw")
        with open(rw.inbox / "new", "xb") as one, open(mnt / "INBOX" / "new", "xb") as two:
            one.write(TWO)
            two.write(OTHER)
        assert sorted(rw.texts()) == sorted([ONE, TWO, OTHER])
        assert len(rw.names()) == 3

    def test_who_does_not_see_a_file_does_not_change_it(self, rw: Writable) -> None:
        with another(rw.inbox / "new", TWO):
            rw.sh("mv INBOX/new INBOX/x", status=1)
            rw.sh("rm INBOX/new", status=1)
            (rw.inbox / "1.eml").rename(rw.inbox / "new")
            rw.run("rm", rw.inbox / "new")
            assert rw.names() == []
        assert rw.texts() == [TWO]

    def test_a_file_that_must_not_be_replaced_is_not_by_a_rename_either(self, rw: Writable) -> None:
        with another(rw.inbox / "new", TWO):
            rw.sh("mv -n INBOX/1.eml INBOX/new || true")
            with pytest.raises(FileExistsError):
                os.close(os.open(rw.inbox / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        assert (rw.names(), rw.texts()) == (["1.eml", "new"], [ONE, TWO])


@both
@resynced
class TestItsMailbox:
    def test_a_mailbox_that_is_renamed_takes_the_files_along(self, rw: Writable) -> None:
        (rw.work / "old").write_bytes(ONE)
        with another(rw.work / "new", TWO), another(rw.work / "old", MORE, "ab"):
            rw.work.rename(rw.mnt / "Play")
        assert rw.names("Play") == ["new", "old"]
        assert (text(rw.mnt / "Play" / "new"), text(rw.mnt / "Play" / "old")) == (TWO, ONE + MORE)
        with another(rw.mnt / "Play" / "third", TWO):
            rw.account.doveadm("mailbox rename", "Play", "Else")
        assert text(rw.mnt / "Else" / "third") == TWO

    def test_a_mailbox_that_was_made_again_is_another_one(self, rw: Writable) -> None:
        script = "exec 3> Work/new; echo text >&3; read; exec 3>&-"
        with subprocess.Popen(["bash", "-c", script], cwd=rw.mnt, stdin=subprocess.PIPE) as process:
            deadline = time.monotonic() + 5
            while "3" not in os.listdir(f"/proc/{process.pid}/fd") and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
            rw.account.doveadm("mailbox delete", "Work")
            rw.account.doveadm("mailbox create", "Work")
            time.sleep(0.2)
            process.communicate(b"\n", timeout=20)
        assert (rw.names("Work"), rw.texts("Work")) == ([], [])

    def test_a_message_whose_name_a_mailbox_takes_can_be_removed(self, rw: Writable) -> None:
        (rw.work / "foo").write_bytes(TWO)
        assert (rw.work / "foo").is_file()
        rw.account.doveadm("mailbox create", "Work/foo")
        deadline = time.monotonic() + 1
        while not (rw.work / "foo").is_dir():
            assert time.monotonic() < deadline, "the kernel believes that it is a file"
            time.sleep(0.01)
        assert rw.names("Work") == ["1.eml", "foo"]
        (rw.work / "1.eml").unlink()
        assert (rw.names("Work"), rw.texts("Work")) == (["foo"], [])

    def test_inbox_has_one_name(self, rw: Writable) -> None:
        for name in ("inbox", "Inbox"):
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                (rw.mnt / name).mkdir()
        (rw.work / "inbox").mkdir()


@both
@resynced
def test_keywords_are_checked_before_the_commit(rw: Writable) -> None:
    with open(rw.inbox / ".new", "wb") as file:
        file.write(TWO)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        os.setxattr(rw.inbox / ".new", "user.dbox.keywords", b"k(1")
    os.setxattr(rw.inbox / ".new", "user.dbox.flags", rb"\Seen")
    assert os.getxattr(rw.inbox / ".new", "user.dbox.flags") == rb"\Seen"
    assert os.listxattr(rw.inbox / ".new") == ["user.dbox.flags"]
    (rw.inbox / ".new").rename(rw.inbox / "new")
    assert rw.last().flags == "\\Seen"


@both
@resynced
def test_names_that_are_taken_are_shown_once(rw: Writable) -> None:
    for name in ("4.eml", "uid-4.eml"):
        (rw.inbox / name).write_bytes(TWO)
    rw.account.save(OTHER)
    deadline = time.monotonic() + 2
    while len(rw.names()) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rw.names() == ["1.eml", "4.eml", "uid-4.eml", "uid-uid-4.eml"]
    assert text(rw.inbox / "uid-uid-4.eml") == OTHER


WAYS = {
    "append": "f = open(name, 'ab'); f.write(b'more\\n'); f.close()",
    "over": "open('INBOX/other', 'wb').write(b'other\\n'); os.rename('INBOX/other', name)",
    "temporary": "open('INBOX/.new', 'wb').write(b'new\\n'); os.rename('INBOX/.new', name)",
    "touch": "os.utime(name, (n, n))",
    "move": "open('Work/other', 'wb').write(b'other\\n'); os.rename('Work/other', name)",
}


@both
@resynced
@pytest.mark.parametrize("way", WAYS)
def test_a_name_is_there_while_what_it_stands_for_is_replaced(rw: Writable, way: str) -> None:
    path, missing, opened = rw.inbox / "it", [], 0
    path.write_bytes(TWO)
    ended = threading.Event()

    def read() -> None:
        nonlocal opened
        while not ended.is_set():
            try:
                with open(path, "rb") as file:
                    assert file.read()
                assert path.stat().st_size
                assert "it" in os.listdir(rw.inbox)
                opened += 1
            except FileNotFoundError as exc:
                missing.append(exc)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    script = f"import os\nfor n in range(100, 125):\n name = 'INBOX/it'; {WAYS[way]}"
    try:
        rw.run("python3", "-I", "-c", script)
    finally:
        ended.set()
        for reader in readers:
            reader.join(20)
    assert missing == []
    assert opened > 25


async def test_an_empty_temporary_that_gets_its_name_is_there_for_who_made_it(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.save(ONE)
    async with mounted(account, tmp_path / "mnt", options=MountOptions(write=WriteOptions())) as mnt:
        new = mnt / "INBOX" / ".new"
        await aside(lambda: new.write_bytes(b""))
        await soon(lambda: new.exists())
        await aside(lambda: new.rename(mnt / "INBOX" / "empty"))
        assert await aside(lambda: (mnt / "INBOX" / "empty").stat().st_size) == 0
        assert await aside(lambda: os.listdir(mnt / "INBOX")) == ["1.eml"]
