"""What is there of a store comes back, as Dovecot shows it; what can't be known is told."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.live import corpus
from tests.live.dovecot import Append, Dovecot, Fetched
from tests.live.mounts import dboxfs
from tests.store.write.stores import RESYNC, Shown, assert_resync_changes_nothing, everything
from tests.tools.check.stores import DRIVERS, check, lively_account
from tests.tools.rescue.rescued import rescue

pytestmark = pytest.mark.expected_log(*RESYNC)


def same(message: Fetched, driver: str) -> dict[str, object]:
    """What a rescue keeps: all but modseqs, and in an sdbox the saved date, which is the file's."""
    values = asdict(message)
    del values["modseq"]
    values["keywords"] = sorted(message.keywords.split())  # in the order of the index, which means nothing
    if driver == "sdbox":
        del values["saved"]
    return values


def assert_same(before: dict[str, Shown], after: dict[str, Shown], driver: str) -> None:
    assert sorted(before) == sorted(after)
    for name, shown in before.items():
        assert [same(m, driver) for m in after[name].messages] == [same(m, driver) for m in shown.messages]
        for field in ("guid", "uidvalidity", "uidnext", "messages", "unseen"):
            assert getattr(after[name].status, field) == getattr(shown.status, field), (name, field)


@pytest.mark.parametrize("target", DRIVERS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_healthy_store_comes_back_as_it_was(dovecot: Dovecot, driver: str, target: str) -> None:
    account = lively_account(dovecot, driver, zlib_save="gz")
    account.doveadm("mailbox subscribe", "Work/Sub", "Gone")
    before = everything(account)
    done = rescue(dovecot, account.location, target)
    assert (done.status, done.events, done.stderr) == (0, [], "")
    assert done.summary["expunged"] == (4 if driver == "mdbox" else 0)
    assert_same(before, everything(done.account), "sdbox" if "sdbox" in (driver, target) else "mdbox")
    assert done.account.subscriptions() == account.subscriptions()
    assert_resync_changes_nothing(done.account)
    report = check(done.account.location, "--unused")
    assert (report.status, report.loud()) == (0, [])


@pytest.mark.parametrize("driver", DRIVERS)
def test_texts_of_every_kind_come_back_byte_for_byte(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", zlib_save="zstd")
    account.append([Append(data) for data in corpus.nasty().values()])
    account.append([Append(corpus.huge())])
    before = everything(account)
    done = rescue(dovecot, account.location, driver)
    assert (done.status, done.events) == (0, [])
    assert_same(before, everything(done.account), driver)


def test_attachments_are_put_back(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail", mail_attachment_dir="{home}/attachments")
    account.append([Append(data) for data in corpus.attachments().values()])
    before = everything(account)
    done = rescue(dovecot, account.location, "sdbox", "--attachments", str(account.home / "attachments"))
    assert (done.status, done.events) == (0, [])
    assert_same(before, everything(done.account), "sdbox")
    without = rescue(dovecot, account.location, "sdbox")
    assert (without.status, without.codes()) == (1, {"refused"})


@pytest.mark.parametrize("driver", DRIVERS)
def test_without_any_index_every_text_comes_back(dovecot: Dovecot, driver: str) -> None:
    account = lively_account(dovecot, driver)
    if driver == "mdbox":
        account.purge()
    before = everything(account)
    for path in [*account.root.rglob("dovecot.index*"), *account.root.rglob("dovecot.map.index*")]:
        path.unlink()
    done = rescue(dovecot, account.location, driver)
    after = everything(done.account)
    assert done.status == 1
    assert "index-lost" in done.codes()
    assert sorted(after) == sorted(before)
    texts = {m.guid: m.text for shown in before.values() for m in shown.messages}
    assert {m.guid: m.text for shown in after.values() for m in shown.messages} == texts
    if driver == "sdbox":  # the file names say mailbox and uid
        for name, shown in before.items():
            assert after[name].uids == shown.uids
            assert after[name].texts == shown.texts
    else:  # each once, in the mailbox that it was saved to first
        assert sum(len(shown.messages) for shown in after.values()) == len(texts)
        assert done.summary["unplaced"] == len(texts)
    assert_resync_changes_nothing(done.account)


def test_without_a_map_messages_are_found_by_their_guids(dovecot: Dovecot) -> None:
    account = lively_account(dovecot, "mdbox")
    before = everything(account)
    expunged = 4
    for path in account.root.rglob("dovecot.map.index*"):
        path.unlink()
    done = rescue(dovecot, account.location, "mdbox")
    after = everything(done.account)
    assert (done.status, done.codes()) == (1, {"index-lost", "unplaced"})
    for name, shown in before.items():
        uids = set(shown.uids)
        known = [same(m, "mdbox") for m in after[name].messages if m.uid in uids]
        assert [{**m, "seq": 0} for m in known] == [{**same(m, "mdbox"), "seq": 0} for m in shown.messages]
    back = [m for name, shown in after.items() for m in shown.messages if m.uid not in before[name].uids]
    assert len(back) == expunged  # nobody can know any more that they were
    assert all("perhaps it was expunged" in str(e["what"]) for e in done.events if e["code"] == "unplaced")
    assert_resync_changes_nothing(done.account)


@pytest.mark.parametrize("driver", DRIVERS)
def test_damaged_messages_are_told_and_saved_apart_if_wanted(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.append(corpus.with_flags(corpus.real()))
    before = everything(account)
    victim = before["INBOX"].messages[24]
    if driver == "sdbox":
        path = account.root / "mailboxes/INBOX/dbox-Mails/u.25"
    else:
        path = account.root / "storage/m.1"
    data = path.read_bytes()
    at = data.index(victim.text)
    path.write_bytes(
        data[: at + 40] + bytes(200) + data[at + 240 :] if driver == "mdbox" else data[: at + 100]
    )
    damaged = path.read_bytes()
    if driver == "mdbox":  # the header too, so that nothing proves the text
        path.write_bytes(damaged[: at - 30] + bytes(30) + damaged[at:])
    done = rescue(dovecot, account.location, driver)
    assert (done.status, done.codes()) == (1, {"damaged"})
    (event,) = done.events
    assert (event["mailbox"], event["uid"]) == ("INBOX", 25)
    after = everything(done.account)["INBOX"]
    assert after.uids == [uid for uid in before["INBOX"].uids if uid != 25]
    assert after.texts == [m.text for m in before["INBOX"].messages if m.uid != 25]
    partly = rescue(dovecot, account.location, driver, "--partial")
    assert partly.summary["damaged"] == 1
    assert_resync_changes_nothing(partly.account)
    (piece,) = everything(partly.account)["Rescued-Damaged"].texts
    if driver == "sdbox":
        assert piece == victim.text[:100]
    else:
        assert piece == victim.text[:40] + bytes(200) + victim.text[240:]


def test_files_without_a_record_come_back(dovecot: Dovecot) -> None:
    account = lively_account(dovecot, "sdbox")
    box = account.root / "mailboxes/INBOX/dbox-Mails"
    (box / "u.11").write_bytes((box / "u.15").read_bytes())  # an expunge that was not finished
    (box / "u.9000").write_bytes((box / "u.16").read_bytes())  # a save that was not
    done = rescue(dovecot, account.location, "sdbox")
    assert (done.status, done.codes()) == (1, {"no-record"})
    after = everything(done.account)["INBOX"]
    assert {11, 15, 16, 9000} <= set(after.uids)


def test_a_directory_that_is_not_empty_is_refused(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(b"Subject: one\n\n")
    (tmp_path / "there").write_text("x")
    for target, says in ((tmp_path, "not empty"), (account.root / "new", "must not lie in each other")):
        done = dboxfs("rescue", account.location, target)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = dboxfs("rescue", tmp_path / "nothing", tmp_path / "new")
    assert done.returncode == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.mount
def test_of_what_is_no_loss_only_the_first_of_a_kind_are_told(tmp_path: Path) -> None:
    assert dboxfs("init", tmp_path / "old", "--format", "mdbox").returncode == 0
    mount = tmp_path / "mount"
    mount.mkdir()
    assert dboxfs("mount", "-o", "rw,alone", tmp_path / "old", mount).returncode == 0
    for number in range(13):
        (mount / "INBOX" / f"{number}.txt").write_text(f"Subject: {number}\n\n")
    assert dboxfs("umount", mount).returncode == 0
    shutil.rmtree(tmp_path / "old" / "mailboxes")
    for path in (tmp_path / "old").rglob("dovecot.map.index*"):
        path.unlink()
    done = dboxfs("rescue", tmp_path / "old", tmp_path / "new")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("unplaced: INBOX: ")]) == 10
    assert "unplaced: 3 more like that (--json lists all)" in lines
    assert "13 messages were known to no index" in lines


@pytest.mark.parametrize("name", ["u.4294967295", "u.4294967296", "u.9999999999", "u.0123"])
def test_a_file_with_an_impossible_number_is_told_and_nothing_else_suffers(
    dovecot: Dovecot, name: str
) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.append(corpus.with_flags(corpus.real()))
    before = everything(account)
    box = account.root / "mailboxes/INBOX/dbox-Mails"
    shutil.copy(box / "u.2", box / name)
    done = rescue(dovecot, account.location, "sdbox")
    assert (done.status, done.codes(), [e["path"] for e in done.events]) == (
        1,
        {"unreadable"},
        [str(box / name)],
    )
    assert_same(before, everything(done.account), "sdbox")


def test_a_container_with_an_impossible_number_is_told(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append(corpus.with_flags(corpus.real()))
    before = everything(account)
    shutil.copy(account.root / "storage/m.1", account.root / "storage/m.9999999999")
    done = rescue(dovecot, account.location, "mdbox")
    assert (done.status, done.codes()) == (1, {"unreadable"})
    assert_same(before, everything(done.account), "mdbox")


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_date_that_can_not_be_read_is_told(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(b"Subject: one\n\ntext\n")
    path = account.root / ("mailboxes/INBOX/dbox-Mails/u.1" if driver == "sdbox" else "storage/m.1")
    data = path.read_bytes()
    at = data.rindex(b"\nR") + 2
    path.write_bytes(data[:at] + b"z" + data[at + 1 :])
    done = rescue(dovecot, account.location, driver)
    assert (done.status, done.codes()) == (1, {"doubtful"})
    assert any("received date" in str(event["what"]) for event in done.events)
    assert everything(done.account)["INBOX"].texts == [b"Subject: one\n\ntext\n"]


def test_a_damaged_guid_costs_neither_uid_nor_flags(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append(corpus.with_flags(corpus.real()))
    before = everything(account)
    victim = before["INBOX"].messages[1]
    path = account.root / "storage/m.1"
    data = path.read_bytes()
    assert data.count(victim.guid.encode()) == 1
    path.write_bytes(data.replace(victim.guid.encode(), victim.guid[:24].encode() + b"00000000"))
    done = rescue(dovecot, account.location, "mdbox")
    assert (done.status, done.codes(), done.summary["unplaced"]) == (1, {"doubtful"}, 0)
    after = everything(done.account)["INBOX"].messages
    changed = {**same(victim, "mdbox"), "guid": victim.guid[:24] + "00000000"}
    assert [same(m, "mdbox") for m in after] == [
        changed if m is victim else same(m, "mdbox") for m in before["INBOX"].messages
    ]


def test_a_loss_is_told_once(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.append(corpus.with_flags(corpus.real()))
    (account.root / "mailboxes/INBOX/dbox-Mails/u.3").write_bytes(b"")
    done = rescue(dovecot, account.location, "sdbox")
    lost = [event["uid"] for event in done.events if event["code"] == "lost"]
    assert (lost, "damaged" in done.codes()) == ([3], False)


def test_subscriptions_that_can_not_be_read_are_told(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.save(b"Subject: one\n\ntext\n")
    (account.root / "subscriptions").mkdir()
    done = rescue(dovecot, account.location, "mdbox")
    assert (done.status, done.codes()) == (1, {"unreadable"})
    converted = dboxfs("convert", "--verify", "-q", account.location, tmp_path / "new")
    assert converted.returncode == 1
    assert "the subscriptions were left out" in converted.stderr
    assert (tmp_path / "new" / "mailboxes").is_dir()


def test_a_directory_without_a_name_is_refused(tmp_path: Path) -> None:
    assert dboxfs("init", tmp_path / "old", "--format", "mdbox").returncode == 0
    for command in (
        ["init", "", "--format", "mdbox"],
        ["convert", tmp_path / "old", ""],
        ["rescue", tmp_path / "old", ""],
    ):
        done = dboxfs(*command)
        assert done.returncode == 2
        assert "it is empty" in done.stderr
