"""An mbox comes into a store as Dovecot shows it: the same messages, bytes, uids and flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import dboxfs
from tests.tools.importing.sources import FROM, given, identities, imported, rows, store_of, without

CASES = {
    "oneline": FROM + b"Subject: one\n\nbody\n",
    "blank": FROM + b"Subject: one\n\nbody\n\n",
    "noend": FROM + b"Subject: one\n\nbody",
    "more": FROM + b"Subject: one\n\nbody\n\n\n",
    "close": FROM + b"Subject: one\n\nbody\n" + FROM + b"Subject: two\n\nbody2\n\n" + FROM + b"S: 3\n\nb\n\n",
    "headeronly": FROM + b"Subject: one\n" + FROM + b"Subject: two\n\nbody2\n\n",
    "tooshort": FROM + b"Subject: one\nContent-Length: 3\n\nbody\n\n" + FROM + b"Subject: two\n\nx\n",
    "toolong": FROM + b"Subject: one\nContent-Length: 6\n\nbody\n\n" + FROM + b"Subject: two\n\nx\n",
    "exact": FROM + b"Subject: one\nContent-Length: 4\n\nlast\n" + FROM + b"S: 2\nContent-Length: 1\n\nx\n",
    "inside": FROM + b"S: 1\nContent-Length: 47\n\n" + FROM + b"nomsg\n" + FROM + b"Subject: two\n\nx\n\n",
    "within": FROM + b"S: 1\nContent-Length: 46\n\n" + FROM + b"nomsg\n" + FROM + b"Subject: two\n\nx\n\n",
    "headerend": FROM + b"S: 1\n\n" + FROM + b"S: 2\n\n",
    "headerlf": FROM + b"S: 1\n",
    "quoted": FROM + b"Subject: one\n\n>From me\n>>From you\nFrom him\nFrom her, yes\n\n",
    "pseudo": FROM
    + b"Subject: DON'T DELETE\nX-IMAP: 888 0000000009 kw\n\ninternal\n\n"
    + FROM
    + b"Subject: two\nX-UID: 7\nStatus: RO\nX-Status: AFDT\n\nx\n\n",
    "uids": FROM
    + b"S: 1\nX-IMAPbase: 777 0000000030 a b\nX-UID: 4\nX-Keywords: b\n  a\nStatus: O\n\nx\n\n"
    + FROM
    + b"S: 2\nX-UID: 9\nStatus: R\n\ny\n\n",
    "nouids": FROM + b"S: 1\nX-UID: 4\n\nbody\n\n" + FROM + b"S: 2\nX-UID: 2\n\nx\n\n",
    "large": FROM + b"S: 1\n\n" + b"0123456789 From here\n" * 60_000 + b"\n" + FROM + b"S: 2\n\nend\n\n",
    "empty": b"",
}


@pytest.fixture
def mboxes(dovecot: Dovecot) -> Path:
    root = dovecot.root / "home" / "mboxes"
    root.mkdir(exist_ok=True)
    for name, data in CASES.items():
        (root / name).write_bytes(data)
    return root


async def test_dovecot_finds_the_same_messages_in_an_mbox_as_we_do(dovecot: Dovecot) -> None:
    source = dovecot.account("mbox:{home}/mail:INBOX={home}/mail/inbox")
    source.root.mkdir()
    for name, data in CASES.items():
        (source.root / name).write_bytes(data)
    target = store_of(dovecot, "mdbox")
    done = await imported(source.root, target.root)
    assert (done.failed, done.told) == ([], [])
    given(source, source.root)
    given(target, target.root)
    ours, theirs = (without(rows(account), "guid", "saved") for account in (target, source))
    assert ours.keys() - {"INBOX"} == theirs.keys() - {"INBOX"}
    for name in CASES:
        assert ours[name] == theirs[name], name
    for name in ("pseudo", "uids"):
        assert (
            identities(target, "uidvalidity", "uidnext")[name]
            == (identities(source, "uidvalidity", "uidnext")[name])
        )


async def test_mail_that_dovecot_keeps_in_mboxes_comes_with_flags_and_keywords(dovecot: Dovecot) -> None:
    source = dovecot.account("mbox:{home}/mail:INBOX={home}/mail/inbox")
    source.append(
        [
            Append(
                b"Subject: a\r\n\r\nx\r\nFrom y\r\n\r\n" + FROM.replace(b"\n", b"\r\n") + b"z\r\n",
                r"\Seen $Label1 Work",
                "01-Jan-2001 10:00:00 +0000",
            ),
            Append(b"Subject: b\r\n\r\nx\r\n", r"\Flagged \Deleted \Answered", "01-Jan-1985 10:00:00 +0000"),
            Append(b"Subject: c\r\n\r\n", r"\Draft", "01-Jan-2030 10:00:00 +0200"),
        ]
    )
    source.doveadm("mailbox create", "Grün/Sub", "Empty")
    source.doveadm("mailbox subscribe", "Grün/Sub")
    source.save(b"Subject: d\n\nd\n", "Grün/Sub")
    target = store_of(dovecot, "sdbox")
    expected = rows(source)
    assert (await imported(source.root, target.root, kind="sdbox")).failed == []
    given(target, target.root)
    assert without(rows(target), "guid", "saved") == without(expected, "guid", "saved")
    assert target.subscriptions() == source.subscriptions()
    validity = identities(source, "uidvalidity", "uidnext", "unseen")
    assert {
        name: identities(target, "uidvalidity", "uidnext", "unseen")[name] for name in ("INBOX", "Grün/Sub")
    } == {name: validity[name] for name in ("INBOX", "Grün/Sub")}


async def test_a_single_mbox_goes_where_it_is_told_and_twice_changes_nothing(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    source = tmp_path / "old.mbox"
    source.write_bytes((FROM + b"Subject: same\n\nsame\n\n") * 3)
    target = store_of(dovecot, "mdbox")
    command = ("import", str(source), str(target.root), "--format", "mdbox", "--mailbox", "Old/Mail")
    done = dboxfs(*command, "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert [message.uid for message in target.fetch("Old/Mail")] == [1, 2, 3]
    assert len({message.guid for message in target.fetch("Old/Mail")}) == 3
    again = dboxfs(*command)
    assert "0 messages imported" in again.stdout
    assert len(target.fetch("Old/Mail")) == 3
    assert dboxfs("check", target.location).returncode == 0


async def test_an_mbox_that_was_cut_off_is_told_and_what_is_there_comes(tmp_path: Path) -> None:
    source = tmp_path / "cut"
    source.write_bytes(FROM + b"S: 1\n\nx\n\n" + FROM + b"S: 2\nContent-Length: 100\n\nhalf")
    done = await imported(source, tmp_path / "store")
    assert done.messages == 2
    assert len(done.told) == 1
    assert "it ends 96 bytes before its Content-Length: the file may be cut off" in done.told[0]
    assert dboxfs("import", str(source), str(tmp_path / "store")).returncode == 1


async def test_thunderbirds_folders_and_dovecots_dirname_are_understood(tmp_path: Path) -> None:
    root = tmp_path / "mail"
    (root / "Work.sbd").mkdir(parents=True)
    (root / "Old" / "Sub").mkdir(parents=True)
    for name in ("Work", "Work.sbd/Sub", "Old/mBoX-MeSsAgEs", "Old/Sub/mBoX-MeSsAgEs"):
        (root / name).write_bytes(FROM + b"S: 1\n\nx\n\n")
    (root / "Work.msf").write_bytes(b"an index of Thunderbird's")
    (root / "picture.png").write_bytes(b"\x89PNG")
    done = await imported(root, tmp_path / "store")
    assert (done.messages, done.failed) == (4, [])
    assert [line for line in done.notes if "picture.png: left out" in line] == done.notes
    tree = tmp_path / "store" / "mailboxes"
    names = {str(path.parent.relative_to(tree)) for path in tree.rglob("dbox-Mails")}
    assert names == {"INBOX", "Work", "Work/Sub", "Old", "Old/Sub"}
