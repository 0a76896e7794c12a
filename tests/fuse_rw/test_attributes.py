"""Attributes that a backup has kept are put back: what a new message takes, and what an old one refuses."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.fuse_rw.rw import JULY, ONE, TWO, Writable, both, resynced
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts, dboxfs

pytestmark = [both, resynced]

GUID = b"00112233445566778899aabbccddeeff"
BROUGHT = {
    "flags": b"\\Flagged \\Seen",
    "keywords": b"$Label other",
    "guid": GUID,
    "saved": b"2001-02-03T04:05:06Z",
    "received": b"1990-01-01T00:00:00Z",
    "uid": b"77",
    "pop3_uidl": b"uidl-77",
    "virtual_size": b"1",
    "modseq": b"9",
    "location": b"mailboxes/elsewhere",
}


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.RaisesExc(OSError, check=lambda error: error.errno == number)


def set_all(file: Path | int, values: dict[str, bytes]) -> None:
    for name, value in values.items():
        os.setxattr(file, f"user.dbox.{name}", value)


def test_a_new_message_is_what_its_attributes_say(rw: Writable, driver: str) -> None:
    with (rw.inbox / "new").open("wb") as file:
        file.write(TWO)
        set_all(file.fileno(), BROUGHT)
        assert {name.removeprefix("user.dbox.") for name in os.listxattr(file.fileno())} == {*BROUGHT} - {
            "virtual_size",
            "modseq",
            "location",
        }
        assert os.getxattr(file.fileno(), "user.dbox.guid") == GUID
        os.removexattr(file.fileno(), "user.dbox.pop3_uidl")
    found = rw.last()
    assert (found.uid, found.guid, found.flags, found.keywords, found.text) == (
        77, GUID.decode(), "\\Flagged \\Seen", "$Label other", TWO,
    )  # fmt: skip
    assert found.received == 631_152_000
    if driver == "mdbox":
        assert found.saved == 981_173_106
    (rw.inbox / "later").write_bytes(TWO)
    assert rw.last().uid == 78


def test_mknod_holds_the_name_and_what_the_file_is_told_before_it_is_written(rw: Writable) -> None:
    """tar --xattrs makes a node, gives it attributes, and then opens it to write."""
    new = rw.inbox / "new"
    os.mknod(new, stat.S_IFREG | 0o600)
    set_all(new, BROUGHT)
    with refused(errno.EEXIST):
        os.mknod(new, stat.S_IFREG | 0o600)
    assert rw.names() == ["1.eml"]
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, TWO)
    os.utime(descriptor, (JULY, JULY))
    os.close(descriptor)
    found = rw.last()
    assert (found.uid, found.guid, found.text, found.received) == (77, GUID.decode(), TWO, JULY)
    for mode in (stat.S_IFIFO, stat.S_IFSOCK):
        with refused(errno.EPERM):
            os.mknod(rw.inbox / "other", mode | 0o600)
    with refused(errno.EEXIST):
        os.mknod(rw.inbox / "1.eml", stat.S_IFREG | 0o600)
    os.mknod(rw.inbox / "unused", stat.S_IFREG | 0o600)
    (rw.inbox / "unused").unlink()
    assert rw.names() == ["1.eml", "new"]


def test_a_message_that_was_there_before_stays_what_it_is(rw: Writable) -> None:
    path = rw.inbox / "1.eml"
    before = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    for name, value in before.items():
        os.setxattr(path, name, value)
    for name, value in BROUGHT.items():
        if name not in ("flags", "keywords", "received"):
            with refused(errno.EPERM):
                os.setxattr(path, f"user.dbox.{name}", value)
    for name in ("guid", "uid", "saved"):
        with refused(errno.EINVAL):
            os.setxattr(path, f"user.dbox.{name}", b"\n")
    after = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    for values in (before, after):
        del values["user.dbox.modseq"]  # of the flags that were set to what they are
    assert before == after
    os.setxattr(path, "user.dbox.received", b"2023-07-10T14:40:00Z")
    assert (rw.last().received, rw.last().text) == (JULY, ONE)


def test_a_message_that_just_came_takes_attributes_and_stays_what_it_is(rw: Writable) -> None:
    """restic, rclone and bup set them when they have closed the file."""
    path = rw.inbox / "new"
    path.write_bytes(TWO)
    set_all(path, {"received": BROUGHT["received"]})
    guid = rw.last().guid
    set_all(path, BROUGHT)
    found = rw.last()
    assert (found.flags, found.keywords, found.guid) == ("\\Flagged \\Seen", "$Label other", guid)
    assert (found.received, len(rw.texts())) == (631_152_000, 2)


def test_what_a_program_takes_away_stays_and_is_no_error_where_it_is_new(rw: Writable) -> None:
    """rsync -X takes away what its source has not."""
    (rw.mnt / "New").mkdir()
    (rw.mnt / "New" / "file").write_bytes(TWO)
    for path in (rw.mnt / "New", rw.mnt / "New" / "file"):
        for name in os.listxattr(path):
            os.removexattr(path, name)
        with refused(errno.ENODATA):
            os.removexattr(path, "user.dbox.unknown")
    assert len(os.listxattr(rw.mnt / "New" / "file")) >= 8
    for path, name in ((rw.inbox, "uidvalidity"), (rw.inbox / "1.eml", "guid")):
        with refused(errno.EPERM):
            os.removexattr(path, f"user.dbox.{name}")


def test_what_can_be_set_is_listed_first(rw: Writable) -> None:
    names = [name.removeprefix("user.dbox.") for name in os.listxattr(rw.inbox / "1.eml")]
    assert names[:6] == ["flags", "keywords", "guid", "saved", "received", "uid"]
    assert names[-3:] == ["virtual_size", "modseq", "location"]
    names = [name.removeprefix("user.dbox.") for name in os.listxattr(rw.work)]
    assert names[0] == "subscribed"
    assert names[-4:] == ["uidnext", "messages", "unseen", "highestmodseq"]


def test_a_mailbox_without_messages_gets_the_identity_that_it_is_given(rw: Writable) -> None:
    (rw.mnt / "New").mkdir()
    (rw.mnt / "New" / "Sub").mkdir()
    with (rw.mnt / "New" / ".temporary").open("wb") as file:
        file.write(TWO)
    where = os.open(rw.mnt / "New", os.O_RDONLY)
    set_all(rw.mnt / "New", {"guid": GUID, "uidvalidity": b"123456", "messages": b"7", "mailbox": b"Old"})
    status = rw.account.status()["New"]
    assert (status.guid, status.uidvalidity) == (GUID.decode(), 123456)
    assert os.getxattr(rw.mnt / "New", "user.dbox.uidvalidity") == b"123456"
    assert sorted(os.listdir(where)) == ["Sub"]
    os.close(where)
    (rw.mnt / "New" / ".temporary").rename(rw.mnt / "New" / "plain")
    (rw.mnt / "New" / "more").write_bytes(ONE)
    assert rw.texts("New") == [TWO, ONE]
    set_all(rw.mnt / "New", {"guid": b"ff" * 16, "uidvalidity": b"5", "uidnext": b"100"})
    assert rw.account.status()["New"] == rw.account.status()["New"]
    assert rw.account.status()["New"].guid == GUID.decode()
    with refused(errno.EPERM):
        os.setxattr(rw.inbox, "user.dbox.uidvalidity", b"123456")
    os.setxattr(rw.inbox, "user.dbox.messages", b"1")
    for name, value in (("guid", b"00" * 16), ("guid", b"x"), ("uidvalidity", b"0"), ("unknown", b"")):
        with refused(errno.EINVAL):
            os.setxattr(rw.mnt / "New", f"user.dbox.{name}", value)


@pytest.mark.expected_log("has a new guid: INBOX, uid 1, has it, and another text")
def test_cp_with_all_attributes_makes_a_copy_that_check_a_repair_and_a_purge_keep(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str
) -> None:
    rw = Writable.make(dovecot, mounts, tmp_path, driver)
    for target in ("Work/copy", "INBOX/again", "Work/edited"):
        rw.run("cp", "-a", "INBOX/1.eml", target)
    edited = ONE.replace(b"first", b"FIRST")
    if driver == "mdbox":
        rw.run("cp", "-a", "INBOX/1.eml", tmp_path / "edited")
        date = (tmp_path / "edited").stat().st_mtime
        (tmp_path / "edited").write_bytes(edited)
        os.utime(tmp_path / "edited", (date, date))
        (rw.work / "edited").unlink()
        rw.run("cp", "-a", tmp_path / "edited", "Work/edited")
    copies = [rw.inbox / "1.eml", rw.inbox / "again", rw.work / "copy"]
    guids = [os.getxattr(path, "user.dbox.guid") for path in copies]
    assert len(set(guids)) == 1
    found = dboxfs("check", rw.account.root)
    assert found.returncode == 0, found.stdout
    before = rw.everything()
    rw.account.force_resync()
    assert rw.everything() == before
    (rw.inbox / "1.eml").unlink()
    rw.account.doveadm("mailbox status", "messages", "INBOX")
    rw.account.purge()
    assert (rw.texts(), rw.texts("Work")) == ([ONE], [ONE, edited if driver == "mdbox" else ONE])
    if driver == "mdbox":
        assert os.getxattr(rw.work / "edited", "user.dbox.guid") not in guids
