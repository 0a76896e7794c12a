"""``dboxfs mount --users``: a real mount of many users' stores."""

from __future__ import annotations

import io
import os
import re
import smtplib
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dboxfs.store import Kind
from tests.live.dovecot import Append, Dovecot
from tests.live.mounts import Mounts, dboxfs, is_mounted, xattrs
from tests.live.site import JULY, Vmail, as_user, text_of, vmail

ANN, BOB = 2001, 2002
root = pytest.mark.root


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def site(request: pytest.FixtureRequest) -> Iterator[Vmail]:
    with vmail(request.param) as made:
        yield made


def wait_for(what: Callable[[], object], seconds: float = 20) -> None:
    """Until *what* is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def mounted(mounts: Mounts, source: str, *arguments: str | Path) -> Path:
    mountpoint = mounts.mountpoint()
    log = mounts.log_file(mountpoint)
    done = dboxfs("mount", "--log-file", log, *arguments, "--users", source, mountpoint)
    assert done.returncode == 0, done.stderr
    assert is_mounted(mountpoint)
    return mountpoint


@root
def test_a_site_shows_each_user_s_messages_as_their_owner_s(site: Vmail, mounts: Mounts) -> None:
    site.make("ann@a.example", ANN)
    site.make("bob@a.example", BOB)
    mnt = mounts.mount(f"--users={site.template}")
    assert os.listdir(mnt) == ["ann@a.example", "bob@a.example"]
    for name, uid in (("ann@a.example", ANN), ("bob@a.example", BOB)):
        message = mnt / name / "INBOX/1.eml"
        assert message.read_bytes() == text_of(name)
        found = message.stat()
        assert (found.st_uid, found.st_gid, found.st_mtime) == (uid, uid, JULY)
        assert stat.S_IMODE((mnt / name).stat().st_mode) == 0o500
        assert xattrs(message)["uid"] == "1"
    assert os.listdir(mnt / "ann@a.example") == ["INBOX"]


@root
def test_a_user_gets_at_the_own_messages_alone(site: Vmail, mounts: Mounts) -> None:
    site.make("ann@a.example", ANN)
    site.make("bob@a.example", BOB)
    mnt = mounts.mount(f"--users={site.template}", "allow_other", for_all=True)
    ann, bob = (mnt / f"{name}@a.example/INBOX/1.eml" for name in ("ann", "bob"))
    for path in (ann, bob):
        path.read_bytes()  # the kernel knows all of it
    assert as_user(ANN, "cat", ann).stdout == text_of("ann@a.example").decode()
    for path in (bob, Path(f"{mnt}/ann@a.example/../bob@a.example/INBOX/1.eml")):
        assert "Permission denied" in as_user(ANN, "cat", path).stderr
    for directory in (mnt, bob.parent, bob.parent.parent, mnt / ".dboxfs"):
        assert "Permission denied" in as_user(ANN, "ls", "-A", directory).stderr
    assert as_user(ANN, "ls", "-A", ann.parent).stdout == "1.eml\n"


@root
@pytest.mark.expected_log("Permission denied", "can't be read")
def test_a_link_in_a_user_s_store_leads_nowhere_where_that_user_could_not_go(mounts: Mounts) -> None:
    with vmail(Kind.SDBOX) as site:
        site.make("ann@a.example", ANN)
        site.make("bob@a.example", BOB)
        boxes = site.store("ann@a.example") / "mailboxes"
        (boxes / "Stolen").symlink_to(site.store("bob@a.example") / "mailboxes/INBOX")
        (boxes / "INBOX/dbox-Mails/u.9").symlink_to(
            site.store("bob@a.example") / "mailboxes/INBOX/dbox-Mails/u.1"
        )
        site.store("eve@a.example").parent.mkdir(mode=0o700)
        os.chown(site.store("eve@a.example").parent, ANN, ANN)
        site.store("eve@a.example").symlink_to(site.store("bob@a.example"))
        mnt = mounts.mount(f"--users={site.template}", "allow_other", for_all=True)
        for uid in (ANN, 0):
            read = as_user(uid, "find", mnt / "ann@a.example", "-type", "f", "-exec", "cat", "{}", "+")
            assert read.stdout == text_of("ann@a.example").decode()
        assert as_user(ANN, "ls", "-A", mnt / "eve@a.example").stdout == ""
        mounts.umount(mnt)


@root
def test_what_is_written_belongs_to_the_store_s_owner(site: Vmail, mounts: Mounts) -> None:
    site.make("ann@a.example", ANN)
    site.make("bob@a.example", BOB)
    mnt = mounts.mount(f"--users={site.template}", "rw,alone,allow_other", for_all=True)
    write = "printf 'Subject: new\\n\\nby its owner\\n' > $0"
    assert as_user(ANN, "sh", "-c", write, mnt / "ann@a.example/INBOX/note").stderr == ""
    assert "Permission denied" in as_user(ANN, "sh", "-c", write, mnt / "bob@a.example/INBOX/note").stderr
    (mnt / "bob@a.example/Work").mkdir()
    subprocess.run(["cp", "-p", mnt / "ann@a.example/INBOX/note", mnt / "bob@a.example/Work/"], check=True)
    subprocess.run(["mv", mnt / "bob@a.example/INBOX/1.eml", mnt / "ann@a.example/INBOX/one"], check=True)
    mounts.umount(mnt)
    for name, uid in (("ann@a.example", ANN), ("bob@a.example", BOB)):
        for path in site.store(name).rglob("*"):
            assert (path.lstat().st_uid, path.lstat().st_gid) == (uid, uid), path
    listed = [dboxfs("ls", site.store(f"{name}@a.example")).stdout for name in ("ann", "bob")]
    mnt = mounts.mount(f"--users={site.template}")
    found = {path.relative_to(mnt): path.read_bytes() for path in mnt.rglob("*") if path.is_file()}
    note = b"Subject: new\n\nby its owner\n"
    assert found == {
        Path("ann@a.example/INBOX/1.eml"): text_of("ann@a.example"),
        Path("ann@a.example/INBOX/note"): note,
        Path("ann@a.example/INBOX/one"): text_of("bob@a.example"),
        Path("bob@a.example/Work/note"): note,
    }, listed


@root
def test_a_site_shows_what_dovecot_has_of_each_user_and_what_it_delivers(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    accounts = [dovecot.account(f"{driver}:{{home}}/mail") for driver in ("sdbox", "mdbox", "sdbox")]
    for account in accounts:
        account.save(text_of(account.name))
    source = tmp_path / "users"
    source.write_text("# who is shown\n\n" + "".join(f"{account.name}\n" for account in accounts))
    mnt = mounted(mounts, str(source), "-c", dovecot.config)
    assert os.listdir(mnt) == sorted(account.name for account in accounts)
    for account in accounts:
        inbox = mnt / account.name / "INBOX"
        assert (inbox / "1.eml").read_bytes() == text_of(account.name)
        account.save(b"Subject: late\n\nnews\n")
        wait_for((inbox / "2.eml").exists)
        (fetched,) = account.fetch("INBOX", "uid 2")
        found = xattrs(inbox / "2.eml")
        assert (found["guid"], found["modseq"]) == (fetched.guid, str(fetched.modseq))
        account.doveadm("expunge", "mailbox", "INBOX", "uid", "1")
        wait_for(lambda: not (inbox / "1.eml").exists())  # noqa: B023
        assert os.listdir(inbox) == ["2.eml"]
    source.write_text(f"{accounts[0].name} {accounts[0].location}\n")
    with pytest.raises(FileNotFoundError):
        (mnt / "nobody").stat()
    wait_for(lambda: os.listdir(mnt) == [accounts[0].name])


class Walking:
    """``tar`` of a whole site, again and again, beside what a test does.

    :ivar walks: of each whole walk, what tar has read: name -> bytes.
    """

    def __init__(self, site: Path) -> None:
        self.walks: list[dict[str, bytes]] = []
        self.complaints: list[str] = []
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._walk)

    def __enter__(self) -> Walking:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _walk(self) -> None:
        while not self._over.is_set():
            done = subprocess.run(
                ["tar", "cf", "-", "-C", self._site, "."], capture_output=True, check=False, timeout=120,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )  # fmt: skip
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as read:
                found = {one.name: read.extractfile(one) for one in read if one.isfile()}
                self.walks.append({name: file.read() for name, file in found.items() if file is not None})
            lines = done.stderr.decode().splitlines()
            # a directory into which mail is delivered changes while tar lists it, and tar says so
            self.complaints += [line for line in lines if "file changed as we read it" not in line]


@root
def test_what_is_delivered_while_tar_walks_a_site_appears_and_nothing_is_lost(
    dovecot: Dovecot, mounts: Mounts, tmp_path: Path
) -> None:
    """The mount has few stores open at a time, so that those which mail comes to are closed and opened."""
    accounts = [dovecot.account(f"{driver}:{{home}}/mail") for driver in ("mdbox", "sdbox") * 3]
    texts = {
        account.name: [text_of(f"{account.name} {number}") for number in range(12)] for account in accounts
    }
    for account in accounts:
        account.append([Append(text) for text in texts[account.name]])
    source = tmp_path / "users"
    source.write_text("".join(f"{account.name}\n" for account in accounts))
    mnt = mounted(mounts, str(source), "-c", dovecot.config, "-o", "stores=3")
    before = len(accounts) * 12
    with Walking(mnt) as walking:
        wait_for(lambda: walking.walks)
        for number in range(10):
            for account in accounts[:2]:
                text = text_of(f"{account.name}: delivery {number}")
                with smtplib.LMTP(str(dovecot.lmtp)) as session:
                    session.sendmail("sender@example.org", [account.name], text)
                path = mnt / account.name / "INBOX" / f"{13 + number}.eml"
                wait_for(path.exists)
                assert text in path.read_bytes()
    for walk in walking.walks:
        assert len(walk) >= before
    assert walking.complaints == []
    for account in accounts:
        inbox = mnt / account.name / "INBOX"
        found = {path.name: path.read_bytes() for path in inbox.iterdir()}
        assert found == {f"{one.uid}.eml": one.text for one in account.fetch()}
        assert len(found) == 12 + 10 * (account in accounts[:2])
        for walk in walking.walks:
            here = {name: text for name, text in walk.items() if name.startswith(f"./{account.name}/")}
            assert (
                here.items()
                <= {f"./{account.name}/INBOX/{name}": text for name, text in found.items()}.items()
            )


@pytest.fixture
def listing_dovecot() -> Iterator[Dovecot]:
    """A Dovecot of its own whose userdb is one file, so that it can tell all users."""
    with Dovecot() as daemon:
        yield daemon


@root
def test_all_users_that_dovecot_tells_are_there(listing_dovecot: Dovecot, mounts: Mounts) -> None:
    daemon = listing_dovecot
    accounts = [daemon.account(f"{driver}:{{home}}/mail") for driver in ("sdbox", "mdbox")]
    for account in accounts:
        account.save(text_of(account.name))
    everybody = daemon.root / "everybody"
    everybody.write_text("".join((daemon.root / "users" / some.name).read_text() for some in accounts))
    config = re.sub(rf"{daemon.root}/users/%\S+", str(everybody), daemon.config.read_text())
    daemon.config.write_text(config)
    daemon.doveadm("reload")
    mnt = mounted(mounts, "*", "-c", daemon.config)
    assert os.listdir(mnt) == ["user1", "user2"]
    for account in accounts:
        assert (mnt / account.name / "INBOX/1.eml").read_bytes() == text_of(account.name)
    mounts.umount(mnt)
    mnt = mounted(mounts, "*2", "-c", daemon.config)
    assert os.listdir(mnt) == ["user2"]
    done = dboxfs("check", "--users", "*", "-c", daemon.config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 users checked: 2 with status 0"), done.stdout


@root
def test_what_several_processes_write_into_one_file_is_one_message(site: Vmail, mounts: Mounts) -> None:
    site.make("ann@a.example")
    mnt = mounts.mount(f"--users={site.template}", "rw,alone")
    inbox = mnt / "ann@a.example" / "INBOX"
    script = "( printf 'Subject: x\\n\\none\\n'; ( sleep 0.2; echo two ); echo three ) > group.eml"
    subprocess.run(["sh", "-c", script], cwd=inbox, check=True)
    assert (inbox / "group.eml").read_bytes() == b"Subject: x\n\none\ntwo\nthree\n"
    assert xattrs(inbox / "group.eml")["uid"] == "2"
