"""The tools that people point at a mount: tar, rsync, cp, find, grep, du, less, md5sum, getfattr.

What they must find is taken from Dovecot: the bytes, sizes and dates of every message.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Append, Dovecot, Fetched
from tests.live.mounts import Mounts, xattrs


@dataclass(slots=True)
class Shown:
    """A mounted store and what Dovecot says is in it, by path below the mountpoint."""

    mnt: Path
    location: str
    messages: dict[str, Fetched]

    def check_copy(self, copy: Path) -> None:
        """A copy of the tree holds exactly the messages, byte for byte, with their received dates."""
        found = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
        assert found == set(self.messages)
        for name, message in self.messages.items():
            assert (copy / name).read_bytes() == message.text, name
            assert (copy / name).stat().st_mtime == message.received, name


def tool(*args: str | Path, cwd: Path | None = None) -> bytes:
    """Run a program that must end well and say nothing on stderr; returns its output."""
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(args, capture_output=True, cwd=cwd, timeout=120, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b""), f"{args}: {done.returncode}: {done.stderr!r}"
    return done.stdout


@pytest.fixture(scope="module", params=["sdbox", "mdbox"])
def filled(dovecot_daemon: Dovecot, request: pytest.FixtureRequest) -> tuple[str, dict[str, Fetched]]:
    """A store that none of these tests changes, and what Dovecot says is in it."""
    logged = len(dovecot_daemon.log_lines())
    account = dovecot_daemon.account(f"{request.param}:{{home}}/mail", zlib_save="gz")
    account.append(corpus.with_flags(corpus.real()))
    account.append([Append(data) for data in corpus.nasty().values()])
    account.doveadm("mailbox create", "Entwürfe/2026")
    account.doveadm("mailbox create", "Work")
    account.doveadm("copy", "Entwürfe/2026", "mailbox", "INBOX", "uid", "10:60")
    account.doveadm("move", "Work", "mailbox", "INBOX", "uid", "30:40")
    messages = {f"{box}/{m.uid}.eml": m for box in account.status() for m in account.fetch(box)}
    assert len(messages) > 190
    assert dovecot_daemon.log_lines()[logged:] == []
    return account.location, messages


@pytest.fixture
def shown(dovecot: Dovecot, mounts: Mounts, filled: tuple[str, dict[str, Fetched]]) -> Shown:
    location, messages = filled
    return Shown(mounts.mount(location), location, messages)


def test_tar(shown: Shown, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    tool("tar", "-C", shown.mnt, "-cf", tmp_path / "all.tar", ".")
    tool("tar", "-C", copy, "-xf", tmp_path / "all.tar")
    shown.check_copy(copy)
    assert tool("tar", "-C", shown.mnt, "-df", tmp_path / "all.tar") == b""


def test_rsync_and_a_second_rsync_that_has_nothing_to_do(shown: Shown, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    tool("rsync", "-a", f"{shown.mnt}/", copy)
    shown.check_copy(copy)
    assert tool("rsync", "-ai", f"{shown.mnt}/", copy) == b""
    assert tool("rsync", "-aic", f"{shown.mnt}/", copy) == b""


def test_cp_keeps_bytes_dates_and_attributes(shown: Shown, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    tool("cp", "-a", shown.mnt, copy)
    shown.check_copy(copy)
    assert tool("diff", "-r", shown.mnt, copy) == b""
    for name, message in shown.messages.items():
        kept = xattrs(copy / name)
        assert (kept["guid"], kept["flags"]) == (message.guid, message.flags), name


def test_find(shown: Shown) -> None:
    def found(*test: str) -> set[str]:
        names = tool("find", ".", "-type", "f", *test, "-print0", cwd=shown.mnt).decode().split("\0")
        return {name.removeprefix("./") for name in names if name}

    def expected(test: Callable[[Fetched], bool]) -> set[str]:
        return {name for name, message in shown.messages.items() if test(message)}

    assert found() == set(shown.messages)
    assert found("-size", "+20000c") == expected(lambda m: m.physical_size > 20000)
    assert found("-empty") == expected(lambda m: m.physical_size == 0)
    assert found("-newermt", "2030-01-01") == expected(lambda m: m.received > 1893456000)
    assert found("-name", "7.eml") == {name for name in shown.messages if name.endswith("/7.eml")}
    assert found("-perm", "0400", "-links", "1") == set(shown.messages)
    directories = tool("find", ".", "-type", "d", cwd=shown.mnt).decode().split()
    assert set(directories) == {".", "./INBOX", "./Entwürfe", "./Entwürfe/2026", "./Work"}


def test_grep(shown: Shown) -> None:
    out = tool("grep", "-rlaFZ", "Subject: ", ".", cwd=shown.mnt).decode()
    found = {name.removeprefix("./") for name in out.split("\0") if name}
    assert found == {name for name, message in shown.messages.items() if b"Subject: " in message.text}


def test_du(shown: Shown) -> None:
    out = tool("du", "-b", "-a", ".", cwd=shown.mnt).decode()
    sizes = {name: int(size) for size, _, name in (line.partition("\t") for line in out.splitlines())}
    for name, message in shown.messages.items():
        assert sizes[f"./{name}"] == message.physical_size, name
    blocks = tool("du", "-s", "-B", "512", ".", cwd=shown.mnt).decode()
    assert int(blocks.split()[0]) >= sum(-(-m.physical_size // 512) for m in shown.messages.values())


def test_md5sum(shown: Shown) -> None:
    names = sorted(shown.messages)
    lines = tool("md5sum", "-z", "--", *names, cwd=shown.mnt).decode().split("\0")[:-1]
    sums = [hashlib.md5(shown.messages[name].text).hexdigest() for name in names]
    assert lines == [f"{digest}  {name}" for digest, name in zip(sums, names, strict=True)]


def test_less_cat_head_tail_and_wc(shown: Shown) -> None:
    for name in ("INBOX/1.eml", "INBOX/57.eml", "INBOX/103.eml", "Work/3.eml"):
        path, text = shown.mnt / name, shown.messages[name].text
        assert tool("less", path) == text
        assert tool("cat", path) == text
        assert tool("head", "-c", "100", path) == text[:100]
        assert tool("tail", "-c", "100", path) == text[-100:]
        assert tool("wc", "-c", path).split()[0] == b"%d" % len(text)


def test_getfattr_and_ls(shown: Shown) -> None:
    message = shown.messages["INBOX/2.eml"]
    out = tool("getfattr", "--absolute-names", "-d", shown.mnt / "INBOX" / "2.eml").decode()
    assert f'user.dbox.guid="{message.guid}"\n' in out
    assert 'user.dbox.uid="2"\n' in out
    listing = tool("ls", "-l", "--time-style=+%s", shown.mnt / "INBOX").decode().splitlines()[1:]
    columns = {line.split()[6]: line.split()[4:6] for line in listing}
    assert columns["2.eml"] == [str(message.physical_size), str(message.received)]


def inodes(mnt: Path) -> dict[str, int]:
    found = {str(path.relative_to(mnt)): path.stat().st_ino for path in mnt.rglob("*")}
    for directory in [mnt, *(path for path in mnt.rglob("*") if path.is_dir())]:
        with os.scandir(directory) as entries:
            assert all(entry.inode() == entry.stat(follow_symlinks=False).st_ino for entry in entries)
    return found


def test_a_second_mount_shows_the_same_inode_numbers(shown: Shown, mounts: Mounts) -> None:
    first = inodes(shown.mnt)
    assert len(first) == len(shown.messages) + 4
    assert len(set(first.values())) == len(first)
    assert inodes(mounts.mount(shown.location)) == first
    mounts.umount(shown.mnt)
    assert inodes(mounts.mount(shown.location)) == first


def test_the_control_directory_answers_by_name_and_is_never_listed(shown: Shown) -> None:
    assert ".dboxfs" not in os.listdir(shown.mnt)
    for name in ("stats.json", "store.json"):
        assert isinstance(json.loads((shown.mnt / ".dboxfs" / name).read_text()), dict)
    assert b".dboxfs" not in tool("find", shown.mnt)
