"""``-o namespaces``: what a user's Dovecot lists in all namespaces is one tree, with its names and rights."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.dialects import Namespaces
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected, Tally, assert_message, assert_shows
from tests.live.mounts import Mounts, dboxfs, xattrs
from tests.live.test_entries import within_a_second

pytestmark = pytest.mark.dovecot


@pytest.fixture(scope="module")
def slashes() -> Iterator[Dovecot]:
    with Dovecot(namespaces=Namespaces()) as daemon:
        yield daemon
        assert daemon.log_lines() == []


@pytest.fixture(scope="module")
def dots() -> Iterator[Dovecot]:
    with Dovecot(namespaces=Namespaces(".", "INBOX.")) as daemon:
        yield daemon
        assert daemon.log_lines() == []


@pytest.fixture(scope="module")
def domains() -> Iterator[Dovecot]:
    with Dovecot(namespaces=Namespaces(owner="%%d/%%n")) as daemon:
        yield daemon
        assert daemon.log_lines() == []


def refused(change: Callable[[], object]) -> int:
    """The errno that a change ends with."""
    try:
        change()
    except OSError as exc:
        return exc.errno or 0
    raise AssertionError("it was done")


def text(subject: str) -> Append:
    return Append(f"Subject: {subject}\n\nthe text of {subject}\n".encode(), "\\Seen")


def may(account: Account, mailbox: str, other: Account, *rights: str) -> None:
    """Let another user do something."""
    account.doveadm("acl set", mailbox, f"user={other.name}", *rights)


def opened_to_all(dovecot: Dovecot) -> None:
    """Every user may do everything in the public namespace."""
    mailboxes = dovecot.root / "public" / "mailboxes"
    if mailboxes.exists():
        return
    mailboxes.mkdir()
    (mailboxes / "dovecot-acl").write_text("authenticated lrwstipekxa\n")
    for path in (mailboxes, mailboxes / "dovecot-acl"):
        os.chown(path, dovecot.mail_uid, -1)


def two(dovecot: Dovecot, domain: str = "") -> tuple[Account, Account]:
    """A user with mail in each namespace of her own, and one who shares some of his with her."""
    opened_to_all(dovecot)
    sep = dovecot.namespaces.separator if dovecot.namespaces is not None else "/"
    prefix = dovecot.namespaces.prefix if dovecot.namespaces is not None else ""
    ann, bob = (dovecot.account("mdbox:{home}/mail", domain=domain) for _ in range(2))
    for account in (ann, bob):
        account.append([text("in INBOX"), text("second")])
        account.doveadm("mailbox create", f"{prefix}Work", f"{prefix}Private")
        account.append([text(f"work of {account.name}")], f"{prefix}Work")
    bob.append([text("secret of bob")], f"{prefix}Private")
    ann.doveadm("mailbox create", "-s", f"{prefix}Archive{sep}Träger{sep}Old")
    ann.append([text("old")], f"{prefix}Archive{sep}Träger{sep}Old")
    name = f"{prefix}Public{sep}News of {ann.name}"
    ann.doveadm("mailbox create", "-s", name, f"{prefix}Public{sep}Empty of {ann.name}")
    ann.append([text("news"), text("more news")], name)
    may(bob, f"{prefix}Work", ann, "lookup", "read")
    may(bob, f"{prefix}Private", ann, "lookup")
    return ann, bob


def mounted(mounts: Mounts, account: Account, options: str = "namespaces", told: str = "") -> Path:
    """A mount of a user; *told*: on stderr."""
    mnt = mounts.mountpoint()
    given = ["--user", account.name, "-c", str(account.dovecot.config), "-o", options]
    done = dboxfs("mount", *given, "--log-file", mounts.log_file(mnt), mnt)
    assert (done.returncode, done.stderr) == (0, told)
    return mnt


def readable(ann: Account, bob: Account) -> Expected:
    """What Dovecot shows, but the mailbox that may be seen and not be read."""
    masks = "*", "Archive/*", "Public/*", f"shared/{bob.name}/*"
    without = f"shared/{bob.name}/Private"
    messages = {name: ann.fetch(name) for name in ann.status(*masks) if name != without}
    status = {name: one for name, one in ann.status(*masks).items() if name != without}
    names = [name for name in ann.mailboxes() if name != without]
    return Expected(status, messages, names, ann.subscriptions())


def test_every_namespace_that_dovecot_lists_is_shown_with_all_that_the_user_may_read(
    slashes: Dovecot, mounts: Mounts, tally: Tally
) -> None:
    ann, bob = two(slashes)
    mnt = mounted(mounts, ann)
    expected = readable(ann, bob)
    wanted = {"INBOX", "Work", "Private", "Archive", "Public", "shared"}
    assert {name.partition("/")[0] for name in expected.names} == wanted
    assert {"Archive/Träger/Old", f"Public/News of {ann.name}", f"shared/{bob.name}/Work"} <= set(
        expected.status
    )
    assert_shows(mnt, expected, tally)
    inodes = [path.lstat().st_ino for path in (mnt, *mnt.rglob("*"))]
    assert len(inodes) == len(set(inodes))
    assert os.listdir(mnt / "shared" / bob.name) == ["Work"]


def test_what_is_not_shared_is_not_shown_as_deleted_or_by_name_either(
    slashes: Dovecot, mounts: Mounts
) -> None:
    ann, bob = two(slashes)
    bob.doveadm("expunge", "mailbox", "Private", "all")
    mnt = mounted(mounts, ann)
    shared = mnt / "shared" / bob.name
    assert not (shared / "Private").exists()
    assert not (shared / "INBOX").exists()
    assert not (shared / ".dboxfs" / "deleted").exists()
    assert "Private" not in (shared / ".dboxfs" / "store.json").read_text()


def test_changes_in_every_namespace_are_seen(slashes: Dovecot, mounts: Mounts, tally: Tally) -> None:
    ann, bob = two(slashes)
    mnt = mounted(mounts, ann)
    news, shared = f"Public/News of {ann.name}", f"shared/{bob.name}/Work"
    assert sorted(os.listdir(mnt / news)) == ["1.eml", "2.eml"]
    ann.append([text("later")], "Archive/Träger/Old")
    ann.append([text("later")], news)
    bob.append([text("later")], "Work")
    for path in (mnt / "Archive/Träger/Old/2.eml", mnt / news / "3.eml", mnt / shared / "2.eml"):
        within_a_second(path.exists)
    ann.doveadm("expunge", "mailbox", news, "uid", "1")
    within_a_second(lambda: not (mnt / news / "1.eml").exists())
    ann.doveadm("mailbox rename", "Archive/Träger/Old", "Archive/New")
    within_a_second((mnt / "Archive/New/2.eml").exists)
    assert_shows(mnt, readable(ann, bob), tally)


def test_private_namespaces_are_written_and_others_only_read(slashes: Dovecot, mounts: Mounts) -> None:
    ann, bob = two(slashes)
    mnt = mounted(mounts, ann, "rw,namespaces")
    body = b"Subject: new\n\nof the mount\n"
    for path in (mnt / "INBOX" / "a.eml", mnt / "Archive" / "Träger" / "Old" / "a.eml"):
        path.write_bytes(body)
    (mnt / "Archive" / "Made").mkdir()
    (mnt / "Archive" / "Made" / "b.eml").write_bytes(body)
    assert [m.text for m in ann.fetch("Archive/Made")] == [body]
    assert [m.text for m in ann.fetch("Archive/Träger/Old")][1:] == [body]
    assert [m.text for m in ann.fetch("INBOX")][2:] == [body]
    for directory in (mnt / "Public", mnt / "shared" / bob.name / "Work", mnt / "shared"):
        assert refused((directory / "x").mkdir) == errno.EROFS
    assert refused((mnt / "shared" / bob.name / "Work" / "1.eml").unlink) == errno.EROFS


def test_what_several_processes_write_into_one_file_is_one_message_in_each_namespace(
    slashes: Dovecot, mounts: Mounts
) -> None:
    ann, _ = two(slashes)
    mnt = mounted(mounts, ann, "rw,namespaces")
    for directory in ("Work", "Archive/Träger/Old"):
        script = "( printf 'Subject: %s\n\none\n' x; ( sleep 0.2; echo two ); echo three ) > group.eml"
        subprocess.run(["sh", "-c", script], cwd=mnt / directory, check=True)
        assert [(m.uid, m.text) for m in ann.fetch(directory)][1:] == [
            (2, b"Subject: x\n\none\ntwo\nthree\n")
        ]


def test_a_message_is_moved_to_another_namespace_as_between_file_systems(
    slashes: Dovecot, mounts: Mounts
) -> None:
    ann, _ = two(slashes)
    mnt = mounted(mounts, ann, "rw,namespaces")
    source, target = mnt / "INBOX" / "2.eml", mnt / "Archive" / "Träger" / "Old" / "moved.eml"
    before = ann.fetch("INBOX")[1]
    assert refused(lambda: os.rename(source, target)) == errno.EXDEV
    assert refused(lambda: os.link(source, target)) == errno.EXDEV
    subprocess.run(["mv", source, target], check=True)
    after = ann.fetch("Archive/Träger/Old")[-1]
    assert (after.text, after.flags, after.received) == (before.text, before.flags, before.received)
    assert after.guid == before.guid
    assert [m.uid for m in ann.fetch("INBOX")] == [1]


def test_the_directories_of_namespaces_stay_what_they_are(slashes: Dovecot, mounts: Mounts) -> None:
    ann, _ = two(slashes)
    mnt = mounted(mounts, ann, "rw,namespaces")
    assert refused(lambda: os.rmdir(mnt / "Archive")) == errno.EBUSY
    assert refused(lambda: os.rename(mnt / "Archive", mnt / "Other")) == errno.EBUSY
    assert refused(lambda: os.rename(mnt / "Work", mnt / "Archive")) == errno.EBUSY
    assert refused(lambda: os.mkdir(mnt / "Public")) == errno.EEXIST
    assert refused(lambda: os.mknod(mnt / "Public")) == errno.EEXIST
    assert refused(lambda: os.unlink(mnt / "Archive")) == errno.EISDIR
    assert sorted(os.listdir(mnt)) == ["Archive", "INBOX", "Private", "Public", "Work", "shared"]


@pytest.mark.expected_log("its name is that of the namespace")
def test_a_mailbox_that_has_the_name_of_a_namespace_stands_behind_it(
    slashes: Dovecot, mounts: Mounts
) -> None:
    ann, _ = two(slashes)
    hidden = ann.root / "mailboxes" / "Archive"
    shutil.copytree(ann.root / "mailboxes" / "Work", hidden)
    for path in (hidden, *hidden.rglob("*")):
        os.chown(path, slashes.mail_uid, -1)
    told = "dboxfs: mailbox Archive: not shown, its name is that of the namespace Archive/\n"
    mnt = mounted(mounts, ann, told=told)
    assert sorted(os.listdir(mnt)) == ["Archive", "INBOX", "Private", "Public", "Work", "shared"]
    assert os.listdir(mnt / "Archive") == ["Träger"]
    shutil.rmtree(hidden)


def test_the_whole_name_of_a_mailbox_has_the_prefix_and_the_separator_of_its_namespace(
    dots: Dovecot, mounts: Mounts
) -> None:
    ann, bob = two(dots)
    mnt = mounted(mounts, ann)
    kinds = "INBOX", "INBOX.*", "INBOX.Archive.*", "INBOX.Public.*", f"shared.{bob.name}.*"
    known = set(ann.status(*kinds))
    for path, name in (
        ("INBOX", "INBOX"),
        ("Work", "INBOX.Work"),
        ("Archive/Träger/Old", "INBOX.Archive.Träger.Old"),
        (f"Public/News of {ann.name}", f"INBOX.Public.News of {ann.name}"),
        (f"shared/{bob.name}/Work", f"shared.{bob.name}.Work"),
    ):
        assert xattrs(mnt / path)["mailbox"] == name
        assert name in known
        for message in ann.fetch(name):
            assert_message(mnt / path / f"{message.uid}.eml", message)
    assert xattrs(mnt / "Archive/Träger/Old")["subscribed"] == "1"
    assert xattrs(mnt / f"Public/News of {ann.name}")["subscribed"] == "1"
    alone = mounted(mounts, ann, "ro")
    assert xattrs(alone / "Work")["mailbox"] == "INBOX.Work"


def test_owners_are_found_by_local_part_and_domain(domains: Dovecot, mounts: Mounts) -> None:
    ann, bob = two(domains, "example.org")
    local, _, domain = bob.name.partition("@")
    mnt = mounted(mounts, ann)
    (message,) = ann.fetch(f"shared/{domain}/{local}/Work")
    assert_message(mnt / "shared" / domain / local / "Work" / "1.eml", message)


def test_a_namespace_that_can_not_be_shown_is_left_out_and_told(slashes: Dovecot, mounts: Mounts) -> None:
    opened_to_all(slashes)
    carol = slashes.account("mdbox:{home}/mail")
    carol.append([text("in INBOX")])
    key = "location=sdbox:~/none" if slashes.dialect.version < (2, 4) else "mail_path=~/none"
    file = slashes.root / "users" / carol.name
    file.write_text(f"{file.read_text().rstrip()} userdb_namespace/archive/{key}\n")
    asked = ["doveadm", "-c", str(slashes.config), "user", carol.name]
    deadline = time.monotonic() + 20  # it looks at the file again when a second has passed
    while b"namespace/archive/" not in subprocess.run(asked, capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline
    place = f"{carol.home}/none"
    reason = f"the store of {carol.name}: {place}: no such directory; is {place} an sdbox store?"
    mnt = mounted(mounts, carol, told=f"dboxfs: namespace Archive/: left out: {reason}\n")
    assert sorted(os.listdir(mnt)) == ["INBOX", "Public"]


def test_namespaces_need_a_user_and_the_plain_view(tmp_path: Path, slashes: Dovecot) -> None:
    carol = slashes.account("mdbox:{home}/mail")
    carol.append([text("in INBOX")])
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    for options, said in (
        ("namespaces", "only with --user"),
        ("namespaces,restore", "one namespace at a time"),
        ("namespaces,view=maildir", "only with the default view"),
        ("namespaces,open=none", "for one store alone"),
    ):
        done = dboxfs("mount", "-o", options, carol.location, mnt)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]
