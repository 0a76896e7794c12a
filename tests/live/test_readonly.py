"""Read-only means read-only: the daemon makes no call that could change the store, and needs none."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected, Tally, assert_shows, assert_shows_soon
from tests.live.mounts import Mounts

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])

# Every system call that changes a file or a directory, or opens one.
_CALLS = (
    "open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,"
    "symlink,symlinkat,mknod,mknodat,truncate,ftruncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,"
    "fchownat,utime,utimes,utimensat,futimesat,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,"
    "fremovexattr,pwrite64,pwritev,pwritev2,copy_file_range,flock,io_uring_setup"
)
_OPEN = re.compile(r"\b(open|openat|openat2)\(")
_WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND|O_TMPFILE")


def made_by(dovecot: Dovecot, driver: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail", zlib_save="zstd")
    account.append(corpus.with_flags(corpus.real()))
    account.doveadm("mailbox create", "Work/Sub")
    account.doveadm("copy", "Work/Sub", "mailbox", "INBOX", "uid", "1:30")
    return account


@both
def test_no_system_call_changes_the_store(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, tmp_path: Path, driver: str
) -> None:
    account = made_by(dovecot, driver)
    # -ff: a file for each thread, so that no call is torn into two lines.
    strace = ("strace", "-ff", "-y", "-s", "4096", "-o", str(tmp_path / "trace"), "-e", f"trace={_CALLS}")
    with mounts.foreground(account.location, prefix=strace) as (mnt, _):
        assert_shows(mnt, Expected.of(account), tally)
        account.append([Append(b"Subject: more\n\nmore\n")] * 3, "Work/Sub")
        account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:5")
        account.purge()
        assert_shows_soon(account, mnt, tally)
    calls = [line for path in tmp_path.glob("trace.*") for line in path.read_text().splitlines()]
    lines = [line for line in calls if str(account.home) in line]
    opened = [line for line in lines if _OPEN.search(line)]
    assert len(opened) > 10
    assert [line for line in opened if _WRITING.search(line)] == []
    assert [line for line in lines if not _OPEN.search(line)] == []


@pytest.fixture
def read_only_bind() -> Iterator[Callable[[Path], Path]]:
    made = []

    def bind(source: Path) -> Path:
        target = source.parent / "bound"
        target.mkdir()
        subprocess.run(["mount", "--bind", source, target], check=True)
        made.append(target)
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        return target

    yield bind
    for target in made:
        subprocess.run(["umount", "-l", target], check=True)


@both
def test_a_store_on_a_read_only_file_system(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, read_only_bind: Callable[[Path], Path], driver: str
) -> None:
    account = made_by(dovecot, driver)
    expected = Expected.of(account)
    bound = read_only_bind(account.root)
    with pytest.raises(OSError, match="Read-only"):
        (bound / "probe").touch()
    assert_shows(mounts.mount(bound), expected, tally)


@both
def test_reading_everything_leaves_the_store_as_it_was(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str
) -> None:
    account = made_by(dovecot, driver)
    expected = Expected.of(account)
    before = fingerprint(account.home)
    mnt = mounts.mount(account.location)
    assert_shows(mnt, expected, tally)
    mounts.umount(mnt)
    assert fingerprint(account.home) == before


def fingerprint(root: Path) -> dict[str, tuple[int, ...] | str]:
    """Of every file and directory: all that a stat tells but the access time, and the content."""
    found: dict[str, tuple[int, ...] | str] = {}
    for path in [root, *root.rglob("*")]:
        st = path.lstat()
        found[str(path)] = (st.st_ino, st.st_mode, st.st_nlink, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        if path.is_file():
            found[f"{path} content"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _open_to_write(inbox: Path) -> None:
    os.close(os.open(inbox / "1.eml", os.O_WRONLY))


CHANGES: dict[str, Callable[[Path], object]] = {
    "open for writing": _open_to_write,
    "truncate": lambda inbox: os.truncate(inbox / "1.eml", 0),
    "create": lambda inbox: (inbox / "new.eml").touch(),
    "mkdir": lambda inbox: (inbox / "new").mkdir(),
    "unlink": lambda inbox: (inbox / "1.eml").unlink(),
    "rmdir": lambda inbox: (inbox.parent / "Work" / "Sub").rmdir(),
    "rename": lambda inbox: (inbox / "1.eml").rename(inbox / "x.eml"),
    "rename a mailbox": lambda inbox: (inbox.parent / "Work").rename(inbox.parent / "Play"),
    "link": lambda inbox: os.link(inbox / "1.eml", inbox / "x.eml"),
    "symlink": lambda inbox: os.symlink("1.eml", inbox / "x.eml"),
    "chmod": lambda inbox: (inbox / "1.eml").chmod(0o777),
    "chown": lambda inbox: os.chown(inbox / "1.eml", 0, 0),
    "utime": lambda inbox: os.utime(inbox / "1.eml", (0, 0)),
    "setxattr": lambda inbox: os.setxattr(inbox / "1.eml", "user.dbox.flags", rb"\Seen"),
    "removexattr": lambda inbox: os.removexattr(inbox / "1.eml", "user.dbox.flags"),
    "mknod": lambda inbox: os.mkfifo(inbox / "fifo"),
}


def errno_of(change: Callable[[Path], object], inbox: Path) -> int | None:
    try:
        change(inbox)
    except OSError as exc:
        return exc.errno
    return None


def test_every_change_through_the_mount_is_refused(dovecot: Dovecot, mounts: Mounts) -> None:
    account = made_by(dovecot, "mdbox")
    before = fingerprint(account.home)
    mnt = mounts.mount(account.location)
    for name, change in CHANGES.items():
        assert errno_of(change, mnt / "INBOX") == errno.EROFS, name
    assert fingerprint(account.home) == before


def test_modes_and_owner(dovecot: Dovecot, mounts: Mounts) -> None:
    account = made_by(dovecot, "sdbox")
    owner = account.root.stat()
    inbox = mounts.mount(account.location) / "INBOX"
    assert (inbox / "1.eml").stat().st_mode & 0o7777 == 0o400
    assert inbox.stat().st_mode & 0o7777 == 0o500
    assert {(path.stat().st_uid, path.stat().st_gid) for path in inbox.iterdir()} == {
        (owner.st_uid, owner.st_gid)
    }
    other = mounts.mount(account.location, "uid=1234,gid=4321,umask=0377") / "INBOX" / "1.eml"
    assert (other.stat().st_uid, other.stat().st_gid, other.stat().st_mode & 0o7777) == (1234, 4321, 0o400)
