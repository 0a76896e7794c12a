"""Mail that comes into a store which has mail already takes nothing away, and is there once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.store.write import Neighbour, WriteOptions
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import dboxfs
from tests.tools.importing.sources import identities, imported, maildir, text

BESIDE = WriteOptions(neighbour=Neighbour.DOVECOT)
GUID = "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_beside_a_dovecot_uids_that_are_taken_become_new_ones_and_the_mailbox_stays_itself(
    dovecot: Dovecot, tmp_path: Path, kind: str
) -> None:
    target = dovecot.account(f"{kind}:{{home}}/mail")
    target.append([Append(text(n).replace(b"\n", b"\r\n")) for n in range(3)])
    before, identity = target.fetch(), identities(target, "guid", "uidvalidity")["INBOX"]
    source = maildir(
        tmp_path / "m", {"1.a:2,S": text(11), "2.b:2,": text(12), "3.c:2,": text(13)},
        dovecot_uidlist=b"3 V777 N50 G" + GUID.encode() + b"\n1 :1.a\n20 :2.b\n40 :3.c\n",
    )  # fmt: skip
    done = await imported(source, target.root, kind=kind, options=BESIDE)
    assert (done.messages, done.renumbered, done.failed, done.told) == (3, 1, [], [])
    found = target.fetch()
    assert [m.text for m in found[:3]] == [m.text for m in before]
    assert [(m.uid, m.guid, m.text) for m in found[3:]] == [
        (4, "1.a", text(11)),
        (20, "2.b", text(12)),
        (40, "3.c", text(13)),
    ]
    assert identities(target, "guid", "uidvalidity")["INBOX"] == identity
    target.save(text(14))
    assert target.fetch()[-1].uid == 41
    assert dboxfs("check", target.location).returncode == 0


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
async def test_a_message_that_is_there_is_not_saved_again_and_another_with_its_guid_gets_its_own(
    dovecot: Dovecot, tmp_path: Path, kind: str
) -> None:
    target = dovecot.account(f"{kind}:{{home}}/mail")
    target.save(text(1))
    target.doveadm("mailbox create", "Other")
    target.doveadm("copy", "Other", "mailbox", "INBOX", "all")
    (there,) = target.fetch()
    line = f"7 G{there.guid} :1.a\n8 G{there.guid} :2.b\n".encode()
    source = maildir(
        tmp_path / "m", {"1.a:2,": text(1), "2.b:2,": text(2)}, dovecot_uidlist=b"3 V7 N9\n" + line
    )
    done = await imported(source, target.root, kind=kind, options=BESIDE)
    assert (done.messages, done.there, done.reguided, done.failed) == (1, 1, 1, [])
    first, second = target.fetch()
    assert first == there
    assert (second.uid, second.text) == (8, text(2))
    assert second.guid != there.guid
    again = await imported(source, target.root, kind=kind, options=BESIDE)
    assert (again.messages, again.there) == (0, 2)
    assert dboxfs("check", target.location).returncode == 0


async def test_a_message_that_another_mailbox_has_is_copied_not_stored_twice(
    dovecot: Dovecot, tmp_path: Path
) -> None:
    target = dovecot.account("mdbox:{home}/mail")
    target.append([Append(b"Subject: 1\r\n\r\nline\r\n", "", "01-Jul-2010 08:00:00 +0000")], "INBOX")
    (there,) = target.fetch()
    source = maildir(
        tmp_path / "m" / ".Back", {"1.a:2,F": there.text},
        dovecot_uidlist=f"3 V7 N9\n7 G{there.guid} :1.a\n".encode(),
    )  # fmt: skip
    assert source.is_dir()
    done = await imported(tmp_path / "m", target.root, options=BESIDE)
    assert (done.messages, done.copies, done.failed) == (1, 1, [])
    (copy,) = target.fetch("Back")
    assert (copy.uid, copy.guid, copy.flags, copy.text) == (7, there.guid, "\\Flagged", there.text)
    assert target.fetch() == [there]
    assert dboxfs("check", target.location).returncode == 0


async def test_line_ends_become_lf_only_if_that_is_wanted(dovecot: Dovecot, tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a": b"Subject: crlf\r\n\r\nline\r\n"})
    for eol, expected in (("keep", b"Subject: crlf\r\n\r\nline\r\n"), ("lf", b"Subject: crlf\n\nline\n")):
        target = dovecot.account("mdbox:{home}/mail")
        command = ("import", str(source), str(target.root), "--format", "mdbox", "--eol", eol, "--verify")
        assert dboxfs(*command).returncode == 0
        store = tmp_path / eol
        done = dboxfs("export", str(target.root), str(store), "--format", "eml")
        assert done.returncode == 0, done.stderr
        assert (store / "INBOX" / "1.eml").read_bytes() == expected
        assert "0 messages imported" in dboxfs(*command).stdout


def test_a_new_store_belongs_to_the_owner_of_the_directory_above_it(dovecot: Dovecot, tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1)})
    target = dovecot.account("sdbox:{home}/mail")
    assert dboxfs("import", str(source), str(target.root), "--format", "sdbox").returncode == 0
    assert target.root.stat().st_uid == target.home.stat().st_uid
    assert [m.text for m in target.fetch()] == [text(1)]


def test_a_store_of_the_other_format_or_none_is_told(tmp_path: Path) -> None:
    source = maildir(tmp_path / "m", {"1.a": text(1)})
    none = dboxfs("import", str(source), str(tmp_path / "none"))
    assert (none.returncode, len(none.stderr.splitlines())) == (3, 1)
    assert "for a new store: --format mdbox, or sdbox" in none.stderr
    assert dboxfs("import", str(source), str(tmp_path / "s"), "--format", "sdbox").returncode == 0
    other = dboxfs("import", str(source), str(tmp_path / "s"), "--format", "mdbox")
    assert (other.returncode, len(other.stderr.splitlines())) == (3, 1)
    assert "sdbox" in other.stderr
    inside = dboxfs("import", str(source), str(source / "store"), "--format", "mdbox")
    assert inside.returncode == 2
