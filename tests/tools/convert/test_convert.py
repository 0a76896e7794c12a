"""A converted store is, to Dovecot, the store that it was."""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

import pytest

from dboxfs.dbox import RecordWriter, encode_file_header3
from dboxfs.index import payload
from dboxfs.index.log import RecordType, encode_record, encode_transaction
from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import dboxfs
from tests.store.write.stores import RESYNC, assert_resync_changes_nothing, body
from tests.tools.convert.showing import Showing, assert_consistent, assert_shows, converted, tree


def fill(account: Account) -> None:
    """A store with something of everything."""
    account.append(corpus.with_flags(corpus.nasty() | corpus.real()))
    account.doveadm("mailbox create", "Work/Sub", "Work", "Größe & Co/日本語", "Empty")
    account.doveadm("mailbox delete", "Work")
    account.doveadm("mailbox subscribe", "Work/Sub", "Größe & Co/日本語", "Nowhere")
    account.append(
        [Append(body(n, 3000), r"\Seen z", "01-Feb-2020 00:00:00 +0000") for n in range(20)], "Work/Sub"
    )
    account.doveadm("flags add", "later $Label1", "mailbox", "Work/Sub", "uid", "3,5")
    account.doveadm("copy", "Größe & Co/日本語", "mailbox", "INBOX", "uid", "1:9")
    account.doveadm("copy", "Work/Sub", "mailbox", "Work/Sub", "uid", "2")
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "3,7:11,40:*")
    account.doveadm("flags remove", r"\Seen", "mailbox", "INBOX", "uid", "12")


@pytest.mark.expected_log(*RESYNC)
@pytest.mark.parametrize(("kind", "zlib"), [("sdbox", ""), ("mdbox", "gz")])
def test_there_and_back_it_is_the_same_to_dovecot(dovecot: Dovecot, kind: str, zlib: str) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail", **({"zlib_save": zlib} if zlib else {}))
    fill(account)
    expected = Showing.of(account)
    before = tree(account.root)
    other = converted(dovecot, account.location, "mdbox" if kind == "sdbox" else "sdbox", "--verify")
    assert tree(account.root) == before
    assert_consistent(other)
    assert_shows(other, expected)
    back = converted(dovecot, other.location, kind, "--verify")
    assert_shows(back, expected)
    for one in (other, back):
        one.append([Append(b"Subject: new\n\ntext\n")])
    assert_resync_changes_nothing(other)


@pytest.mark.parametrize(("kind", "between"), [("sdbox", "mdbox"), ("mdbox", "sdbox")])
def test_through_format_3_and_back_it_is_the_same_to_dovecot(
    dovecot: Dovecot, kind: str, between: str
) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail", zlib_save="zstd")
    fill(account)
    expected = Showing.of(account)
    other = converted(dovecot, account.location, between, "--dbox-version", "3", "--verify")
    assert_consistent(other)
    assert (other.root / "dboxfs-version").read_bytes() == b"3\n"
    assert not any(data.startswith(b"2 M") for _, _, _, data in tree(other.root).values())
    back = converted(dovecot, str(other.root), kind, "--verify")
    assert_shows(back, expected)


@pytest.mark.parametrize(("kind", "target"), [("sdbox", "mdbox"), ("mdbox", "sdbox")])
def test_external_attachments_are_put_back_into_their_messages(
    dovecot: Dovecot, kind: str, target: str
) -> None:
    account = dovecot.account(
        f"{kind}:{{home}}/mail", mail_attachment_dir="{home}/attachments", mail_attachment_min_size="1k"
    )
    account.append(corpus.with_flags(corpus.attachments()))
    account.doveadm("copy", "INBOX", "mailbox", "INBOX", "uid", "1:2")
    expected = Showing.of(account)
    assert any((account.home / "attachments").rglob("*-*"))
    other = converted(
        dovecot, account.location, target, "--verify", "--attachments", str(account.home / "attachments")
    )
    assert_shows(other, expected)


@pytest.mark.parametrize(("kind", "target"), [("sdbox", "mdbox"), ("mdbox", "sdbox")])
def test_a_source_in_many_places_becomes_one_tree(dovecot: Dovecot, kind: str, target: str) -> None:
    options = ":INDEX={home}/index:CONTROL={home}/control:ALT={home}/alt:UTF-8"
    account = dovecot.account(f"{kind}:{{home}}/mail{options}")
    account.doveadm("mailbox create", "Größe/日本", "a&b")
    account.append([Append(body(n)) for n in range(9)], "Größe/日本")
    account.append([Append(body(n)) for n in range(9)])
    account.doveadm("altmove", "mailbox", "INBOX", "uid", "2:5")
    assert any((account.home / "alt").rglob("[um].[0-9]*"))
    account.doveadm("mailbox subscribe", "Größe/日本")
    expected = Showing.of(account)
    other = converted(dovecot, account.location, target, "--verify", suffix=":UTF-8")
    assert_shows(other, expected)


@pytest.mark.parametrize("target", ["sdbox", "mdbox"])
def test_copies_are_stored_once(dovecot: Dovecot, target: str) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    source.save(body(1, 50_000))
    source.doveadm("mailbox create", "Copies")
    for _ in range(3):
        source.doveadm("copy", "Copies", "mailbox", "INBOX", "uid", "1")
    other = converted(dovecot, source.location, target)
    back = converted(dovecot, other.location, "mdbox")
    for account in (other, back):
        files = {path.stat().st_ino: path.stat().st_size for path in account.root.rglob("[um].[0-9]*")}
        assert 50_000 < sum(files.values()) < 60_000
        account.doveadm("expunge", "mailbox", "INBOX", "all")
        account.doveadm("expunge", "mailbox", "Copies", "uid", "1,3")
        account.doveadm("purge")
        assert [message.text for message in account.fetch("Copies")] == [body(1, 50_000)]


def test_pop3_uidls_and_orders_are_kept(dovecot: Dovecot) -> None:
    source = dovecot.account("sdbox:{home}/mail")
    source.append([Append(body(n)) for n in range(3)])
    give_pop3_lines(source, {1: (b"first", 7), 2: (b"second", 3)})
    expected = Showing.of(source)
    shown = [(values["pop3.uidl"], values["pop3.order"]) for values, _ in expected.messages["INBOX"]]
    assert shown[:2] == [("first", "7"), ("second", "3")]
    other = converted(dovecot, source.location, "mdbox", "--verify")
    assert_shows(other, expected)
    assert_shows(converted(dovecot, other.location, "sdbox", "--verify"), expected)


def give_pop3_lines(account: Account, lines: dict[int, tuple[bytes, int]]) -> None:
    """What a migration to Dovecot leaves: P and O lines, an index that says so (dbox-files section 1.4)."""
    directory = account.root / "mailboxes/INBOX/dbox-Mails"
    for uid, (uidl, order) in lines.items():
        path = directory / f"u.{uid}"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"P%s\nO%d\n\n" % (uidl, order))
    records = [
        encode_record(RecordType.EXT_INTRO, payload.ext_intro("dbox-hdr", hdr_size=24), external=True),
        encode_record(RecordType.EXT_HDR_UPDATE, payload.ext_hdr_update(20, b"\x03"), external=True),
        encode_record(RecordType.EXT_INTRO, payload.ext_intro("hdr-pop3-uidl", hdr_size=4), external=True),
        encode_record(
            RecordType.EXT_HDR_UPDATE,
            payload.ext_hdr_update(0, struct.pack("<I", max(lines))),
            external=True,
        ),
    ]
    with (directory / "dovecot.index.log").open("ab") as log:
        log.write(encode_transaction(records))


def write_plain(path: Path, text: bytes) -> None:
    """A message of format 3 that is not compressed, whatever it begins with."""
    key = bytes(range(16))
    head = encode_file_header3(1, key)
    record = RecordWriter(key, len(head), bytes(16))
    record.feed(text)
    virtual, guid = len(text) + text.count(b"\n"), crc32(text)
    tail = record.trailer([(b"R", b"1"), (b"V", b"%x" % virtual), (b"G", b"%032x" % guid)])
    path.write_bytes(head + record.header + text + tail)


LIKE_GZIP = b"\x1f\x8b\x08 looks like gzip, is text\n"


def test_what_format_2_takes_for_compressed_is_stored_compressed(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.append([Append(body(n)) for n in range(3)])
    third = account.root.parent / "third"  # its owner can get there
    assert dboxfs("convert", account.location, str(third), "--dbox-version", "3").returncode == 0
    large = LIKE_GZIP * 20_000
    for uid, text in ((2, LIKE_GZIP), (3, large)):
        write_plain(third / f"mailboxes/INBOX/dbox-Mails/u.{uid}", text)
    for kind in ("sdbox", "mdbox"):
        back = dovecot.account(f"{kind}:{{home}}/mail")
        done = dboxfs("convert", str(third), str(back.root), "--format", kind, "--verify")
        assert (done.returncode, done.stderr) == (0, "")
        assert [message.text for message in back.fetch()] == [body(0), LIKE_GZIP, large]
        assert dboxfs("check", back.location).returncode == 0
    fourth = account.root.parent / "fourth"
    assert dboxfs("convert", str(third), str(fourth), "--dbox-version", "3", "--verify").returncode == 0
