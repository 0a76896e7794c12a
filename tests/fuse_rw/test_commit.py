"""When written bytes become a message, when they don't, and what nobody ever sees."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.fuse_rw.rw import JULY, LONG, ONE, TWO, Writable, both, resynced

pytestmark = [both, resynced]


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == number)


def test_nothing_shows_before_the_last_close(rw: Writable) -> None:
    with (rw.inbox / "new").open("wb", buffering=0) as file:
        for piece in (TWO[:5], TWO[5:]):
            file.write(piece)
            os.close(os.dup(file.fileno()))
            subprocess.run(["true"], check=True, pass_fds=[file.fileno()])
            assert rw.names() == ["1.eml"]
            assert rw.texts() == [ONE]
            assert subprocess.run(["test", "-e", rw.inbox / "new"], check=False).returncode == 1
        os.fsync(file.fileno())
        assert rw.texts() == [ONE]
    assert rw.texts() == [ONE, TWO]


def test_a_writer_that_ends_without_close(rw: Writable) -> None:
    long = rw.file("long", LONG)
    rw.sh(f"exec > INBOX/new; printf 'Subject: x\\n\\n'; /bin/echo a; echo b; cat {long}")
    assert rw.texts() == [ONE, b"Subject: x\n\na\nb\n" + LONG]


def test_a_killed_writer_leaves_nothing(rw: Writable) -> None:
    writer = subprocess.Popen(["bash", "-c", "exec 3> INBOX/new; echo half >&3; echo; read"], cwd=rw.mnt,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert (rw.texts(), rw.names()) == ([ONE], ["1.eml"])


def test_bytes_after_a_commit_make_a_replacement(rw: Writable) -> None:
    script = "exec 3> INBOX/new; echo one >&3; exec 4>&3; (exec 3>&- 4>&-); exec 3>&-; echo two >&4"
    rw.sh(script)
    assert rw.last().text == b"one\ntwo\n"
    child = rw.inbox / "child"
    code = (
        "import os, sys, time\n"
        f"fd = os.open({str(child)!r}, os.O_WRONLY | os.O_CREAT)\n"
        "os.write(fd, b'first ')\n"
        "if os.fork() == 0:\n"
        "    time.sleep(0.3); os.write(fd, b'second'); os._exit(0)\n"
        "os.close(fd); os.wait()\n"
    )
    rw.run("python3", "-c", code)
    assert (rw.texts()[1:], rw.names()) == ([b"one\ntwo\n", b"first second"], ["1.eml", "child", "new"])


def test_an_empty_file_is_no_message(rw: Writable) -> None:
    (rw.inbox / "new").write_bytes(b"")
    (rw.inbox / ".new").write_bytes(b"")
    (rw.inbox / ".new").rename(rw.inbox / "new")
    (rw.inbox / "1.eml").open("wb").close()
    assert (rw.texts(), rw.names()) == ([ONE], ["1.eml"])


def test_a_name_with_a_dot_is_a_temporary_until_it_is_renamed(rw: Writable) -> None:
    temporary = rw.inbox / ".new"
    temporary.write_bytes(TWO)
    os.utime(temporary, (JULY, JULY))
    os.setxattr(temporary, "user.dbox.keywords", b"$Draft other")
    assert (temporary.read_bytes(), temporary.stat().st_size) == (TWO, len(TWO))
    assert (rw.names(), rw.texts()) == (["1.eml"], [ONE])
    temporary.rename(rw.inbox / ".other")
    (rw.inbox / ".other").rename(rw.work / "final")
    assert (rw.texts(), rw.texts("Work"), rw.names("Work")) == ([ONE], [TWO], ["final"])
    assert (rw.last("Work").received, rw.last("Work").keywords) == (JULY, "$Draft other")
    temporary.write_bytes(LONG)
    temporary.unlink()
    assert not temporary.exists()
    temporary.write_bytes(LONG)
    rw.remount()
    assert not (rw.inbox / ".new").exists()
    left = [name for _, _, names in os.walk(rw.account.root) for name in names if name.startswith(".temp.")]
    assert left == []


def test_a_rename_that_is_refused_changes_nothing(rw: Writable) -> None:
    temporary = rw.inbox / ".new"
    temporary.write_bytes(b"\x1f\x8b\x08 not compressed")
    for _ in range(2):
        with refused(errno.EINVAL):
            temporary.rename(rw.inbox / "new")
    assert (rw.names(), temporary.read_bytes()) == (["1.eml"], b"\x1f\x8b\x08 not compressed")
    temporary.write_bytes(TWO)
    temporary.rename(rw.inbox / "new")
    assert rw.texts() == [ONE, TWO]


def test_link_commits_a_temporary(rw: Writable) -> None:
    (rw.inbox / ".new").write_bytes(TWO)
    os.link(rw.inbox / ".new", rw.inbox / "new")
    (rw.inbox / ".new").unlink()
    assert (rw.texts(), rw.names()) == ([ONE, TWO], ["1.eml", "new"])


@pytest.mark.parametrize("offset", [3, len(ONE) + 1])
def test_writing_elsewhere_than_at_the_end(rw: Writable, offset: int) -> None:
    text = ONE[:offset].ljust(offset, b"\0") + b"xyz" + ONE[offset + 3 :]
    descriptor = os.open(rw.inbox / "1.eml", os.O_RDWR)
    os.pwrite(descriptor, b"xyz", offset)
    assert os.pread(descriptor, 100, 0) == text
    assert rw.texts() == [ONE]
    os.close(descriptor)
    assert (rw.texts(), rw.last().uid) == ([text], 2)
    descriptor = os.open(rw.inbox / "new", os.O_WRONLY | os.O_CREAT)
    os.pwrite(descriptor, b"end", offset + 9)
    os.pwrite(descriptor, b"begin", 0)
    assert os.lseek(descriptor, 0, os.SEEK_END) == offset + 12
    os.write(descriptor, b"more")
    os.close(descriptor)
    assert rw.last().text == b"begin".ljust(offset + 9, b"\0") + b"endmore"


def test_too_many_zeros_are_refused_and_the_file_goes_on(rw: Writable) -> None:
    descriptor = os.open(rw.inbox / "1.eml", os.O_WRONLY)
    with refused(errno.EFBIG):
        os.pwrite(descriptor, b"x", 1 << 40)
    with refused(errno.EFBIG):
        os.truncate(descriptor, 1 << 41)
    os.close(descriptor)
    assert (rw.texts(), rw.last().uid) == ([ONE], 1)


def test_only_the_beginning_written_over(rw: Writable) -> None:
    descriptor = os.open(rw.inbox / "1.eml", os.O_WRONLY)
    os.write(descriptor, b"SUB")
    os.close(descriptor)
    assert rw.texts() == [b"SUB" + ONE[3:]]
    os.truncate(rw.inbox / "1.eml", 3)
    assert (rw.texts(), rw.last().uid) == ([b"SUB"], 3)
    os.truncate(rw.inbox / "1.eml", 0)
    assert (rw.texts(), rw.last().uid) == ([b"SUB"], 3)


def test_a_replacement_keeps_flags_keywords_and_name(rw: Writable) -> None:
    rw.account.doveadm("flags add", r"\Seen $Label", "mailbox", "INBOX", "uid", "1")
    with (rw.inbox / "1.eml").open("r+b") as old, (rw.inbox / "1.eml").open("wb", buffering=0) as file:
        file.write(TWO[:9])
        assert old.read() == ONE
        assert subprocess.run(["cat", "1.eml"], cwd=rw.inbox, capture_output=True, check=True).stdout == ONE
        file.write(TWO[9:])
    assert (rw.inbox / "1.eml").read_bytes() == TWO
    assert (rw.inbox / "1.eml").stat().st_size == len(TWO)
    message = rw.last()
    assert (message.uid, message.flags, message.keywords) == (2, r"\Seen", "$Label")
    assert (rw.names(), rw.texts()) == (["1.eml"], [TWO])


def test_what_one_descriptor_cuts_to_nothing_is_cut_for_what_the_process_writes_through_another(
    rw: Writable,
) -> None:
    path = rw.inbox / "1.eml"
    with path.open("r+b", buffering=0) as file:
        path.open("wb").close()
        assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == ONE
        file.write(b"Subject: x\n\n")
    assert (rw.names(), rw.texts()) == (["1.eml"], [b"Subject: x\n\n"])
    with path.open("r+b", buffering=0) as file:
        rw.sh(": > INBOX/1.eml")
        file.write(b"Subject: Y")
    assert rw.texts() == [b"Subject: Y\n\n"], "another process has cut it: there is no empty message"


def test_a_replaced_message_is_shown_at_once(rw: Writable) -> None:
    path = rw.inbox / "mine"
    for number in range(30):
        data = b"Subject: s\n\n" + b"x" * number + b"\n"
        path.write_bytes(data)
        assert (path.stat().st_size, path.read_bytes()) == (len(data), data)
        os.utime(path, (JULY + number, JULY + number))
        assert path.stat().st_mtime == JULY + number
        assert path.read_bytes() == data
    assert len(rw.texts()) == 2


def test_what_dovecot_would_take_for_compressed(rw: Writable) -> None:
    with refused(errno.EINVAL), (rw.inbox / "new").open("wb") as file:
        file.write(b"\x1f\x8b\x08 not compressed")
    assert (rw.texts(), rw.names()) == ([ONE], ["1.eml"])


def test_where_no_message_can_be(rw: Writable) -> None:
    with refused(errno.EPERM):
        (rw.mnt / "file").write_bytes(TWO)
    with refused(errno.EISDIR):
        (rw.mnt / "Work").write_bytes(TWO)
    with refused(errno.ENAMETOOLONG):
        (rw.inbox / ("x" * 256)).write_bytes(TWO)
    with refused(errno.EEXIST):
        os.open(rw.inbox / "1.eml", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with refused(errno.EPERM):
        os.symlink("1.eml", rw.inbox / "link")


def test_a_large_message_streams(rw: Writable) -> None:
    daemon = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(rw.mnt).encode() in _command(entry)
    )
    before = _high_water(daemon)
    piece = b"0123456789abcde\n" * (1 << 16)
    with (rw.inbox / "large").open("wb") as file:
        for _ in range(200):
            file.write(piece)
    assert (rw.inbox / "large").stat().st_size == 200 << 20
    assert _high_water(daemon) - before < 60 << 10
    assert rw.last().physical_size == 200 << 20
    (rw.inbox / "large").unlink()


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _high_water(pid: int) -> int:
    """The most memory the process has had, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_many_writers_and_an_imap_session(rw: Writable) -> None:
    imap = rw.account.imap()
    imap.select("INBOX")

    def write(writer: int) -> None:
        for number in range(10):
            (rw.inbox / f"w{writer}-{number}").write_bytes(b"Subject: %d %d\n\nx\n" % (writer, number))
            if number % 3 == 0:
                (rw.inbox / f"w{writer}-{number}").unlink()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for number in range(10):
        imap.append("INBOX", "", None, b"Subject: imap %d\r\n\r\nx\r\n" % number)
    for thread in threads:
        thread.join()
    imap.noop()
    kept = {b"Subject: %d %d\n\nx\n" % (w, n) for w in range(8) for n in range(10) if n % 3}
    assert sorted(rw.texts()) == sorted([ONE, *kept, *(b"Subject: imap %d\n\nx\n" % n for n in range(10))])
    assert imap.select("INBOX")[1] == [str(len(kept) + 11).encode()]
    imap.logout()
    deadline = time.monotonic() + 5
    while len(rw.names()) != len(kept) + 11:
        assert time.monotonic() < deadline, rw.names()
        time.sleep(0.05)
