"""``.dboxfs/raw``: a copy of it is the store as it was at one moment, and Dovecot opens it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, MemoryDriver, ThreadsDriver
from dboxfs.store import Kind, Location, parse_location
from dboxfs.store.raw import MOMENT_SMALL, take_moment
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs

pytestmark = pytest.mark.mount


def filled(dovecot: Dovecot, driver: str, more: str = "", **settings: str) -> Account:
    account = dovecot.account(f"{driver}:{{home}}/mail{more}", **settings)
    account.append([Append(b"Subject: %d\n\nbody %d\n" % (n, n) * (1 + n % 3), r"\Seen") for n in range(40)])
    account.doveadm("mailbox create", "Work")
    account.append([Append(b"Subject: work\n\n%s\n" % (b"x" * 300_000))], "Work")
    account.doveadm("flags add", r"\Flagged", "mailbox", "INBOX", "uid", "3:5")
    return account


def given_back(dovecot: Dovecot, copy: Path, driver: str) -> Account:
    """An account with what was copied, for the mail user."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    shutil.copytree(copy, account.root, dirs_exist_ok=True)
    owner = account.root.parent.stat()
    for path in (account.root, *account.root.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o700 if path.is_dir() else 0o600)
    return account


def shown(account: Account, mailbox: str = "INBOX") -> list[tuple[int, str, bytes]]:
    return [(one.uid, one.guid, one.text) for one in account.fetch(mailbox)]


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize("options", ["", "open=classic", "rw"])
def test_a_copy_is_the_store_byte_by_byte_and_dovecot_opens_it(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str, options: str
) -> None:
    account = filled(dovecot, driver)
    mnt = mounts.mount(account.location, options)
    assert "raw" not in os.listdir(mnt)
    raw, copy = mnt / ".dboxfs/raw", tmp_path / "copy"
    assert os.listdir(raw) == ["root"]
    subprocess.run(["rsync", "-a", f"{raw}/", copy], check=True)
    subprocess.run(["diff", "-r", account.root, copy / "root"], check=True)
    for path in copy.rglob("*"):
        before = account.root / path.relative_to(copy / "root") if path != copy / "root" else account.root
        now, then = path.stat().st_mtime_ns, before.stat().st_mtime_ns
        if path.is_dir():  # rsync leaves a directory alone whose date is of the same second
            now, then = now // 10**9, then // 10**9
        assert now == then, path
    log = "root/mailboxes/INBOX/dbox-Mails/dovecot.index.log"
    for refused in (
        lambda: (raw / "new").mkdir(),
        lambda: (raw / log).open("r+b"),
        lambda: (raw / log).unlink(),
        lambda: (raw / log).rename(mnt / "INBOX/log"),
        lambda: os.link(raw / log, mnt / "INBOX/log"),
    ):
        with pytest.raises(OSError, match=r"Read-only|not permitted|denied|No such file|cross-device"):
            refused()
    assert not (mnt / "INBOX/log").exists()
    assert not (raw / "nothing").exists()
    assert not (raw / "root/u.99").exists()
    mounts.umount(mnt)
    again = given_back(dovecot, copy / "root", driver)
    assert shown(again) == shown(account)
    assert shown(again, "Work") == shown(account, "Work")
    assert dboxfs("check", again.location).returncode == 0


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_what_comes_while_a_copy_runs_is_not_in_it(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str
) -> None:
    account = filled(dovecot, driver)
    mnt, copy = mounts.mount(account.location), tmp_path / "copy"
    before = shown(account)
    raw = mnt / ".dboxfs/raw/root"
    log = os.open(raw / "mailboxes/INBOX/dbox-Mails/dovecot.index.log", os.O_RDONLY)  # takes the moment
    size = os.fstat(log).st_size
    account.append([Append(b"Subject: later\n\nnot of this moment\n")])
    account.doveadm("flags add", r"\Answered", "mailbox", "INBOX", "all")
    account.doveadm("mailbox create", "Later")
    assert len(os.read(log, 1 << 20)) == size
    os.close(log)
    subprocess.run(["cp", "-a", raw, copy], check=True)
    assert not (copy / "mailboxes/Later").exists()
    again = given_back(dovecot, copy, driver)
    assert shown(again) == before
    assert not any(r"\Answered" in one.flags for one in again.fetch())
    assert dboxfs("check", again.location).returncode == 0


def test_parts_that_lie_elsewhere_are_beside_the_root(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    account = filled(dovecot, "sdbox", ":INDEX={home}/index:CONTROL={home}/control")
    raw = mounts.mount(account.location) / ".dboxfs/raw"
    assert sorted(os.listdir(raw)) == ["control", "index", "root"]
    for part, where in (("index", "index"), ("control", "control"), ("root", "mail")):
        subprocess.run(["diff", "-r", account.root.parent / where, raw / part], check=True)


async def test_large_files_are_kept_by_their_descriptor_and_links_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "mail"
    shutil.copytree(Path(__file__).parent.parent.parent / "samples/mdbox", root)
    large = root / "mailboxes/INBOX/dbox-Mails/dovecot.index.log.2"
    large.write_bytes(b"a" * (MOMENT_SMALL + 1))
    (root / "mailboxes/INBOX/dbox-Mails/u.7").symlink_to("/etc/hostname")
    (root / "mailboxes/INBOX/dbox-Mails/.temp.1.2.3").touch()
    (root / "mailboxes/Linked").symlink_to(root / "mailboxes/INBOX")
    (root / "mailboxes/INBOX/Back").symlink_to(root / "mailboxes")
    async with FileSystem(ThreadsDriver()) as fs:
        moment = await take_moment(fs, parse_location(str(root)))
        assert moment.settled
        mailboxes = moment.top.directories["root"].directories["mailboxes"]
        inbox = mailboxes.directories["INBOX"].directories["dbox-Mails"]
        assert not {"u.7", ".temp.1.2.3"} & inbox.files.keys()
        assert len(inbox.singles) == 0
        assert mailboxes.directories["Linked"].directories["dbox-Mails"].files.keys() == inbox.files.keys()
        large.unlink()
        file = inbox.files["dovecot.index.log.2"]
        assert await moment.read(file, 10, MOMENT_SMALL - 4) == b"a" * 5
        storage = moment.top.directories["root"].directories["storage"]
        name = next(name for name in storage.files if name.startswith("m."))
        kept, size = root / "storage" / name, storage.files[name].size
        with kept.open("ab") as grown:
            grown.write(b"more")
        assert len(await moment.read(storage.files[name], size + 100, 0)) == size
        kept.rename(root / "other")
        with pytest.raises(FileNotFoundError):
            await moment.read(storage.files[name], 10, 0)
        shutil.copy(root / "other", kept)
        with pytest.raises(OSError, match="Stale"):
            await moment.read(storage.files[name], 10, 0)
        moment.close()


async def test_a_tree_deeper_than_the_stack_may_be_is_shown_to_its_end() -> None:
    depth = 1100
    async with FileSystem(MemoryDriver()) as fs:
        path = "/mail/mailboxes"
        await fs.mkdir("/mail")
        await fs.mkdir(path)
        for _ in range(depth):
            path += "/a"
            await fs.mkdir(path)
        moment = await take_moment(fs, Location(Kind.SDBOX, "/mail"))
        assert moment.settled
        *_, last = moment.top.all_directories()
        assert last.path == path


@pytest.mark.parametrize("options", ["open=classic", "rw", ""])
def test_a_file_is_opened_once_for_all_reads_of_it(mounts: Mounts, tmp_path: Path, options: str) -> None:
    root = tmp_path / "mail"
    shutil.copytree(Path(__file__).parent.parent.parent / "samples/mdbox", root)
    mnt = mounts.mount(f"mdbox:{root}", options)
    file = next((mnt / ".dboxfs/raw/root/storage").glob("m.*"))
    wanted, stats = (root / "storage" / file.name).read_bytes(), mnt / ".dboxfs/stats.json"
    with file.open("rb", buffering=0) as reading:
        os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        first = reading.read(512)
        before = json.loads(stats.read_text())
        parts = [first, *(reading.read(512) for _ in range(len(wanted) // 512))]
        after = json.loads(stats.read_text())
    assert b"".join(parts) == wanted
    assert after["files"]["opens"] == before["files"]["opens"]
    assert after["requests"]["read"] > before["requests"]["read"] + 3, "the reads came to the daemon"
