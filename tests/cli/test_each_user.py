"""Commands for all users of a site (``--users``)."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.write import StoreWriter
from tests.live.mounts import dboxfs
from tests.live.site import ALONE, Vmail, text_of, vmail

NAMES = ["ann@a.example", "bob@a.example", "eve@b.example"]
ANN, BOB = 2001, 2002


@pytest.fixture
def site() -> Iterator[Vmail]:
    with vmail(Kind.MDBOX) as made:
        for name in NAMES:
            made.make(name)
        yield made


def expunge(store: Path, uid: int = 1) -> None:
    """The only message of INBOX."""

    async def run() -> None:
        async with FileSystem(ThreadsDriver()) as fs:
            location = Location(Kind.MDBOX, str(store))
            await StoreWriter(fs, location, await fs.stat(str(store)), ALONE).expunge("INBOX", [uid])

    trio.run(run)


def cut(store: Path) -> None:
    """Damage the only message."""
    file = store / "storage/m.1"
    os.truncate(file, file.stat().st_size // 2)


def listed(site: Vmail, directory: Path) -> Path:
    """A file with all users and where their stores are."""
    path = directory / "users"
    path.write_text("".join(f"{name} mdbox:{site.store(name)}\n" for name in NAMES))
    return path


def test_where_nothing_is_wrong_the_status_is_0_and_one_line_says_so(site: Vmail) -> None:
    done = dboxfs("check", "--users", site.template)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("3 users checked: 3 with status 0, 0 with status 1, 0 not done")


def test_what_is_found_is_told_with_the_user_s_name(site: Vmail) -> None:
    cut(site.store("bob@a.example"))
    done = dboxfs("check", "--users", site.template)
    *lines, summary = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines
    assert all(line.startswith("bob@a.example: ") for line in lines)
    assert any(line.startswith("bob@a.example: error: ") for line in lines)
    assert summary.startswith("3 users checked: 2 with status 0, 1 with status 1, 0 not done")


def test_json_has_the_user_in_each_object(site: Vmail) -> None:
    cut(site.store("bob@a.example"))
    lines = dboxfs("check", "--json", "--users", site.template).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    assert {some["user"] for some in found if "severity" in some} == {"bob@a.example"}
    assert sorted(some["user"] for some in found if "summary" in some) == NAMES


def test_a_store_that_cannot_be_checked_is_status_2_and_the_others_are_checked(
    site: Vmail, tmp_path: Path
) -> None:
    source = listed(site, tmp_path)
    shutil.rmtree(site.store("ann@a.example"))
    cut(site.store("bob@a.example"))
    done = dboxfs("check", "--users", source)
    assert done.returncode == 2
    assert "1 with status 0, 1 with status 1, 1 not done" in done.stdout.splitlines()[-1]
    assert any(line.startswith("ann@a.example: ") for line in done.stdout.splitlines())


def test_a_resumed_run_does_what_was_not_done(site: Vmail, tmp_path: Path) -> None:
    ann, journal, source = site.store("ann@a.example"), tmp_path / "journal", listed(site, tmp_path)
    ann.rename(tmp_path / "away")
    first = dboxfs("check", "--users", source, "--resume", journal)
    assert first.returncode == 2
    noted = sorted(journal.read_text().splitlines())
    assert noted == ["ann@a.example\t2", "bob@a.example\t0", "eve@b.example\t0"]
    with journal.open("a") as file:
        file.write("eve@b.exa")  # as a run that was killed leaves it
    (tmp_path / "away").rename(ann)
    again = dboxfs("check", "--users", source, "--resume", journal)
    summary = "1 users checked: 1 with status 0, 0 with status 1, 0 not done, 2 done by an earlier run"
    assert again.stdout.startswith(summary)
    assert again.returncode == 0
    assert not journal.exists()


def test_a_user_who_takes_too_long_is_given_up(site: Vmail) -> None:
    for name in NAMES:
        expunge(site.store(name))
    log = os.open(site.store("bob@a.example") / "storage/dovecot.map.index.log", os.O_RDWR)
    fcntl.lockf(log, fcntl.LOCK_EX)
    done = dboxfs("purge", "--users", site.template, "--patience", "3")
    os.close(log)
    assert done.returncode == 1
    assert "bob@a.example: given up: not done within 3 s" in done.stdout
    assert "2 with status 0, 0 with status 1, 1 not done" in done.stdout.splitlines()[-1]


def test_what_was_expunged_comes_back_for_all_or_is_purged_for_all(site: Vmail) -> None:
    for name in NAMES:
        expunge(site.store(name))
    assert dboxfs("undelete", "--all", "--users", site.template).returncode == 0
    for name in NAMES:
        assert "1 messages" in dboxfs("info", site.store(name)).stdout
        expunge(site.store(name), 2)
    done = dboxfs("purge", "--users", site.template)
    assert done.returncode == 0
    for name in NAMES:
        assert f"{name}: freed" in done.stdout, done.stdout
        assert not list((site.store(name) / "storage").glob("m.*")), done.stdout


@pytest.mark.root
def test_a_conversion_of_all_makes_a_store_of_the_same_owner_for_each(tmp_path: Path) -> None:
    with vmail(Kind.MDBOX) as site:
        site.make("ann@a.example", ANN)
        site.make("bob@b.example", BOB)
        target = f"{site.root}/new/%d/%n"
        done = dboxfs("convert", "--users", site.template, target, "--format", "sdbox", "--verify")
        assert done.returncode == 0, done.stdout + done.stderr
        for name, uid in (("ann@a.example", ANN), ("bob@b.example", BOB)):
            local, _, domain = name.partition("@")
            root = site.root / "new" / domain / local
            assert text_of(name) in (root / "mailboxes/INBOX/dbox-Mails/u.1").read_bytes()
            for path in (root, *root.rglob("*")):
                assert (path.lstat().st_uid, path.lstat().st_gid) == (uid, uid), path


def test_a_target_without_a_user_is_refused(site: Vmail, tmp_path: Path) -> None:
    done = dboxfs("convert", "--users", site.template, tmp_path / "new", "--format", "sdbox")
    assert done.returncode == 2
    assert "%u" in done.stderr
    assert not (tmp_path / "new").exists()
