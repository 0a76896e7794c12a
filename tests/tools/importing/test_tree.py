"""A tree that was copied out of a mount comes back: with attributes as it was, else as far as files say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.live.dovecot import Dovecot
from tests.live.mounts import dboxfs
from tests.tools.importing.sources import RECEIVED, given, identities, imported, store_of, text

GUID = "b82af11261c8006b4948000083ecc375"


def message(path: Path, data: bytes, mtime: int = RECEIVED, **attributes: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    for name, value in attributes.items():
        os.setxattr(path, f"user.dbox.{name}", value.encode())
    os.utime(path, (mtime, mtime))


def mailbox(path: Path, **attributes: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, value in attributes.items():
        os.setxattr(path, f"user.dbox.{name}", value.encode())


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_everything_that_attributes_say_is_kept(dovecot: Dovecot, tmp_path: Path, kind: str) -> None:
    inbox, sub = tmp_path / "t" / "INBOX", tmp_path / "t" / "Grün" / "Sub"
    message(
        inbox / "9.eml", text(9), uid="9", guid=GUID, flags="\\Answered \\Seen \\Recent",
        keywords="Work $Label1", received="1960-01-01T10:00:00Z", saved="2019-05-06T07:08:09Z",
    )  # fmt: skip
    message(inbox / "note", b"no header", uid="7", guid="1.a.host,S=9", received="2110-01-01T00:00:00Z")
    message(sub / "1.eml", text(9), uid="3", guid=GUID, received="1960-01-01T10:00:00Z")
    mailbox(inbox, mailbox="INBOX", guid="11" * 16, uidvalidity="777", uidnext="30", subscribed="0")
    mailbox(tmp_path / "t" / "Grün", mailbox="Grün", subscribed="0")
    mailbox(sub, mailbox="Grün/Sub", guid="22" * 16, uidvalidity="888", uidnext="4", subscribed="1")
    target = store_of(dovecot, kind)
    done = await imported(tmp_path / "t", target.root, kind=kind)
    assert (done.failed, done.told, done.messages, done.copies) == ([], [], 3, 1)
    given(target, target.root)
    note, nine = target.fetch()
    assert (note.uid, note.guid, note.text, note.received) == (7, "1.a.host,S=9", b"no header", 4417977600)
    assert (nine.uid, nine.guid, nine.flags) == (9, GUID, "\\Answered \\Seen")
    assert (nine.keywords.split(), nine.received) == (["Work", "$Label1"], -315583200)
    (copy,) = target.fetch("Grün/Sub")
    assert (copy.uid, copy.guid, copy.text) == (3, GUID, text(9))
    if kind == "mdbox":
        assert nine.saved == 1557126489
    assert identities(target, "guid", "uidvalidity", "uidnext") == {
        "INBOX": ("11" * 16, 777, 30),
        "Grün/Sub": ("22" * 16, 888, 4),
    }
    assert target.subscriptions() == ["Grün/Sub"]
    copy_of_it = tmp_path / "again"
    assert dboxfs("export", target.location, str(copy_of_it), "--format", "eml").returncode == 0
    assert sorted(str(path.relative_to(copy_of_it)) for path in copy_of_it.rglob("*") if path.is_file()) == [
        "Grün/Sub/3.eml", "INBOX/9.eml", "INBOX/note",
    ]  # fmt: skip
    assert dboxfs("check", target.location).returncode == 0


async def test_without_attributes_names_give_uids_and_mtimes_dates(dovecot: Dovecot, tmp_path: Path) -> None:
    root = tmp_path / "t"
    message(root / "INBOX" / "10.eml", text(10), RECEIVED + 10)
    message(root / "INBOX" / "9.eml", text(9), RECEIVED + 9)
    message(root / "INBOX" / "named", text(1), RECEIVED - 5)
    message(root / "Work" / "Sub" / "1.eml", text(1), -315583200)
    target = store_of(dovecot, "mdbox")
    assert (await imported(root, target.root)).failed == []
    given(target, target.root)
    assert [(m.uid, m.text, m.received) for m in target.fetch()] == [
        (9, text(9), RECEIVED + 9),
        (10, text(10), RECEIVED + 10),
        (11, text(1), RECEIVED - 5),
    ]
    assert [m.received for m in target.fetch("Work/Sub")] == [-315583200]
    assert set(target.status()) == {"INBOX", "Work/Sub"}


async def test_a_file_that_is_no_mail_is_told_and_left_out(tmp_path: Path) -> None:
    root = tmp_path / "t" / "INBOX"
    message(root / "1.eml", text(1))
    message(root / "picture.png", b"\x89PNG\r\n")
    message(root / ".hidden", b"nobody's")
    done = await imported(tmp_path / "t", tmp_path / "store")
    assert done.messages == 1
    assert done.failed == [
        f"{root}/picture.png: left out: it is no mail: it doesn't begin with a header line"
    ]


async def test_two_files_with_one_uid_are_two_messages(dovecot: Dovecot, tmp_path: Path) -> None:
    root = tmp_path / "t" / "INBOX"
    message(root / "a", text(1), uid="5", guid="aa" * 16)
    message(root / "b", text(2), uid="5", guid="bb" * 16)
    target = store_of(dovecot, "mdbox")
    done = await imported(tmp_path / "t", target.root)
    assert (done.messages, done.renumbered) == (2, 1)
    given(target, target.root)
    assert [(m.uid, m.guid, m.text) for m in target.fetch()] == [
        (5, "aa" * 16, text(1)),
        (6, "bb" * 16, text(2)),
    ]


async def test_attributes_that_no_message_can_have_cost_no_message(tmp_path: Path) -> None:
    message(
        tmp_path / "t" / "INBOX" / "1.eml", text(1), uid="1", keywords="fine no(good)", guid="a\nb",
        orig_mailbox="\r", pop3_uidl="x\ny", received="never", flags="None",
    )  # fmt: skip
    done = await imported(tmp_path / "t", tmp_path / "store")
    assert (done.messages, done.failed) == (1, [])
    assert len(done.told) == 1
    assert "'no(good)' can't be a keyword: left out" in done.told[0]


async def test_one_directory_of_messages_goes_where_it_is_told(dovecot: Dovecot, tmp_path: Path) -> None:
    message(tmp_path / "box" / "4.eml", text(4))
    target = store_of(dovecot, "mdbox")
    await imported(tmp_path / "box", target.root, only="Work/Back")
    given(target, target.root)
    assert [(m.uid, m.text) for m in target.fetch("Work/Back")] == [(4, text(4))]


async def test_a_text_that_begins_like_a_compressed_one_is_shown_as_it_is(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    data = b"\x1f\x8bSubject: no gzip\n\n" + bytes(range(256))
    message(tmp_path / "t" / "INBOX" / "1.eml", data)
    target = store_of(dovecot, "sdbox")
    assert (await imported(tmp_path / "t", target.root, kind="sdbox")).told == []
    given(target, target.root)
    assert [m.text for m in target.fetch()] == [data]
