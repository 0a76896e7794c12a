"""A store of dbox version 3 through the mount: what is copied in comes out, also after a remount."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from dboxfs.dbox import FoundRecord, scan_file
from tests.fuse_rw.rw import JULY, LONG, ONE, TWO
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts, dboxfs

BOTH = pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
COMPRESSED = b"\x1f\x8b\x08 looks compressed\n"


def new_store(tmp: Path, kind: str, version: str = "3") -> Path:
    root = tmp / "store"
    done = dboxfs("init", "--format", kind, "--dbox-version", version, root)
    assert (done.returncode, done.stderr) == (0, "")
    return root


def message_files(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in root.rglob("[um].*") if re.fullmatch(r"[um]\.\d+", path.name)]


def bodies(root: Path) -> list[bytes]:
    """The messages in the files of a store, all of format 3."""
    found = []
    for data in message_files(root):
        for region in scan_file(data):
            assert isinstance(region, FoundRecord)
            assert region.damage is None
            found.append(data[region.trailer.body_offset : region.trailer.offset])
    return sorted(found)


@BOTH
def test_files_are_copied_in_and_read_again_after_a_remount(
    mounts: Mounts, tmp_path: Path, kind: str
) -> None:
    root = new_store(tmp_path, kind)
    texts = {"one": ONE, "two": TWO, "long": LONG, "gz": COMPRESSED, "self": LONG + b"\x01\x03" * 100}
    source = tmp_path / "source"
    source.mkdir()
    for name, text in texts.items():
        (source / name).write_bytes(text)
        os.utime(source / name, (JULY, JULY))
    mnt = mounts.mount(root, "rw")
    for name in texts:
        subprocess.run(["cp", "-p", source / name, mnt / "INBOX" / name], check=True)
    for _ in range(2):
        for name in texts:
            subprocess.run(["cmp", source / name, mnt / "INBOX" / name], check=True)
            assert int((mnt / "INBOX" / name).stat().st_mtime) == JULY
        sync = ["rsync", "-rtO", "-i", "--inplace", f"{source}/", f"{mnt}/INBOX/"]
        assert subprocess.run(sync, check=True, capture_output=True).stdout == b""
        mounts.umount(mnt)
        assert bodies(root) == sorted(texts.values())
        mnt = mounts.mount(root, "rw")
    described = json.loads((mnt / ".dboxfs/store.json").read_text())
    assert described["dbox_version"] == 3


@BOTH
def test_changes_of_messages_work_as_in_any_store(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    root = new_store(tmp_path, kind)
    mnt = mounts.mount(root, "rw")
    inbox, work = mnt / "INBOX", mnt / "Work"
    work.mkdir()
    for name, text in (("one", ONE), ("two", TWO), ("long", LONG)):
        (inbox / name).write_bytes(text)
    with (inbox / "long").open("ab") as file:
        file.write(b"more\n")
    os.link(inbox / "long", work / "copy")
    os.rename(inbox / "one", work / "moved")
    (inbox / "two").unlink()
    with (inbox / "twice").open("wb") as file:
        file.write(LONG)
        os.fsync(file.fileno())
        file.write(b"end\n")
    expected = {
        inbox / "long": LONG + b"more\n", work / "copy": LONG + b"more\n", work / "moved": ONE,
        inbox / "twice": LONG + b"end\n",
    }  # fmt: skip
    assert {path: path.read_bytes() for path in (*inbox.iterdir(), *work.iterdir())} == expected
    mounts.umount(mnt)
    assert not list(root.rglob(".temp.*"))
    mnt = mounts.mount(root)
    shown = {path.name: path.read_bytes() for name in ("INBOX", "Work") for path in (mnt / name).iterdir()}
    assert shown == {path.name: text for path, text in expected.items()}
    gone = set(os.listdir(root)) & {"dovecot.list.index", "dovecot.list.index.log"}
    assert not gone, "there was no Dovecot"
    assert (root / "dboxfs-version").read_bytes() == b"3\n"


def test_bytes_that_come_after_a_commit_make_another_message(mounts: Mounts, tmp_path: Path) -> None:
    root = new_store(tmp_path, "sdbox")
    mnt = mounts.mount(root, "rw")
    descriptor = os.open(mnt / "INBOX/name", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, LONG)
    subprocess.run(["true"], check=True)
    copy = os.dup(descriptor)
    os.close(copy)
    os.write(descriptor, b"end\n")
    os.close(descriptor)
    assert (mnt / "INBOX/name").read_bytes() == LONG + b"end\n"
    mounts.umount(mnt)
    assert bodies(root) == [LONG + b"end\n"]


def test_version_can_be_chosen_for_one_mount(mounts: Mounts, tmp_path: Path) -> None:
    root = new_store(tmp_path, "mdbox", "2")
    for version, text in (("3", ONE), ("2", TWO)):
        mnt = mounts.mount(root, f"rw,dbox_version={version}")
        (mnt / "INBOX" / version).write_bytes(text)
        mounts.umount(mnt)
    assert sorted(data[:2] for data in message_files(root)) == [b"2 ", b"3 "]
    mnt = mounts.mount(root)
    assert (mnt / "INBOX/2").read_bytes() + (mnt / "INBOX/3").read_bytes() == TWO + ONE


def test_info_says_the_version(tmp_path: Path) -> None:
    root = new_store(tmp_path, "sdbox")
    assert "sdbox, dbox version 3 (new messages; not for Dovecot)" in dboxfs("info", root).stdout
    (root / "dboxfs-version").write_bytes(b"x\n")
    done = dboxfs("info", root)
    assert "dbox version unknown" in done.stdout
    assert "dboxfs-version: damaged at offset 0: no dbox version" in done.stderr
    (root / "dboxfs-version").unlink()
    assert "sdbox, dbox version 2, layout" in dboxfs("info", root).stdout


def refused(root: Path | str, mountpoint: Path, *args: str) -> str:
    """The one line that a mount is refused with."""
    done = dboxfs("mount", "--log-file", "/dev/null", *args, root, mountpoint)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


@BOTH
@pytest.mark.parametrize("look", ["status", "fetch"])
def test_store_that_a_dovecot_has_used_is_not_written_in_version_3(
    dovecot: Dovecot, mounts: Mounts, kind: str, look: str
) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail")
    account.save(ONE)
    if look == "fetch":
        account.doveadm("fetch", "hdr.subject", "all")
    else:
        account.status()
    mountpoint = mounts.mountpoint()
    line = refused(account.root, mountpoint, "-o", "rw,dbox_version=3")
    assert re.match(
        r"dboxfs: .*: a Dovecot has used this store \(.*dovecot.*\), and Dovecot can't read", line
    )
    assert dboxfs("mount", "-o", "rw,dbox_version=3", "--force", account.root, mountpoint).returncode == 0
    (mountpoint / "INBOX/new").write_bytes(TWO)
    mounts.umount(mountpoint)
    assert any(data[:2] == b"3 " for data in message_files(account.root))


def test_store_of_version_3_that_a_dovecot_has_been_at_since_is_not_written(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    assert dboxfs("init", "--format", "sdbox", "--dbox-version", "3", account.root).returncode == 0
    mnt = mounts.mount(account.root, "rw")
    mounts.umount(mnt)
    for directory, _, files in os.walk(account.root):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            os.chown(path, dovecot.mail_uid, account.home.stat().st_gid)
    assert list(account.status()) == ["INBOX"]
    assert "a Dovecot has used this store" in refused(account.root, mounts.mountpoint(), "-o", "rw")
    mounts.umount(mounts.mount(account.root))
    mnt = mounts.mount(account.root, "rw,dbox_version=2")
    (mnt / "INBOX/new").write_bytes(ONE)
    mounts.umount(mnt)
    assert [message.text for message in account.fetch()] == [ONE]


@BOTH
def test_store_that_was_converted_to_version_3_is_written_in_it(
    dovecot: Dovecot, mounts: Mounts, kind: str
) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail")
    account.save(ONE)
    account.save(TWO)
    account.doveadm("fetch", "hdr.subject size.virtual", "all")
    target = account.home / "converted"  # where the owner of the store gets to
    done = dboxfs("convert", "--dbox-version", "3", account.root, target)
    assert done.returncode == 0, done.stderr
    assert "dbox version 3" in dboxfs("info", target).stdout
    mnt = mounts.mount(target, "rw")
    (mnt / "INBOX/new").write_bytes(LONG)
    (mnt / "INBOX/1.eml").unlink()
    mounts.umount(mnt)
    mounts.umount(mounts.mount(target, "rw"))
    assert LONG in bodies(target)
    mnt = mounts.mount(target)
    assert sorted(path.read_bytes() for path in (mnt / "INBOX").iterdir()) == sorted([TWO, LONG])


def test_version_needs_rw(mounts: Mounts, tmp_path: Path) -> None:
    done = dboxfs("mount", "-o", "dbox_version=3", new_store(tmp_path, "sdbox"), mounts.mountpoint())
    assert done.returncode == 2
    assert "needs -o rw" in done.stderr
