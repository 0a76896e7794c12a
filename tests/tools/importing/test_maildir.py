"""A Maildir comes into a store with all that it knows: a real Dovecot shows the same of both."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from dboxfs.tools.importing import NoSource, find_source
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import dboxfs
from tests.tools.importing.sources import (
    given,
    identities,
    imported,
    maildir,
    rows,
    store_of,
    text,
    without,
)


def fill(account: Account) -> None:
    """Mail that a Dovecot has written: by IMAP, with flags, copies, expunges, and by ``doveadm save``."""
    account.append(
        [
            Append(b"Subject: a\r\n\r\nx\r\nFrom y\r\n", r"\Seen $Label1 Work", "01-Jan-2001 10:00:00 +0000"),
            Append(b"Subject: b\r\n\r\nx\r\n", r"\Flagged \Deleted \Answered", "01-Jan-1985 10:00:00 +0000"),
            Append(b"Subject: c\r\n\r\nx\r\n", r"\Draft Work", "01-Jan-2030 10:00:00 +0000"),
            Append(b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 40_000),
        ]
    )
    account.save(b"Subject: saved\n\nno end of line")
    account.doveadm("mailbox create", "Grün/Sub", "Empty", "Grün/日本")
    account.doveadm("mailbox subscribe", "Grün/Sub", "INBOX")
    account.doveadm("copy", "Grün/Sub", "mailbox", "INBOX", "all")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "2")
    account.save(b"Subject: new\n\nnew\n", "Grün/日本")


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
@pytest.mark.parametrize("layout", ["", ":LAYOUT=fs"])
async def test_what_dovecot_shows_of_a_maildir_it_shows_of_the_store(
    dovecot: Dovecot, kind: str, layout: str
) -> None:
    source = dovecot.account("maildir:{home}/Maildir" + layout)
    fill(source)
    target = store_of(dovecot, kind)
    done = dboxfs("import", str(source.root), str(target.root), "--format", kind, "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    ignored = ("saved",) if kind == "sdbox" else ()
    assert without(rows(target), *ignored) == without(rows(source), *ignored)
    assert identities(target) == identities(source)
    assert target.subscriptions() == source.subscriptions()
    assert target.mailboxes() == source.mailboxes()
    assert dboxfs("check", target.location).returncode == 0
    before = rows(target)
    again = dboxfs("import", str(source.root), str(target.root), "--format", kind)
    assert (again.returncode, again.stderr) == (0, "")
    assert ": 0 messages imported" in again.stdout
    assert rows(target) == before


async def test_mail_that_lmtp_delivered_and_nobody_has_seen_comes_too(dovecot: Dovecot) -> None:
    source, target = dovecot.account("maildir:{home}/Maildir"), store_of(dovecot, "mdbox")
    source.save(text(1))
    (name,) = os.listdir(source.root / "cur") or os.listdir(source.root / "new")
    where = "cur" if (source.root / "cur" / name).exists() else "new"
    (source.root / where / name).rename(source.root / "new" / name.partition(":")[0])
    (source.root / "dovecot-uidlist").unlink()
    assert (await imported(source.root, target.root)).failed == []
    given(target, target.root)
    assert [(m.uid, m.guid, m.text) for m in target.fetch()] == [(1, name.partition(":")[0], text(1))]


async def test_messages_that_the_uidlist_does_not_have_come_behind_in_order_of_their_names(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    files = {"9.b:2,S": text(9), "10.a:2,": text(10), "1.x:2,F": text(1), "new/11.c": text(11)}
    source = maildir(tmp_path / "m", files, dovecot_uidlist=b"3 V777 N30\n20 :10.a\n")
    target = store_of(dovecot, "mdbox")
    assert (await imported(source, target.root)).told == []
    given(target, target.root)
    found = [(m.uid, m.guid, m.flags, m.text) for m in target.fetch()]
    assert found == [
        (20, "10.a", "", text(10)),
        (30, "1.x", "\\Flagged", text(1)),
        (31, "9.b", "\\Seen", text(9)),
        (32, "11.c", "", text(11)),
    ]
    assert identities(target, "uidvalidity", "uidnext")["INBOX"] == (777, 33)


async def test_names_are_modified_utf7_or_utf8_and_plain_directories_are_mailboxes(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1)})
    for name in (".Gr&APw-n.Sub", ".Größe", ".R&D", "Verbatim", "Verbatim/Below"):
        maildir(source / name, {"2.a": text(2)})
    (source / "courierimapsubscribed").write_bytes("INBOX.Gr&APw-n.Sub\nINBOX\nINBOX.Größe\n".encode())
    target = store_of(dovecot, "mdbox")
    assert (await imported(source, target.root)).failed == []
    given(target, target.root)
    names = {unicodedata.normalize("NFC", name) for name in target.status()}
    assert names == {"INBOX", "Grün/Sub", "Größe", "R&D", "Verbatim", "Verbatim/Below"}
    assert target.subscriptions() == sorted(["INBOX", "Grün/Sub", "Größe"])


async def test_one_mailbox_alone_comes_if_that_is_wanted(dovecot: Dovecot, tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1)})
    maildir(source / ".Work.Sub", {"2.a": text(2)})
    target = store_of(dovecot, "mdbox")
    assert (await imported(source, target.root, only="Work/Sub")).messages == 1
    given(target, target.root)
    assert {name: len(found) for name, found in rows(target).items()} == {"INBOX": 0, "Work/Sub": 1}
    none = dboxfs("import", str(source), str(target.root), "--format", "mdbox", "--mailbox", "None")
    assert none.returncode == 2
    assert "there is no mailbox None" in none.stderr


async def test_two_files_with_one_base_are_two_messages(tmp_path: Path) -> None:
    source = maildir(
        tmp_path / "m", {"1.a:2,": text(1), "1.a:2,S": text(1), "2.b:2,": text(2), "2.b:2,S": text(3)}
    )
    done = await imported(source, tmp_path / "store")
    assert (done.messages, done.copies, done.reguided, done.failed) == (4, 1, 1, [])
    again = await imported(source, tmp_path / "store")
    assert (again.messages, again.there) == (0, 4)


async def test_files_that_can_not_be_read_are_told_and_the_others_come(tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1), "3.c": text(3)})
    (source / "cur" / "2.gone").symlink_to("nowhere")
    os.mkfifo(source / "cur" / "4.pipe")
    done = await imported(source, tmp_path / "store")
    assert done.messages == 2
    assert len(done.failed) == 2
    assert "2.gone" in done.failed[0] or "vanished" in done.failed[0]
    assert "4.pipe: left out: not a regular file" in done.failed[1]


async def test_a_message_whose_flags_change_meanwhile_is_found_under_its_new_name(tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a:2,": text(1)})
    found = find_source(str(source))
    (box,) = found.mailboxes
    await box.look()
    (source / "cur" / "1.a:2,").rename(source / "cur" / "1.a:2,S")
    chunks = [chunk async for chunk in box.messages()]
    assert [(one.where[-7:], getattr(one, "flags", None)) for one in chunks[0]] == [("1.a:2,S", 8)]


async def test_a_damaged_uidlist_costs_uids_and_no_message(tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1)}, dovecot_uidlist=b"garbage\n")
    done = await imported(source, tmp_path / "store")
    assert (done.messages, done.failed) == (1, [])
    assert "uids and guids are not known" in done.notes[0]


@pytest.mark.parametrize("make", ["missing", "empty", "file", "dbox"])
def test_what_is_no_source_is_refused_in_one_line(tmp_path: Path, make: str) -> None:
    source = tmp_path / "source"
    if make == "empty":
        source.mkdir()
    elif make == "file":
        source.write_bytes(b"\x89PNG no mail")
    elif make == "dbox":
        (source / "mailboxes" / "INBOX" / "dbox-Mails").mkdir(parents=True)
    with pytest.raises(NoSource):
        find_source(str(source))
    done = dboxfs("import", str(source), str(tmp_path / "store"), "--format", "mdbox")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert str(source) in done.stderr
    assert not (tmp_path / "store").exists()
