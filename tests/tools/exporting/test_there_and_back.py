"""A store that is exported, and what a real Dovecot shows of that; and the store that is made of it again."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store, parse_location
from dboxfs.store.names.read import NameReader
from dboxfs.store.write import NewMessage, StoreWriter
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import dboxfs
from tests.tools.importing.sources import Rows, identities, rows, store_of, without

CRLF = b"Subject: crlf\r\nX-A: b\r\n\r\nline\r\n"
OLD, LATE = -315_583_200, 4_417_930_800  # 1960, 2110


async def fill(account: Account, *, crlf: bool = True) -> None:
    """A store that the real Dovecot has made: flags, keywords, copies, names, line ends; dates that it can't
    be told by IMAP come from our writer."""
    account.append(
        [
            Append(b"Subject: a\r\n\r\nx\r\nFrom y\r\n", r"\Seen $Label1 Work", "01-Jan-2001 10:00:00 +0000"),
            Append(b"Subject: b\r\n\r\nx\r\n>From z\r\n", r"\Flagged \Deleted \Answered"),
            Append(b"Subject: c\r\nStatus: mine\r\n\r\nx", r"\Draft", "01-Jan-2030 10:00:00 +0000"),
            Append(b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 40_000),
        ]
    )
    account.save(b"Subject: no end\n\nno end of line")
    account.doveadm("mailbox create", "Grün/Sub", "Empty", "Work", "Work/Sub")
    account.doveadm("mailbox subscribe", "Grün/Sub", "Work")
    account.doveadm("copy", "Grün/Sub", "mailbox", "INBOX", "all")
    account.doveadm("copy", "INBOX", "mailbox", "INBOX", "uid", "2")
    account.doveadm("flags add", r"\Seen Other", "mailbox", "INBOX", "uid", "6")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1")
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, parse_location(account.location), account.root.stat())
        far = [NewMessage(b"Subject: %d\n\nfar\r\naway\n" % date, date) for date in (OLD, LATE)]
        await writer.save("Work/Sub", [*far, *([NewMessage(CRLF, 5)] if crlf else [])])


def exported(source: Account, target: Account, *options: str) -> subprocess.CompletedProcess[str]:
    done = dboxfs("export", source.location, str(target.root), *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in os.listdir(target.root) if name.startswith(".dboxfs")] == []
    return done


def back(dovecot: Dovecot, source: Account, kind: str) -> Account:
    target = store_of(dovecot, kind)
    done = dboxfs("import", str(source.root), str(target.root), "--format", kind, "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert dboxfs("check", target.location).returncode == 0
    return target


def without_own_lines(found: Rows) -> Rows:
    """As an mbox holds it: a header line ``Status`` of a message's own is not kept."""
    line = b"Status: mine\n"

    def cut(size: int, text: bytes, line_size: int) -> int:
        return size - line_size * text.count(line)

    return {
        name: [
            replace(
                m,
                text=m.text.replace(line, b""),
                physical_size=cut(m.physical_size, m.text, len(line)),
                virtual_size=cut(m.virtual_size, m.text, len(line) + 1),
            )
            for m in messages
        ]
        for name, messages in found.items()
    }


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
@pytest.mark.parametrize("layout", ["maildir++", "fs"])
async def test_dovecots_maildir_driver_shows_the_same_as_of_the_store_and_the_way_back_is_exact(
    dovecot: Dovecot, kind: str, layout: str
) -> None:
    source = dovecot.account(f"{kind}:{{home}}/mail")
    await fill(source)
    expected, identity = rows(source), identities(source)
    target = dovecot.account("maildir:{home}/out" + (":LAYOUT=fs" if layout == "fs" else ""))
    done = exported(source, target, "--format", "maildir", "--layout", layout)
    assert f"mail_location = {target.location}" in done.stdout
    assert without(rows(target), "saved") == without(expected, "saved")
    assert identities(target) == identity
    assert target.subscriptions() == source.subscriptions()
    assert target.mailboxes() == source.mailboxes()
    again = back(dovecot, target, "mdbox")
    assert without(rows(again), "saved") == without(expected, "saved")
    assert identities(again) == identity
    assert again.subscriptions() == source.subscriptions()
    assert again.mailboxes() == source.mailboxes()


async def test_dovecots_mbox_driver_shows_the_same_but_guids_and_the_way_back_too(dovecot: Dovecot) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    await fill(source, crlf=False)
    expected = without(without_own_lines(rows(source)), "saved", "guid")
    target = dovecot.account(
        "mbox:{home}/out:INBOX={home}/out/inbox:DIRNAME=mBoX-MeSsAgEs:INDEX={home}/out.indexes"
    )
    done = exported(source, target, "--format", "mbox")
    assert f"mail_location = {target.location}" in done.stdout
    assert (
        "INBOX: uid 3: an mbox has these header lines for itself, they were left out: status" in done.stdout
    )
    assert without(rows(target), "saved", "guid") == expected
    assert target.subscriptions() == source.subscriptions()
    assert target.mailboxes() == source.mailboxes()
    again = back(dovecot, target, "sdbox")
    assert without(rows(again), "saved", "guid") == expected
    for account in (target, again):
        for name, found in identities(account, "uidvalidity", "uidnext").items():
            if expected[name]:
                assert found == identities(source, "uidvalidity", "uidnext")[name], name


async def test_an_mbox_keeps_line_ends_though_dovecot_shows_headers_with_lf(dovecot: Dovecot) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    source.save(b"Subject: lf\n\nlf\n")
    async with FileSystem(ThreadsDriver()) as fs:
        writer = StoreWriter(fs, parse_location(source.location), source.root.stat())
        await writer.save("INBOX", [NewMessage(CRLF, 5)])
    target = dovecot.account("mbox:{home}/out:INBOX={home}/out/inbox")
    exported(source, target, "--format", "mbox")
    assert target.fetch()[1].text == b"Subject: crlf\nX-A: b\n\nline\r\n"
    assert back(dovecot, target, "mdbox").fetch()[1].text == CRLF


async def test_mailboxes_without_children_are_plain_mbox_files(dovecot: Dovecot, tmp_path: Path) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    source.save(b"Subject: a\n\na\n")
    source.doveadm("mailbox create", "Lists/trio")
    source.save(b"Subject: b\n\nb\n", "Lists/trio")
    target = dovecot.account("mbox:{home}/out:INBOX={home}/out/inbox")
    done = exported(source, target, "--format", "mbox")
    assert f"mail_location = {target.location}\n" in done.stdout
    assert sorted(path.name for path in target.root.rglob("*") if path.is_file()) == ["inbox", "trio"]
    assert without(rows(target), "guid", "saved") == without(rows(source), "guid", "saved")


async def test_plain_files_with_attributes_keep_everything_and_without_what_files_have(
    dovecot: Dovecot,
) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    await fill(source)
    expected, identity = rows(source), identities(source)
    plain, full = (dovecot.account("sdbox:{home}/out") for _ in range(2))
    exported(source, full, "--format", "eml", "--xattrs")
    again = back(dovecot, full, "mdbox")
    assert rows(again) == expected
    assert identities(again) == identity
    assert again.subscriptions() == source.subscriptions()
    exported(source, plain, "--format", "eml")
    assert (plain.root / "Grün" / "Sub" / "5.eml").read_bytes() == b"Subject: no end\n\nno end of line"
    assert [int(path.stat().st_mtime) for path in sorted((plain.root / "Work" / "Sub").iterdir())] == [
        OLD,
        LATE,
        5,
    ]
    again = back(dovecot, plain, "mdbox")
    ignored = ("guid", "saved")
    bare = {
        name: [replace(m, flags="", keywords="") for m in found]
        for name, found in without(expected, *ignored).items()
    }
    assert bare.pop("Work") == []  # a directory without files, with others in it: no mailbox
    assert without(rows(again), *ignored) == bare


async def test_names_that_programs_gave_are_those_of_the_files(dovecot: Dovecot) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    for number in (1, 2):
        source.save(b"Subject: %d\n\nx\n" % number)
    async with (
        FileSystem(ThreadsDriver()) as fs,
        open_store(fs, parse_location(source.location), follow=False) as store,
    ):
        from dboxfs.store.names.files import NameFiles
        from dboxfs.store.write import WriteOptions

        reader = NameReader(store)
        await NameFiles(reader, WriteOptions()).record(store.folders["INBOX"], 2, b"note.txt")
    target = dovecot.account("sdbox:{home}/out")
    exported(source, target, "--format", "eml")
    assert sorted(os.listdir(target.root / "INBOX")) == ["1.eml", "note.txt"]


async def test_keywords_beyond_the_26th_are_told(dovecot: Dovecot) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    words = " ".join(f"word{n}" for n in range(28))
    source.append([Append(b"Subject: a\r\n\r\na\r\n", words)])
    target = dovecot.account("maildir:{home}/out")
    done = exported(source, target, "--format", "maildir")
    assert "INBOX: uid 1: keywords beyond the 26th of the mailbox have no letter: left out" in done.stdout
    (message,) = target.fetch()
    assert message.keywords.split() == words.split()[:26]


async def test_a_damaged_message_is_told_and_the_others_are_there(dovecot: Dovecot, tmp_path: Path) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    for number in range(3):
        source.save(b"Subject: %d\n\nx\n" % number)
    damaged = source.root / "mailboxes" / "INBOX" / "dbox-Mails" / "u.2"
    damaged.write_bytes(damaged.read_bytes()[:40])
    for form in ("maildir", "mbox", "eml"):
        done = dboxfs("export", source.location, str(tmp_path / form), "--format", form)
        assert done.returncode == 1
        assert [line for line in done.stderr.splitlines() if "INBOX: uid 2 was left out" in line]
        assert ": 2 messages in 1 mailboxes" in done.stdout


def test_a_target_that_is_not_empty_and_names_without_a_place_are_refused_before_anything_is_written(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    source.doveadm("mailbox create", "a.b")
    for name in ("INBOX", "a.b"):
        source.save(b"Subject: a\n\na\n", name)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    full = dboxfs("export", source.location, str(tmp_path / "full"), "--format", "eml")
    assert (full.returncode, len(full.stderr.splitlines())) == (1, 1)
    assert os.listdir(tmp_path / "full") == ["mine"]
    dot = dboxfs("export", source.location, str(tmp_path / "dot"), "--format", "maildir")
    assert (dot.returncode, len(dot.stderr.splitlines())) == (2, 1)
    assert "--layout fs" in dot.stderr
    assert not (tmp_path / "dot").exists()
    nowhere = dboxfs("export", source.location, str(tmp_path / "no" / "where"), "--format", "eml")
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (3, 1)
    fs = dboxfs("export", source.location, str(tmp_path / "fs"), "--format", "maildir", "--layout", "fs")
    assert fs.returncode == 0
