"""A mount that root makes of somebody's store: links in it lead where its owner could go, and no further."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dboxfs.store import Kind
from tests.live.mounts import Mounts, dboxfs
from tests.live.site import Vmail, as_user, text_of, vmail

pytestmark = [pytest.mark.mount, pytest.mark.root]
NOBODY = 65534
SECRET = "Subject: only root may read this\n\nthe secret of root\n"
SHOW_ALL = (
    'cd "$0" && find . -type f -exec cat {} + ; find . -exec getfattr -d {} + ; ls -lR . ; '
    "cat .dboxfs/stats.json .dboxfs/store.json"
)


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def site(request: pytest.FixtureRequest) -> Iterator[Vmail]:
    with vmail(request.param) as made:
        made.make("nobody@a.example", NOBODY)
        made.make("root@a.example", 0, [SECRET.encode()])
        yield made


def planted(site: Vmail) -> Path:
    """The store of nobody, with links to root's file and store in every place that a daemon opens."""
    store, roots = site.store("nobody@a.example"), site.store("root@a.example")
    text = roots.parent / "notes.txt"
    text.write_text(SECRET)
    text.chmod(0o600)
    files = store / "mailboxes/INBOX/dbox-Mails"
    numbered = files / "u.9" if site.kind is Kind.SDBOX else store / "storage/m.9"
    broken = store / "mailboxes/Broken/dbox-Mails"
    broken.mkdir(parents=True)
    for link, target in {
        store / "mailboxes/Stolen": roots / "mailboxes/INBOX",
        store / "mailboxes/All": roots / "mailboxes",
        store / "subscriptions": text,
        store / "dboxfs-mh": roots.parent,
        store / "dboxfs-maildir": roots.parent,
        broken / "dovecot.index": text,
        broken / "dovecot.index.log": text,
        broken / "u.1": text,
        numbered: text,
    }.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    own = store.parent / "elsewhere"
    shutil.copytree(files, own / "dbox-Mails")
    (store / "mailboxes/Own").symlink_to(own)
    for path in store.parent.rglob("*"):
        if not path.is_symlink():
            os.chown(path, NOBODY, NOBODY)
    return store


@pytest.mark.expected_log("Permission denied", "can't be read", "symbolic link")
@pytest.mark.parametrize("options", ["open=classic", "rw,view=mh"])
def test_a_link_that_the_owner_planted_shows_and_changes_nothing_that_only_root_may(
    site: Vmail, mounts: Mounts, options: str
) -> None:
    store, roots = planted(site), site.store("root@a.example")
    before = sorted(roots.parent.rglob("*"))
    mnt = mounts.mount(f"{site.kind.value}:{store}", f"allow_other,{options}", for_all=True)
    for uid in (NOBODY, 0):
        seen = as_user(uid, "sh", "-c", SHOW_ALL, mnt)
        assert "secret of root" not in seen.stdout + seen.stderr
        assert seen.stdout.count("Subject: for nobody") == 2, "INBOX, and a link that stays with its owner"
    write = 'cd "$0"; for d in Stolen All/INBOX Broken .; do echo x > "$d/7"; mkdir "$d/New"; done'
    as_user(NOBODY, "sh", "-c", write, mnt)
    with pytest.raises(OSError, match=r"Permission denied|Input/output error|No such file"):
        (mnt / "Stolen/1.eml").read_bytes()
    mounts.umount(mnt)
    assert sorted(roots.parent.rglob("*")) == before
    assert "secret of root" not in mounts.log_file(mnt).read_text()


def test_a_store_that_is_root_s_own_is_read_with_root_s_rights(site: Vmail, mounts: Mounts) -> None:
    mnt = mounts.mount(f"{site.kind.value}:{site.store('root@a.example')}", "allow_other", for_all=True)
    assert (mnt / "INBOX/1.eml").read_text() == SECRET
    assert as_user(NOBODY, "cat", mnt / "INBOX/1.eml").stdout == ""


def test_what_is_written_for_the_owner_is_the_owner_s(site: Vmail, mounts: Mounts) -> None:
    store = site.store("nobody@a.example")
    mnt = mounts.mount(f"{site.kind.value}:{store}", "rw,alone,allow_other", for_all=True)
    (mnt / "Work").mkdir()
    (mnt / "Work/note").write_text("Subject: note\n\nby root\n")
    mounts.umount(mnt)
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (store, *store.rglob("*"))}
    assert owners == {(NOBODY, NOBODY)}


@pytest.mark.expected_log("read with root's rights")
def test_a_store_that_its_owner_can_not_get_to_is_looked_at_by_root_alone(
    site: Vmail, mounts: Mounts
) -> None:
    store = f"{site.kind.value}:{site.store('nobody@a.example')}"
    site.root.chmod(0o700)
    for options in ("rw", "allow_other"):
        refused = dboxfs("mount", "-o", options, store, mounts.mountpoint())
        assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
        assert "its owner (uid 65534) can't get there (Permission denied)" in refused.stderr
    mnt = mounts.mount(store)
    assert (mnt / "INBOX/1.eml").read_bytes() == text_of("nobody@a.example")
    warned = [line for line in mounts.log_file(mnt).read_text().splitlines() if "root's rights" in line]
    assert len(warned) == 1
    assert json.loads((mnt / ".dboxfs/stats.json").read_text())["damaged_messages"] == 0
