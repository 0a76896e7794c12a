"""Commands of root on a store of another user: a link in it leads no further than its owner could go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dboxfs.store import Kind
from tests.live.mounts import dboxfs
from tests.live.site import Vmail, text_of, vmail
from tests.live.test_owner_rights import NOBODY, SECRET, planted

pytestmark = pytest.mark.root
OWNER, ROOT = "nobody@a.example", "root@a.example"
COPIES = {
    "convert": ["convert", "{store}", "{out}", "--force", "-q"],
    "rescue": ["rescue", "{store}", "{out}", "--partial"],
    "maildir": ["export", "{store}", "{out}", "--format", "maildir", "--force", "-q"],
    "eml": ["export", "{store}", "{out}", "--format", "eml", "--xattrs", "--force", "-q"],
    "archive": ["archive", "{store}", "file://{out}", "-q"],
}


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def site(request: pytest.FixtureRequest) -> Iterator[Vmail]:
    with vmail(request.param) as made:
        made.make(OWNER, NOBODY)
        made.make(ROOT, 0, [SECRET.encode()])
        yield made


def location(site: Vmail, name: str = OWNER) -> str:
    return f"{site.kind.value}:{site.store(name)}"


def holding(where: Path, text: bytes) -> list[str]:
    """The files below a directory that have *text*."""
    files = [path for path in where.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path.relative_to(where)) for path in files if text in path.read_bytes()]


def contents(where: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a directory: mtime in ns, owner, bytes."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_uid, path.read_bytes() if path.is_file() else b"")
        for path in sorted(where.rglob("*"))
    }


def test_a_planted_link_brings_nothing_into_a_copy_that_only_root_may_read(site: Vmail) -> None:
    store = planted(site)
    for name, command in COPIES.items():
        out = store.parent / f"out-{name}"
        done = dboxfs(*(word.format(store=location(site), out=out) for word in command))
        assert done.returncode == 1, (name, "the copy lacks what a link leads to, and says so")
        assert "Permission denied" in done.stdout + done.stderr
        assert "--root-rights" in done.stdout, "root is told how to get the rest"
        assert holding(out, b"secret of root") == [], name
        assert len(holding(out, text_of(OWNER)[:20])) >= 1, name
        assert "secret of root" not in done.stdout + done.stderr


def test_with_root_rights_a_copy_has_what_the_links_lead_to(site: Vmail) -> None:
    store = planted(site)
    for name in ("convert", "rescue", "maildir") if site.kind is Kind.SDBOX else ("maildir",):
        out = store.parent / f"out-{name}"
        command = [word.format(store=location(site), out=out) for word in COPIES[name]]
        assert dboxfs(*command, "--root-rights").returncode == 1
        assert holding(out, b"secret of root")


def test_looking_into_a_store_tells_nothing_that_a_planted_link_leads_to(site: Vmail) -> None:
    planted(site)
    for command in (("check", "--unused"), ("info",), ("ls", "--json"), ("doctor",)):
        done = dboxfs(command[0], location(site), *command[1:])
        said = done.stdout + done.stderr
        assert done.returncode == 1
        assert "secret of root" not in said
        assert "only root may read this" not in said
        if command[0] != "doctor":
            assert "Permission denied" in said


def test_nothing_is_written_where_a_planted_link_leads(site: Vmail, tmp_path: Path) -> None:
    store = planted(site)
    roots = site.store(ROOT).parent
    before = contents(roots)
    source = tmp_path / "mail"
    names = ("Stolen", "All/INBOX", "Broken", "Work")
    for name in names:
        (source / name).mkdir(parents=True)
        (source / name / "9.eml").write_text("Subject: planted\n\nto be imported\n")
    for name in names:
        done = dboxfs("import", source, location(site), "--mailbox", name, "--alone", "-q")
        assert done.returncode == (name != "Work"), (name, done.stderr)
    assert holding(store, b"to be imported")
    for command in (["purge", "--force"], ["undelete", "--all"]):
        assert dboxfs(command[0], location(site), *command[1:]).returncode in (0, 1, 3)
    assert contents(roots) == before
    owners = {path.lstat().st_uid for path in store.rglob("*") if not path.is_symlink()}
    assert owners == {NOBODY}


def test_an_import_reads_the_mail_of_somebody_with_the_rights_of_its_owner(
    site: Vmail, tmp_path: Path
) -> None:
    target = location(site, ROOT)
    theirs = site.store(OWNER).parent
    secret = site.store(ROOT).parent / "notes.txt"
    secret.write_text("From: root\nSubject: planted\n\nnotes that are not theirs\n")
    secret.chmod(0o600)
    maildir = theirs / "Maildir"
    for part in ("cur", "new", "tmp"):
        (maildir / part).mkdir(parents=True)
    (maildir / "cur/1.theirs:2,S").write_text("Subject: theirs\n\nhello\n")
    (maildir / "cur/2.planted:2,S").symlink_to(secret)
    tree = theirs / "copied"
    (tree / "Tree").mkdir(parents=True)
    (tree / "Tree/1.eml").write_text("Subject: copied\n\nhello\n")
    (tree / "Tree/2.eml").symlink_to(secret)
    for path in (maildir, *maildir.rglob("*"), tree, *tree.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for source in (maildir, tree):
        done = dboxfs("import", source, target, "--alone", "-q")
        assert done.returncode == 1
        assert "Permission denied" in done.stderr
        assert "1 messages imported" in done.stdout
    shown = dboxfs("export", target, tmp_path / "out", "--format", "eml", "-q")
    assert shown.returncode == 0
    assert holding(tmp_path / "out", b"notes that are not theirs") == []
    assert dboxfs("import", maildir, target, "--alone", "-q", "--root-rights").returncode == 0


def test_a_message_of_a_wrong_owner_is_told_and_root_rights_rescue_it(site: Vmail, tmp_path: Path) -> None:
    store = site.store(OWNER)
    wrong = store / ("mailboxes/INBOX/dbox-Mails/u.1" if site.kind is Kind.SDBOX else "storage/m.1")
    os.chown(wrong, 0, 0)
    checked = dboxfs("check", location(site), "--unused")
    assert checked.returncode == 1
    assert "give it to the owner of the store (chown)" in checked.stdout
    lost = dboxfs("rescue", location(site), tmp_path / "without")
    assert lost.returncode == 1
    assert "--root-rights" in lost.stdout
    found = dboxfs("rescue", location(site), tmp_path / "with", "--root-rights")
    assert (found.returncode, found.stderr) == (0, "")
    assert len(holding(tmp_path / "with", b"Subject: for")) == 1
    assert dboxfs("check", location(site), "--unused", "--root-rights").returncode == 0


def test_a_store_that_its_owner_can_not_get_to_is_read_and_not_changed(site: Vmail, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700)
    shutil.copytree(site.store(OWNER), kept / "mail")
    for path in (kept / "mail", *kept.rglob("mail/**/*")):
        os.chown(path, NOBODY, NOBODY)
    copy = f"{site.kind.value}:{kept}/mail"
    read = dboxfs("export", copy, tmp_path / "out", "--format", "eml", "-q")
    assert read.returncode == 0
    assert read.stderr.count("\n") == 1
    assert "its owner (uid 65534) can't get there (Permission denied): read with root's rights" in read.stderr
    assert holding(tmp_path / "out", b"Subject: for")
    before = contents(kept)
    os.chown(tmp_path / "out", 0, 0)
    for command in (["purge"], ["import", tmp_path / "out"]):
        done = dboxfs(*command, copy)
        assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
        assert "chmod o+x" in done.stderr
    assert contents(kept) == before
    new = dboxfs("import", tmp_path / "out", kept / "new", "--format", site.kind.value, "--owner", "nobody")
    assert (new.returncode, new.stderr) == (0, ""), "nobody could plant links in a store that is made now"
    assert {path.stat().st_uid for path in (kept / "new").rglob("*")} == {NOBODY}


def test_init_makes_nothing_where_a_planted_link_leads(site: Vmail) -> None:
    theirs, roots = site.store(OWNER).parent, site.store(ROOT).parent
    (roots / "empty").mkdir()
    before = contents(roots)
    for name, target in {"index": roots, "control": roots / "empty", "whole": roots / "empty"}.items():
        (theirs / name).symlink_to(target)
        os.chown(theirs / name, NOBODY, NOBODY, follow_symlinks=False)
    kind = site.kind.value
    for more in ([], ["--owner", "nobody"]):
        new = f"{kind}:{theirs}/new{len(more)}"
        for where, status in (
            (f"{new}1:INDEX={theirs}/index", 1),
            (f"{new}2:CONTROL={theirs}/control/deep", 1),
            (f"{new}3:INBOX={theirs}/control/INBOX", 1),
            (f"{kind}:{theirs}/whole", 3),
            (f"{kind}:{theirs}/index/new", 3),
        ):
            done = dboxfs("init", where, *more)
            assert (done.returncode, done.stderr.count("\n")) == (status, 1), (where, done.stderr)
    assert contents(roots) == before
    for name, status in {"convert": 3, "rescue": 2, "eml": 3}.items():
        out = theirs / "index/new"
        done = dboxfs(*(word.format(store=location(site), out=out) for word in COPIES[name]))
        assert done.returncode == status
        assert "a link that uid 65534 has made" in done.stderr
    assert contents(roots) == before


def test_init_makes_what_only_root_can_make_for_the_owner(site: Vmail) -> None:
    theirs, index = site.store(OWNER).parent, site.root / "index"
    where = f"{site.kind.value}:{theirs}/new:INDEX={index}/nobody:CONTROL={theirs}/control"
    done = dboxfs("init", where)
    assert (done.returncode, done.stderr) == (0, "")
    made = [*(theirs / "new").rglob("*"), *index.rglob("*"), *(theirs / "control").rglob("*")]
    assert {path.stat().st_uid for path in (*made, theirs / "new", index, theirs / "control")} == {NOBODY}
    assert dboxfs("check", where).returncode == 0
