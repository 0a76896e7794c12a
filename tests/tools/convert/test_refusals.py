"""What a conversion refuses, what it leaves out, and how it says so."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.fsapi import Crash, Fault, FaultsDriver, FileSystem, Permissions, ThreadsDriver
from dboxfs.store import Kind, open_store, parse_location
from dboxfs.store.write import Neighbour, WriteOptions
from dboxfs.store.write.new_store import make_root
from dboxfs.store.write.record import Place
from dboxfs.tools.convert import Converter, ConvertProgress, SourceChanged, VerifyFailed
from dboxfs.tools.convert.encoding import begin_record
from dboxfs.tools.convert.errors import Unfit
from dboxfs.tools.convert.source import Stored
from dboxfs.tools.convert.staging import STAGING, open_workplace
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import dboxfs
from tests.store.write.stores import body
from tests.tools.convert.showing import Showing, assert_shows, tree


@pytest.fixture
def source(dovecot: Dovecot) -> Account:
    account = dovecot.account("sdbox:{home}/mail")
    account.append([Append(body(n), r"\Seen") for n in range(5)])
    return account


def refused(*arguments: str) -> str:
    """The one line with which a conversion is refused."""
    done = dboxfs("convert", *arguments)
    assert done.returncode in (1, 2, 3), done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_directory_with_anything_in_it_is_left_alone(source: Account, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail/precious").write_text("x")
    assert "not empty (precious)" in refused(source.location, str(tmp_path / "mail"))
    assert os.listdir(tmp_path / "mail") == ["precious"]


def test_a_finished_conversion_is_not_begun_again(source: Account, tmp_path: Path) -> None:
    target = str(tmp_path / "mail")
    assert dboxfs("convert", source.location, target).returncode == 0
    before = tree(tmp_path / "mail")
    done = dboxfs("convert", "--verify", source.location, target)  # as if it had been killed behind its end
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished by an earlier run" in done.stdout
    assert "verified: 5 messages" in done.stdout
    assert tree(tmp_path / "mail") == before
    assert "not empty" in refused(source.location, target, "--format", "mdbox")
    assert "not empty" in refused(source.location, target, "--dbox-version", "3")
    source.doveadm("flags add", r"\Flagged", "mailbox", "INBOX", "uid", "1")
    assert "not empty" in refused(source.location, target)
    assert tree(tmp_path / "mail") == before


def test_what_a_finished_conversion_left_out_is_told_again(source: Account, tmp_path: Path) -> None:
    (source.root / "mailboxes/INBOX/dbox-Mails/u.3").write_bytes(b"")
    for _ in range(2):
        done = dboxfs("convert", source.location, str(tmp_path / "mail"), "--format", "mdbox")
        assert done.returncode == 1
        assert [line for line in done.stderr.splitlines() if re.search("INBOX: uid 3 was left out", line)]


def test_source_and_destination_must_not_lie_in_each_other(source: Account) -> None:
    for target in (source.root, source.root / "new", source.root.parent):
        assert "must not lie in each other" in refused(source.location, str(target))
    inbox = source.home / "inbox"
    inbox.mkdir()
    location = f"{source.location}:INBOX={inbox}"
    assert "must not lie in each other" in refused(location, str(inbox / "new"))
    assert sorted(os.listdir(source.root))[0] != ".dboxfs-convert"


def test_a_source_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no dbox store" in refused(str(tmp_path / "empty"), str(tmp_path / "mail"))
    assert not (tmp_path / "mail").exists()


def test_a_missing_directory_above_the_destination_is_named(source: Account, tmp_path: Path) -> None:
    assert "there is no directory" in refused(source.location, str(tmp_path / "no/mail"))


async def begun(source: Account, root: Path, kind: Kind) -> None:
    """A conversion that died right after its journal's first line."""
    where = parse_location(source.location)
    driver = FaultsDriver(ThreadsDriver(), [Fault("append", 1, crash=Crash.AFTER)])
    try:
        async with FileSystem(driver) as fs, open_store(fs, where, follow=False) as store:
            await Converter(fs, store, str(root), kind, options=WriteOptions()).run()
    except* OSError:
        pass
    assert driver.crashed


async def test_another_conversion_than_the_interrupted_one_is_refused(
    source: Account, dovecot: Dovecot, tmp_path: Path
) -> None:
    await begun(source, tmp_path / "mail", Kind.MDBOX)
    other = dovecot.account("sdbox:{home}/mail")
    other.save(body(1))
    target = str(tmp_path / "mail")
    assert "interrupted conversion" in refused(other.location, target, "--format", "mdbox")
    assert "interrupted conversion" in refused(source.location, target, "--format", "sdbox")
    assert "unfinished conversion" in refused(target, str(tmp_path / "third"))
    assert dboxfs("ls", target).returncode == 3
    assert dboxfs("convert", source.location, target, "--format", "mdbox").returncode == 0
    assert dboxfs("ls", target).returncode == 0


async def test_what_somebody_puts_into_an_unfinished_destination_is_left_alone(
    source: Account, tmp_path: Path
) -> None:
    await begun(source, tmp_path / "mail", Kind.MDBOX)
    (tmp_path / "mail/mailboxes").mkdir()
    assert "not empty (mailboxes)" in refused(source.location, str(tmp_path / "mail"), "--format", "mdbox")


async def test_two_conversions_into_one_destination_exclude_each_other(
    source: Account, tmp_path: Path
) -> None:
    async with FileSystem(ThreadsDriver()) as fs:
        root = str(tmp_path / "mail")
        await make_root(fs, root, Permissions(0o700))
        place = await open_workplace(fs, root, Kind.MDBOX, WriteOptions())
        try:
            assert "another dboxfs convert" in refused(source.location, str(tmp_path / "mail"))
        finally:
            await place.close()


async def run_with(source: Account, root: Path, between: Callable[[], object], *, verify: bool) -> None:
    """A conversion in the middle of which *between* is called."""
    where = parse_location(source.location)
    calls = 0

    def report(progress: ConvertProgress) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            between()

    async with FileSystem(ThreadsDriver()) as fs, open_store(fs, where, follow=False) as store:
        options = WriteOptions(neighbour=Neighbour.ALONE)
        converter = Converter(
            fs, store, str(root), Kind.SDBOX, options=options, batch=2, verify=verify, report=report
        )
        await converter.run()


@pytest.mark.parametrize(
    "change",
    [
        ("flags add", r"\Flagged", "mailbox", "INBOX", "uid", "1"),
        ("expunge", "mailbox", "INBOX", "uid", "5"),
        ("mailbox create", "New"),
        ("copy", "INBOX", "mailbox", "INBOX", "uid", "2"),
    ],
    ids=lambda change: change[0],
)
async def test_a_source_that_changes_while_it_is_read_is_noticed(
    source: Account, tmp_path: Path, change: tuple[str, ...]
) -> None:
    with pytest.raises(SourceChanged, match="New" if "New" in change else "INBOX"):
        await run_with(source, tmp_path / "mail", lambda: source.doveadm(*change), verify=False)
    assert not (tmp_path / "mail/mailboxes").exists()


async def test_a_purge_of_the_source_is_no_change(dovecot: Dovecot) -> None:
    source = dovecot.account("mdbox:{home}/mail")
    source.append([Append(body(n, 2000)) for n in range(12)])
    source.doveadm("expunge", "mailbox", "INBOX", "uid", "1,3,7")
    account = dovecot.account("sdbox:{home}/mail")
    expected = Showing.of(source)
    storage = source.root / "storage"
    before = sorted(path.name for path in storage.glob("m.*"))
    await run_with(source, account.root, source.purge, verify=True)
    assert sorted(path.name for path in storage.glob("m.*")) != before
    assert_shows(account, expected)


async def test_verify_finds_a_changed_byte(source: Account, tmp_path: Path) -> None:
    path = tmp_path / "mail" / STAGING / "mailboxes/INBOX/dbox-Mails/u.2"

    def damage() -> None:
        path.write_bytes(path.read_bytes().replace(b"Subject", b"Subjecz"))

    with pytest.raises(VerifyFailed, match="uid 2: the text"):
        await run_with(source, tmp_path / "mail", damage, verify=True)
    assert not (tmp_path / "mail/mailboxes").exists()


async def test_verify_finds_a_changed_date(source: Account, tmp_path: Path) -> None:
    path = tmp_path / "mail" / STAGING / "mailboxes/INBOX/dbox-Mails/u.2"

    def damage() -> None:
        path.write_bytes(re.sub(rb"\nR[0-9a-f]+\n", b"\nR5\n", path.read_bytes()))

    with pytest.raises(VerifyFailed, match="uid 2: the received"):
        await run_with(source, tmp_path / "mail", damage, verify=True)


@pytest.mark.parametrize("target", ["sdbox", "mdbox"])
def test_a_damaged_message_is_left_out_and_named(source: Account, dovecot: Dovecot, target: str) -> None:
    expected = Showing.of(source)
    path = source.root / "mailboxes/INBOX/dbox-Mails/u.3"
    data = path.read_bytes()
    path.write_bytes(data[:16] + b"X" + data[17:])
    account = dovecot.account(f"{target}:{{home}}/mail")
    done = dboxfs("convert", source.location, str(account.root), "--format", target, "--verify")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "uid 3 was left out" in line and str(path) in line]
    assert "Traceback" not in done.stderr
    found = Showing.of(account)
    assert [values["uid"] for values, _ in found.messages["INBOX"]] == ["1", "2", "4", "5"]
    assert found.status["INBOX"]["uidnext"] == expected.status["INBOX"]["uidnext"]


def test_an_unreadable_mailbox_is_left_out_and_named(source: Account, dovecot: Dovecot) -> None:
    source.doveadm("mailbox create", "Bad")
    log = source.root / "mailboxes/Bad/dbox-Mails/dovecot.index.log"
    log.write_bytes(b"rubbish" * 20)
    account = dovecot.account("mdbox:{home}/mail")
    done = dboxfs("convert", source.location, str(account.root), "--format", "mdbox")
    assert done.returncode == 1
    assert "Bad: the mailbox was left out" in done.stderr
    assert list(account.status()) == ["INBOX"]
    assert len(account.fetch()) == 5


def hide(account: Account, how: str) -> None:
    """The store shows less than it has."""
    if how == "the index is elsewhere":
        for path in (account.root / "mailboxes/INBOX").rglob("dovecot.index*"):
            path.unlink()
    else:
        shutil.move(account.root / "mailboxes/INBOX", account.home / "elsewhere")


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
@pytest.mark.parametrize("how", ["the index is elsewhere", "INBOX is elsewhere"])
def test_a_source_that_only_looks_empty_is_refused_and_never_called_verified(
    dovecot: Dovecot, tmp_path: Path, kind: str, how: str
) -> None:
    source = dovecot.account(f"{kind}:{{home}}/mail")
    source.append([Append(body(n)) for n in range(2)])
    source.doveadm("mailbox create", "Work")
    source.save(body(7), "Work")
    hide(source, how)
    line = refused("--verify", source.location, str(tmp_path / "new"))
    assert "mail may be hidden" in line
    assert ("INDEX=" if how.startswith("the index") else "INBOX=") in line
    assert not (tmp_path / "new").exists()
    done = dboxfs("convert", "--verify", "--force", source.location, str(tmp_path / "new"))
    assert done.returncode == 1
    assert "mail may be hidden" in done.stderr
    assert "\nverified" not in done.stdout
    assert "\nnot verified" in done.stdout
    assert (tmp_path / "new/mailboxes").exists()


def test_bytes_that_format_2_would_take_for_another_compression_are_not_stored() -> None:
    with pytest.raises(Unfit, match=r"^it begins with the magic of gz, which format 2 takes for compressed$"):
        begin_record(Place(0, None), 7, b"\x1f\x8b text", None)


async def test_a_message_that_was_cut_off_since_its_index_was_read_says_by_how_much() -> None:
    stored = Stored(1, 0, bytes(16), None, 10, None, [], b"short")
    with pytest.raises(Unfit, match=r"^it ends 5 bytes too early$"):
        await stored.read(10, 0)
