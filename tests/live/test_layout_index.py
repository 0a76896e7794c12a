"""LAYOUT=index beside a real Dovecot: mailboxes lie under their guids, their names in the list index."""

from __future__ import annotations

import os

import pytest

from dboxfs.store.location import Location
from dboxfs.store.mail_location import parse_location
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected, Tally, assert_shows
from tests.live.mounts import Mounts, dboxfs
from tests.live.test_entries import within_a_second

STORES = {
    "sdbox": "sdbox:{home}/mail:LAYOUT=index",
    "mdbox, all elsewhere": "mdbox:{home}/mail:LAYOUT=index:INDEX={home}/i:CONTROL={home}/c:ALT={home}/a",
    "sdbox, LISTINDEX": "sdbox:{home}/mail:LAYOUT=index:LISTINDEX=names.index:INDEX={home}/i:INBOX={home}/in",
}
ODD = ("a^b", "~tilde", "x/..", "dbox-Mails", "Träs", "5.eml", "Work/Deep/Er", "a%2Fb", "^7e")
SHOWN = {"x/..": "x/%2E.", "5.eml": "5%2Eeml", "a%2Fb": "a%252Fb"}


@pytest.fixture(params=list(STORES.values()), ids=list(STORES))
def account(dovecot: Dovecot, request: pytest.FixtureRequest) -> Account:
    made = dovecot.account(request.param)
    made.append([Append(b"Subject: one\n\ntext\n", "\\Seen"), Append(b"Subject: two\n\nmore\n")])
    return made


def mailbox_directories(account: Account) -> set[str]:
    return {entry.name for entry in (account.root / "mailboxes").iterdir()}


def test_every_name_that_dovecot_takes_is_shown(account: Account, mounts: Mounts, tally: Tally) -> None:
    for name in ODD:
        account.doveadm("mailbox create", name)
        account.append([Append(b"Subject: in %s\n\ntext\n" % name.encode())], name)
        account.doveadm("mailbox subscribe", name)
    mnt = mounts.mount(account.location)
    for name in ODD:
        assert os.path.isfile(mnt / SHOWN.get(name, name) / "1.eml"), name
        assert os.getxattr(mnt / SHOWN.get(name, name), "user.dbox.subscribed") == b"1"
    assert_shows(mnt, Expected.of(account, SHOWN), tally)


def test_what_dovecot_does_to_mailboxes_is_seen(account: Account, mounts: Mounts, tally: Tally) -> None:
    account.doveadm("mailbox create", "Old/Inner")
    account.append([Append(b"Subject: stays\n\ntext\n")], "Old/Inner")
    mnt = mounts.mount(account.location)
    inode = (mnt / "Old" / "Inner" / "1.eml").stat().st_ino
    account.doveadm("mailbox rename", "Old/Inner", "New/Place")
    within_a_second(lambda: (mnt / "New" / "Place" / "1.eml").exists())
    assert (mnt / "New" / "Place" / "1.eml").stat().st_ino == inode
    account.doveadm("mailbox create", "Old/Inner")
    within_a_second(lambda: (mnt / "Old" / "Inner").is_dir())
    within_a_second(lambda: os.listdir(mnt / "Old" / "Inner") == [])
    account.append([Append(b"Subject: another\n\ntext\n")], "Old/Inner")
    within_a_second(lambda: (mnt / "Old" / "Inner" / "1.eml").exists())
    assert_shows(mnt, Expected.of(account, SHOWN), tally)


def test_mailboxes_that_a_mount_makes_are_dovecots(account: Account, mounts: Mounts, tally: Tally) -> None:
    client = account.imap()
    client.list()
    mnt = mounts.mount(account.location, "rw")
    (mnt / "Work" / "Deep").mkdir(parents=True)
    for name in ("a^b", "~tilde", "x", "dbox-Mails", "Träs"):
        (mnt / name).mkdir()
    (mnt / "x" / "%2E.").mkdir()
    (mnt / "Work" / "Deep" / "1.eml").write_bytes(b"Subject: new\n\ntext\n")
    wanted = ["INBOX", "Träs", "Work", "Work/Deep", "a^b", "dbox-Mails", "x", "x/..", "~tilde"]
    assert account.mailboxes() == wanted
    assert len(mailbox_directories(account)) == len(wanted)
    answer = client.list()[1]
    assert sum(isinstance(line, bytes) for line in answer) == len(wanted)
    client.logout()
    assert account.fetch_body("Work/Deep", 1) == b"Subject: new\n\ntext\n"
    account.append([Append(b"Subject: of dovecot\n\ntext\n")], "x/..")
    account.doveadm("mailbox subscribe", "a^b")
    within_a_second((mnt / "x" / "%2E." / "1.eml").exists)
    assert_shows(mnt, Expected.of(account, SHOWN), tally)


def test_mailboxes_that_a_mount_renames_and_removes(account: Account, mounts: Mounts, tally: Tally) -> None:
    for name in ("Old/Inner", "Old", "Away"):
        account.doveadm("mailbox create", name)
    account.append([Append(b"Subject: stays\n\ntext\n")], "Old/Inner")
    mnt = mounts.mount(account.location, "rw")
    before = mailbox_directories(account)
    guid = account.status()["Old/Inner"].guid
    (mnt / "Old").rename(mnt / "~New")
    assert mailbox_directories(account) == before
    assert account.mailboxes() == ["Away", "INBOX", "~New", "~New/Inner"]
    assert account.status()["~New/Inner"].guid == guid
    (mnt / "~New" / "Inner").rename(mnt / "Top")
    (mnt / "Away").rmdir()
    (mnt / "~New").rmdir()
    assert account.mailboxes() == ["INBOX", "Top"]
    assert len(mailbox_directories(account)) == 2
    assert account.fetch_body("Top", 1) == b"Subject: stays\n\ntext\n"
    account.doveadm("mailbox create", "~New")
    within_a_second((mnt / "~New").is_dir)
    assert_shows(mnt, Expected.of(account, SHOWN), tally)


def names_found_anew(account: Account) -> list[str]:
    """What Dovecot has when it has to find the mailboxes' names in their own indexes."""
    for path in account.home.rglob("*list.index*"):
        path.unlink()
    for path in account.home.rglob("names.index*"):
        path.unlink()
    return account.mailboxes()


def test_what_is_put_back_is_where_dovecot_finds_it_under_its_guid_where_that_can_be(
    dovecot: Dovecot, account: Account, mounts: Mounts
) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    source.save(b"Subject: first\n\ntext\n")
    source.doveadm("mailbox create", "Work/Deep")
    source.save(b"Subject: second\n\ntext\n", "Work/Deep")
    was = source.status()
    assert dboxfs("export", source.location, source.home / "tree", "--format", "maildir").returncode == 0
    done = dboxfs("import", source.home / "tree", account.location)
    assert (done.returncode, done.stderr) == (0, "")
    now = account.status()
    assert now["Work/Deep"].guid == was["Work/Deep"].guid
    assert now["Work/Deep"].uidvalidity == was["Work/Deep"].uidvalidity

    with_guid, guid = mounts.mount(account.location, "restore"), b"0123456789abcdef" * 2
    (with_guid / "Back").mkdir()
    os.setxattr(with_guid / "Back", "user.dbox.guid", guid)
    os.setxattr(with_guid / "Back", "user.dbox.uidvalidity", b"4000000001")
    (with_guid / "Back/1.eml").write_bytes(b"Subject: third\n\ntext\n")
    done = dboxfs("umount", with_guid)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 not kept: Back: guid (it names the directory of the mailbox)" in done.stdout
    assert account.status()["Back"].uidvalidity == 4_000_000_001
    for name, count in (("Work/Deep", 1), ("Back", 1), ("INBOX", 3)):
        account.append([Append(b"Subject: Dovecot's\n\ntext\n")], name)
        assert account.status()[name].messages == count + 1
    assert mailbox_directories(account) >= {status.guid for status in account.status().values()} - {
        account.status()["INBOX"].guid
    }


@pytest.mark.expected_log("Mailbox list rescan found", "Rebuilding index", "rebuilding indexes", "fscking")
def test_a_lost_list_index_costs_no_name(dovecot: Dovecot, mounts: Mounts) -> None:
    account = dovecot.account(STORES["sdbox"])
    account.save(b"Subject: one\n\ntext\n")
    mnt = mounts.mount(account.location, "rw")
    for name in ("Made", "Old", "~t"):
        (mnt / name).mkdir()
    (mnt / "Old").rename(mnt / "Renamed")
    mounts.umount(mnt)
    for path in (account.root).glob("dovecot.list.index*"):
        path.unlink()
    mnt = mounts.mount(account.location)
    wanted = ["INBOX", "Made", "Renamed", "~t"]
    assert sorted(os.listdir(mnt)) == wanted
    assert names_found_anew(account) == wanted


def test_a_plain_directory_tells_its_layout(account: Account) -> None:
    if "INDEX" in account.location:
        return
    found = parse_location(str(account.root))
    assert isinstance(found, Location)
    assert found.layout.value == "index"
