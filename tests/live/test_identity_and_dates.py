"""Guids that are names, and dates of any year: what Dovecot reports of migrated messages is what is shown."""

from __future__ import annotations

import os

import pytest

from dboxfs.vfs.xattrs import MESSAGE
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected, Tally, assert_shows, rfc3339
from tests.live.mounts import Mounts, dboxfs, xattrs

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
MTIMES = [1_000_000_000, 0, -1_000_000_000, -2_000_000_000, 2_000_000_000]


def migrated(dovecot: Dovecot, driver: str) -> Account:
    """What ``doveadm backup`` makes of a Maildir, whose messages have names and no hexadecimal guids."""
    account = dovecot.account(f"{driver}:{{home}}/mail")
    maildir = account.home / "Maildir"
    for part in ("cur", "new", "tmp"):
        (maildir / part).mkdir(parents=True)
    for number, mtime in enumerate(MTIMES):
        path = maildir / "cur" / f"150000000{number}.M{number}P{number}.host:2,S"
        path.write_bytes(b"Subject: migrated %d\n\ntext\n" % number)
        os.utime(path, (mtime, mtime))
    for path in (maildir, *maildir.rglob("*")):
        os.chown(path, dovecot.mail_uid, -1)
    account.doveadm("backup", "-R", f"maildir:{maildir}")
    account.forget_cache()
    return account


@both
def test_a_guid_is_the_text_that_dovecot_gives(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str
) -> None:
    account = migrated(dovecot, driver)
    account.doveadm("copy", "INBOX", "mailbox", "INBOX", "uid", "1")
    account.forget_cache()
    expected = Expected.of(account)
    messages = expected.messages["INBOX"]
    assert [m.guid for m in messages][:2] == ["1500000000.M0P0.host", "1500000001.M1P1.host"]
    assert [m.received for m in messages][: len(MTIMES)] == MTIMES
    assert_shows(mounts.mount(account.location), expected, tally)


@both
def test_convert_and_rescue_keep_such_a_message_as_it_is(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str
) -> None:
    account = migrated(dovecot, driver)
    expected = Expected.of(account)
    for target in ("sdbox", "mdbox"):
        to = dovecot.account(f"{target}:{{home}}/mail")
        done = dboxfs("convert", "--verify", "--format", target, account.location, to.root)
        assert done.returncode == 0, done.stderr
        for path in (to.root, *to.root.rglob("*")):
            os.chown(path, dovecot.mail_uid, -1)
        assert to.fetch() == expected.messages["INBOX"]
    done = dboxfs("check", account.location)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings, 0 notes")
    to = dovecot.account(f"{driver}:{{home}}/mail")
    done = dboxfs("rescue", "--format", driver, account.location, to.root)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (to.root, *to.root.rglob("*")):
        os.chown(path, dovecot.mail_uid, -1)
    assert [m.received for m in to.fetch()] == MTIMES


@both
def test_dates_of_any_year_go_through_a_mount(dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append([Append(b"Subject: old\n\ntext\n", date="01-Jan-1960 12:00:00 +0000")])
    mnt = mounts.mount(account.location, "rw")
    dates = [-2_000_000_000, -1, 0, 2**31 + 5, 2**32 + 5]
    for number, date in enumerate(dates):
        path = mnt / "INBOX" / f"new{number}"
        path.write_bytes(b"Subject: new %d\n\ntext\n" % number)
        os.utime(path, (date, date))
        assert path.stat().st_mtime == date
        assert xattrs(path)["received"] == rfc3339(date)
    account.forget_cache()
    assert [m.received for m in account.fetch()] == [-315_576_000, *dates]
    first = mnt / "INBOX" / "1.eml"
    with first.open("ab") as file:
        os.utime(file.fileno(), (-77, -77))
        file.write(b"more\n")
    assert first.stat().st_mtime == -77
    account.forget_cache()
    assert account.fetch()[-1].received == -77


@pytest.mark.parametrize(
    ("line", "attribute", "shown"),
    [
        (b"Gname\xff\xfe of \xc3\xa4\xc3", "guid", "name\\xff\\xfe of ä\\xc3"),
        (b"P\x80uidl", "pop3_uidl", "\\x80uidl"),
        (b"BArch\xf0\x9f", "orig_mailbox", "Arch\\xf0\\x9f"),
    ],
)
def test_extended_attributes_are_utf8_whatever_the_metadata_hold(
    dovecot: Dovecot, mounts: Mounts, line: bytes, attribute: str, shown: str
) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.append([Append(b"Subject: s\n\ntext\n")])
    (path,) = account.root.rglob("u.1")
    path.write_bytes(path.read_bytes().replace(b"\nG", b"\n" + line + b"\nG"))
    mnt = mounts.mount(account.location)
    assert os.getxattr(mnt / "INBOX" / "1.eml", f"user.dbox.{attribute}") == shown.encode()
    assert xattrs(mnt / "INBOX" / "1.eml")[attribute] == shown


@pytest.mark.expected_log("u.2: damaged")
def test_no_attribute_of_any_message_or_mailbox_has_bytes_that_are_no_utf8(
    dovecot: Dovecot, mounts: Mounts
) -> None:
    """Junk in each line of the metadata, in a keyword, and in the name of a directory."""
    account = dovecot.account("sdbox:{home}/mail")
    account.save(b"Subject: s\n\ntext\n")
    account.doveadm("mailbox create", "Cafe")
    account.append([Append(b"Subject: s\n\ntext\n", "kwplain") for _ in range(3)], "Cafe")
    box = account.root / "mailboxes" / "Cafe" / "dbox-Mails"
    lines = [b"Gname\xff\xfe", b"P\x80uidl", b"BArch\xf0\x9f", b"X\xff", b"Z\xff"]
    first = box / "u.1"
    metadata = first.read_bytes().replace(b"\nG", b"\n" + b"\n".join(lines[:3]) + b"\nG")
    first.write_bytes(metadata)
    second = box / "u.2"
    second.write_bytes(second.read_bytes().replace(b"\nG", b"\n" + b"\n".join(lines[3:]) + b"\nG"))
    log = box / "dovecot.index.log"
    changed = log.read_bytes().replace(b"kwplain", b"kw\xff\xe9ain")
    assert changed != log.read_bytes()
    log.write_bytes(changed)
    for path in box.glob("dovecot.index*"):
        if path != log:
            path.unlink()
    named = os.fsencode(account.root / "mailboxes") + b"/Caf\xe9"
    os.rename(box.parent, named)
    mnt = mounts.mount(account.location)
    (shown,) = [path for path in mnt.iterdir() if path.name.startswith("Caf")]
    seen = {}
    for path in (shown, *sorted(shown.iterdir())):
        for name in os.listxattr(path):
            value = os.getxattr(path, name)
            assert value.decode("utf-8").isprintable(), (path, name, value)
            seen[name.removeprefix("user.dbox."), path.name] = value.decode()
    assert seen["mailbox", shown.name] == "Caf%E9"  # as it is called
    assert seen["keywords", "3.eml"] == "kw\\xff\\xe9ain"
    assert seen["guid", "1.eml"] == "name\\xff\\xfe"
    assert seen["pop3_uidl", "1.eml"] == "\\x80uidl"
    assert seen["orig_mailbox", "1.eml"] == "Arch\\xf0\\x9f"
    assert {name for name, where in seen if where == "1.eml"} == set(MESSAGE)
