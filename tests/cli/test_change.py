"""``init`` and ``purge``, beside what Dovecot says of the result."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import open_store, parse_location
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import dboxfs


@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
def test_a_new_store_is_opened_by_dovecot_without_a_word(dovecot: Dovecot, kind: str) -> None:
    account = dovecot.account(f"{kind}:{{home}}/mail")
    done = dboxfs("init", "--format", kind, account.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"for Dovecot 2.3: mail_location = {kind}:{account.root}\n" in done.stdout
    assert f"for Dovecot 2.4: mail_driver = {kind}\n" in done.stdout
    assert f" mail_path = {account.root}\n" in done.stdout
    assert list(account.status()) == ["INBOX"]
    account.append([Append(b"Subject: first\n\n")])
    assert [message.uid for message in account.fetch()] == [1]


NEW = {
    "names in the list index": "{driver}:{home}/mail:LAYOUT=index",
    "list index elsewhere": "{driver}:{home}/mail:INDEX={home}/i:CONTROL={home}/c:LAYOUT=index:LISTINDEX=l",
    "indexes elsewhere": "{driver}:{home}/mail:INDEX={home}/i:CONTROL={home}/c:ALT={home}/a",
    "inbox elsewhere": "{driver}:{home}/mail:INBOX={home}/inbox:DIRNAME=msgs:SUBSCRIPTIONS=subs:UTF-8",
}


@pytest.mark.parametrize("text", NEW.values(), ids=NEW)
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_a_new_store_of_any_location_is_opened_by_dovecot_without_a_word(
    dovecot: Dovecot, text: str, driver: str
) -> None:
    account = dovecot.account(text.replace("{driver}", driver))
    done = dboxfs("init", account.location)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"for Dovecot 2.3: mail_location = {account.location}\n" in done.stdout
    before = mailbox_guid(account.location)
    assert list(account.status()) == ["INBOX"]
    assert account.status()["INBOX"].guid == before
    account.append([Append(b"Subject: first\n\ntext\n")])
    account.doveadm("mailbox create", "-s", "Träger/Sub")
    account.append([Append(b"Subject: second\n\ntext\n")], "Träger/Sub")
    assert (account.mailboxes(), account.subscriptions()) == (
        ["INBOX", "Träger", "Träger/Sub"],
        ["Träger/Sub"],
    )
    assert [message.uid for message in account.fetch()] == [1]
    assert dboxfs("check", account.location).returncode == 0
    assert owners(account.home) == {(account.home.stat().st_uid, account.home.stat().st_gid)}


def mailbox_guid(location: str) -> str:
    """The guid that ``dboxfs`` has given INBOX."""

    async def read() -> str:
        found = parse_location(location)
        async with FileSystem(ThreadsDriver()) as fs, open_store(fs, found, follow=False) as store:
            inbox = store.folders["INBOX"].mailbox
            assert inbox is not None
            assert inbox.guid is not None
            return inbox.guid.hex()

    return trio.run(read)


def test_a_new_store_is_named_by_settings_of_2_4(dovecot: Dovecot) -> None:
    account = dovecot.account("mdbox:{home}/mail:LAYOUT=index:INDEX={home}/i")
    settings = {"mail_driver": "mdbox", "mail_path": f"{account.home}/mail", "mailbox_list_layout": "index"}
    settings["mail_index_path"] = f"{account.home}/i"
    done = dboxfs("init", *(f"--set={name}={value}" for name, value in settings.items()))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(account.status()) == ["INBOX"]


@pytest.mark.root  # it makes files of others
def test_a_new_store_of_a_user_is_where_dovecot_looks_for_it(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:~/mail:LAYOUT=index:CONTROL=~/control")
    done = dboxfs("init", "--user", account.name, "--config", dovecot.config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"it is the mail of {account.name}"
    before = mailbox_guid(f"sdbox:{account.home}/mail:LAYOUT=index:CONTROL={account.home}/control")
    assert account.status()["INBOX"].guid == before
    assert owners(account.home / "mail") == {(account.home.stat().st_uid, account.home.stat().st_gid)}
    again = dboxfs("init", "--user", account.name, "--config", dovecot.config)
    assert (again.returncode, again.stdout) == (1, "")
    assert "not empty" in again.stderr


def test_a_new_store_that_would_meet_another_ones_files_is_refused(tmp_path: Path) -> None:
    old = f"mdbox:{tmp_path}/old:INDEX={tmp_path}/i:ALT={tmp_path}/a"
    assert dboxfs("init", old).returncode == 0
    (tmp_path / "a" / "storage").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    for more, named in (
        (f"INDEX={tmp_path}/i", "i/mailboxes"),
        (f"INDEXCACHE={tmp_path}/i", "i/mailboxes"),
        (f"ALT={tmp_path}/a", "a/storage"),
        (f"INBOX={tmp_path}/in", "in"),
    ):
        done = dboxfs("init", f"sdbox:{tmp_path}/new:{more}")
        assert done.returncode == 1, more
        assert done.stderr.startswith(f"dboxfs: {tmp_path}/{named}: is there already; ")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "new").exists()


def test_a_new_store_without_a_format_or_with_two_is_refused(tmp_path: Path) -> None:
    cases: tuple[tuple[list[str | Path], str], ...] = (
        ([tmp_path / "s"], "give --format sdbox or --format mdbox"),
        ([f"mdbox:{tmp_path}/s", "--format", "sdbox"], "the location says mdbox"),
        ([f"maildir:{tmp_path}/s"], "maildir is no dbox format"),
        ([f"mdbox:{tmp_path}/s:LAYOUT=Maildir++"], "dbox has fs and index"),
    )
    for arguments, said in cases:
        done = dboxfs("init", *arguments)
        assert done.returncode in (2, 3)
        assert said in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def owners(root: Path) -> set[tuple[int, int]]:
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in (root, *root.rglob("*"))}


@pytest.mark.root  # it makes files of others
@pytest.mark.parametrize("kind", ["sdbox", "mdbox"])
def test_root_makes_a_store_for_the_owner_of_the_directory_above_or_whom_it_names(
    kind: str, tmp_path: Path
) -> None:
    os.chown(tmp_path, 1234, 2345)
    assert dboxfs("init", "--format", kind, tmp_path / "a").returncode == 0
    assert owners(tmp_path / "a") == {(1234, 2345)}
    assert dboxfs("init", "--format", kind, "--owner", "1235:2346", tmp_path / "b").returncode == 0
    assert owners(tmp_path / "b") == {(1235, 2346)}
    nobody = pwd.getpwnam("nobody")
    (tmp_path / "c").mkdir()
    assert dboxfs("init", "--format", kind, "--owner", "nobody", tmp_path / "c").returncode == 0
    assert owners(tmp_path / "c") == {(nobody.pw_uid, nobody.pw_gid)}
    (tmp_path / "d").mkdir()
    os.chown(tmp_path / "d", 1236, 2347)  # it is there: it keeps its own
    done = dboxfs("init", "--format", kind, tmp_path / "d")
    assert owners(tmp_path / "d") == {(1236, 2347)}
    assert "root's" not in done.stdout


def test_owner_that_nobody_knows_is_refused_in_one_line(tmp_path: Path) -> None:
    for owner in ("no-such-user", "no-such-user:0", "0:no-such-group", "", "4000000000"):
        done = dboxfs("init", "--format", "sdbox", "--owner", owner, tmp_path / "s")
        assert done.returncode == 2, owner
        assert "no such" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "s").exists()


@pytest.mark.root  # it makes files of others
def test_store_that_is_roots_alone_is_told(tmp_path: Path) -> None:
    assert "--owner USER" in dboxfs("init", "--format", "sdbox", tmp_path / "s").stdout


def test_a_directory_above_that_is_missing_is_named_by_init_convert_and_rescue(tmp_path: Path) -> None:
    assert dboxfs("init", "--format", "sdbox", tmp_path / "s").returncode == 0
    new = tmp_path / "no" / "such"
    for arguments, status in (
        (["init", "--format", "mdbox"], 3),
        (["convert", tmp_path / "s"], 3),
        (["rescue", tmp_path / "s"], 2),
    ):
        done = dboxfs(*arguments, new)
        assert done.returncode == status, arguments
        assert (
            done.stderr
            == f"dboxfs: {new}: there is no directory {new.parent}; make it with: mkdir -p {new.parent}\n"
        )


def test_a_command_that_a_message_names_can_be_given_to_a_shell_whatever_the_path_is(tmp_path: Path) -> None:
    new = tmp_path / "a b" / "c'; exit 7" / "store"
    told = dboxfs("init", "--format", "sdbox", new).stderr
    subprocess.run(["sh", "-ec", told.rpartition(": ")[2]], check=True)
    assert dboxfs("init", "--format", "sdbox", new).returncode == 0
    shutil.copytree(Path(__file__).parents[2] / "samples" / "mdbox", other := tmp_path / "an mdbox")
    assert f"give 'mdbox:{other}'\n" in dboxfs("info", f"sdbox:{other}").stderr


def test_what_convert_and_rescue_make_is_named_by_its_directory_not_by_a_mail_location(
    tmp_path: Path,
) -> None:
    assert dboxfs("init", "--format", "sdbox", tmp_path / "s").returncode == 0
    location = f"mdbox:{tmp_path}/m:INDEX={tmp_path}/i"
    for command in ("convert", "rescue"):
        done = dboxfs(command, tmp_path / "s", location)
        assert done.returncode == 2, command
        assert f"named by its directory ({tmp_path}/m)" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_purge_of_an_sdbox_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert dboxfs("init", "--format", "sdbox", tmp_path / "s").returncode == 0
    done = dboxfs("purge", tmp_path / "s")
    assert done.returncode == 3
    assert (
        done.stderr
        == f"dboxfs: {tmp_path}/s: only an mdbox has something to purge; an sdbox gives bytes back at once\n"
    )


def test_init_leaves_alone_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "precious").write_text("x")
    done = dboxfs("init", "--format", "mdbox", tmp_path / "mail")
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "mail") == ["precious"]


@pytest.mark.expected_log("fscking index file", "rebuilding indexes", "Rebuilding index")
def test_purge_gives_back_what_it_said_it_would(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(b"Subject: %d\n\n" % n + b"x" * 5000) for n in range(20)])
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:15")
    before = {message.uid: message.text for message in account.fetch()}
    copy = tmp_path / "mail"
    shutil.copytree(account.root, copy)
    would = dboxfs("purge", "--dry-run", copy)
    assert would.returncode == 0, would.stderr
    assert sum(path.stat().st_size for path in (copy / "storage").glob("m.*")) > 100_000
    done = dboxfs("purge", account.root)
    assert done.returncode == 0, done.stderr
    for one, root in ((would, copy), (done, account.root)):
        needs = one.stdout.splitlines()[-2]
        found = re.fullmatch(
            rf"{re.escape(str(root))}/storage: 1 files are rewritten one after the other, "
            r"which needs room for (\d+) bytes there; \d+ are free",
            needs,
        )
        assert found is not None, needs
        assert 5 * 5000 < int(found[1]) < 5 * 6000  # the five that stay
    said = would.stdout.splitlines()[-1].removeprefix("would free ")
    assert done.stdout.splitlines()[-1].removeprefix("freed ") == said
    assert "15 messages" in said
    assert sum(path.stat().st_size for path in (account.root / "storage").glob("m.*")) < 40_000
    account.force_resync()
    assert {message.uid: message.text for message in account.fetch()} == before


def test_purge_has_nothing_to_do_in_an_sdbox(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(b"Subject: x\n\n")
    done = dboxfs("purge", account.root)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.root
def test_a_purge_that_has_no_room_changes_nothing(dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.append([Append(b"Subject: %d\n\n" % n + b"x" * 50_000) for n in range(20)])
    account.doveadm("expunge", "mailbox", "INBOX", "uid", "1:5")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "none", small], check=True)
    try:
        shutil.copytree(account.root, small / "mail")
        before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
        refused = dboxfs("purge", small / "mail")
        assert refused.returncode == 1
        assert refused.stderr == (
            f"dboxfs: {small}/mail/storage: too little room for a purge; make some, and begin again\n"
        )
        assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before
        assert dboxfs("purge", "--dry-run", small / "mail").returncode == 0
    finally:
        subprocess.run(["umount", small], check=True)
