"""A mount beside a working Dovecot: what Dovecot does is visible within a second, whole or not at all.

Everything is looked at before each change, so that the kernel has it in its caches: what a test sees
afterwards got there because the mount told the kernel.
"""

from __future__ import annotations

import hashlib
import imaplib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import VISIBLE_WITHIN, Expected, Tally, assert_shows, assert_shows_soon
from tests.live.mounts import Mounts, xattrs

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


def message(n: int, size: int = 500) -> bytes:
    """A message that says what its own body must be: the hash of the body is in the subject."""
    body = random.Random(n).randbytes(size // 2).hex().encode() + b"\n"
    return b"Subject: %s\n\n" % hashlib.sha256(body).hexdigest().encode() + body


def soon(check: Callable[[], bool]) -> None:
    """``check`` becomes true within a second from now."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < VISIBLE_WITHIN
        time.sleep(0.01)


def look_at_all(mnt: Path) -> None:
    for directory, _, names in os.walk(mnt):
        xattrs(Path(directory))
        for name in names:
            path = Path(directory, name)
            path.stat()
            xattrs(path)
            path.read_bytes()


def names(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()


def attribute(path: Path, name: str) -> str:
    return os.getxattr(path, f"user.dbox.{name}").decode()


class Stage:
    """An account with ten messages in INBOX, an empty mailbox ``Other``, a mount and an IMAP session."""

    def __init__(self, dovecot: Dovecot, mounts: Mounts, driver: str) -> None:
        self.account: Account = dovecot.account(f"{driver}:{{home}}/mail")
        self.account.append([Append(message(n)) for n in range(10)])
        self.account.doveadm("mailbox create", "Other")
        self.mnt = mounts.mount(self.account.location)
        self.imap: imaplib.IMAP4 = self.account.imap()
        self.imap.select()
        look_at_all(self.mnt)

    def finish(self, tally: Tally) -> None:
        assert_shows_soon(self.account, self.mnt, tally)


@pytest.fixture
def stage(dovecot: Dovecot, mounts: Mounts, driver: str) -> Iterator[Stage]:
    made = Stage(dovecot, mounts, driver)
    yield made
    made.imap.logout()


@both
def test_append_and_save_become_visible(stage: Stage, tally: Tally) -> None:
    inbox = stage.mnt / "INBOX"
    for n in range(11, 16):
        stage.account.append([Append(message(n), r"\Seen")])
        soon(lambda n=n: (inbox / f"{n}.eml").exists())  # type: ignore[misc]
        assert (inbox / f"{n}.eml").read_bytes() == message(n)
        soon(lambda n=n: f"{n}.eml" in names(inbox))  # type: ignore[misc]
    stage.account.save(message(16))
    soon(lambda: "16.eml" in names(inbox))
    soon(lambda: attribute(inbox, "messages") == "16")
    assert attribute(inbox, "uidnext") == "17"
    stage.finish(tally)


@both
def test_a_name_that_did_not_exist_becomes_visible(stage: Stage) -> None:
    """The kernel may have cached that there is no such file."""
    path = stage.mnt / "INBOX" / "11.eml"
    assert not path.exists()
    stage.account.save(message(11))
    soon(path.exists)
    assert not (stage.mnt / "New").exists()
    stage.account.doveadm("mailbox create", "New")
    soon((stage.mnt / "New").is_dir)


@both
def test_store_changes_flags_and_keywords(stage: Stage, tally: Tally) -> None:
    third = stage.mnt / "INBOX" / "3.eml"
    assert attribute(third, "flags") == ""
    modseq = int(attribute(third, "modseq"))
    stage.imap.uid("store", "3", "+FLAGS", r"(\Flagged \Seen Work)")
    soon(lambda: attribute(third, "flags") == r"\Flagged \Seen")
    soon(lambda: attribute(third, "keywords") == "Work")
    soon(lambda: attribute(stage.mnt / "INBOX", "unseen") == "9")
    assert int(attribute(third, "modseq")) > modseq
    stage.imap.uid("store", "3", "-FLAGS", r"(\Seen Work)")
    soon(lambda: (attribute(third, "flags"), attribute(third, "keywords")) == (r"\Flagged", ""))
    stage.finish(tally)


@both
def test_copy_and_move(stage: Stage, tally: Tally) -> None:
    inbox, other = stage.mnt / "INBOX", stage.mnt / "Other"
    guid = attribute(inbox / "2.eml", "guid")
    stage.imap.uid("copy", "2", "Other")
    soon(lambda: names(other) == {"1.eml"})
    assert attribute(other / "1.eml", "guid") == guid
    stage.imap.uid("move", "4:6", "Other")
    soon(lambda: names(other) == {"1.eml", "2.eml", "3.eml", "4.eml"})
    soon(lambda: not names(inbox) & {"4.eml", "5.eml", "6.eml"})
    assert (other / "2.eml").read_bytes() == message(3)
    assert not (inbox / "4.eml").exists()
    stage.finish(tally)


@both
def test_expunge(stage: Stage, tally: Tally) -> None:
    inbox = stage.mnt / "INBOX"
    stage.imap.uid("store", "1,9", "+FLAGS", r"(\Deleted)")
    stage.imap.expunge()
    soon(lambda: not (inbox / "1.eml").exists() and not (inbox / "9.eml").exists())
    soon(lambda: len(names(inbox)) == 8)
    soon(lambda: attribute(inbox, "messages") == "8")
    stage.finish(tally)


@both
def test_create_rename_delete(stage: Stage, tally: Tally) -> None:
    mnt = stage.mnt
    stage.imap.create("A/B")
    soon(lambda: "A" in names(mnt) and "B" in names(mnt / "A"))
    stage.account.append([Append(message(1))], "A/B")
    soon(lambda: names(mnt / "A" / "B") == {"1.eml"})
    stage.imap.rename("A", "Z")
    soon(lambda: "A" not in names(mnt) and names(mnt / "Z" / "B") == {"1.eml"})
    assert (mnt / "Z" / "B" / "1.eml").read_bytes() == message(1)
    soon(lambda: attribute(mnt / "Z" / "B", "mailbox") == "Z/B")
    stage.imap.delete("Z/B")
    soon(lambda: "Z" not in names(mnt) or "B" not in names(mnt / "Z"))
    stage.imap.subscribe("Other")
    soon(lambda: attribute(mnt / "Other", "subscribed") == "1")
    stage.imap.unsubscribe("Other")
    soon(lambda: attribute(mnt / "Other", "subscribed") == "0")
    stage.finish(tally)


@both
def test_a_mailbox_made_again_is_another_one(stage: Stage, tally: Tally) -> None:
    stage.account.append([Append(message(1)), Append(message(2))], "Other")
    other = stage.mnt / "Other"
    soon(lambda: len(names(other)) == 2)
    look_at_all(other)
    guid, inode = attribute(other, "guid"), (other / "1.eml").stat().st_ino
    stage.imap.delete("Other")
    stage.imap.create("Other")
    stage.account.append([Append(message(3))], "Other")
    soon(lambda: names(other) == {"1.eml"})
    soon(lambda: (other / "1.eml").read_bytes() == message(3))
    assert attribute(other, "guid") != guid
    assert (other / "1.eml").stat().st_ino != inode
    stage.finish(tally)


@both
def test_an_open_file_outlives_expunge_and_purge(stage: Stage) -> None:
    big = message(77, 6_000_000)
    stage.account.append([Append(big)])
    path = stage.mnt / "INBOX" / "11.eml"
    soon(path.exists)
    descriptor = os.open(path, os.O_RDONLY)
    start = os.pread(descriptor, 100, 0)
    stage.account.doveadm("expunge", "mailbox", "INBOX", "uid", "11")
    stage.account.purge()
    soon(lambda: not path.exists())
    # Nothing of it may come from what the kernel has cached.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    rest = b"".join(iter(lambda: os.read(descriptor, 65536), b""))
    assert os.pread(descriptor, 100, 0) == start == big[:100]
    assert hashlib.sha256(rest).digest() == hashlib.sha256(big).digest()
    assert os.fstat(descriptor).st_size == len(big)
    os.close(descriptor)


@pytest.mark.parametrize(("driver", "options"), [("sdbox", "rw"), ("mdbox", "open=classic"), ("mdbox", "")])
def test_an_open_file_keeps_uid_flags_keywords_and_dates_when_its_message_is_gone(
    dovecot: Dovecot, mounts: Mounts, driver: str, options: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    account.save(message(0))
    for box in ("Expunged", "Deleted"):
        account.doveadm("mailbox create", box)
        account.append([Append(message(1), "\\Seen \\Flagged work", "02-Feb-2024 12:00:00 +0000")], box)
    mnt = mounts.mount(account.location, options)
    with (mnt / "Expunged/1.eml").open("rb") as one, (mnt / "Deleted/1.eml").open("rb") as two:
        starts = [file.read(20) for file in (one, two)]  # without OPEN nobody knows of a file before
        kept = [_marks(file.fileno()) for file in (one, two)]
        assert kept[0]["flags"] == "\\Flagged \\Seen"
        account.doveadm("expunge", "mailbox", "Expunged", "all")
        account.doveadm("mailbox delete", "Deleted")
        soon(lambda: not Path(one.name).exists() and not Path(two.name).exists())
        for file, start, marks in zip((one, two), starts, kept, strict=True):
            assert _marks(file.fileno()) == marks
            assert {name.removeprefix("user.dbox.") for name in os.listxattr(file.fileno())} == marks.keys()
            for name in ("user.dbox.guid", "user.mime_type"):
                with pytest.raises(OSError, match="No data available"):
                    os.getxattr(file.fileno(), name)
            assert start + file.read() == message(1)
            assert os.fstat(file.fileno()).st_size == len(message(1))


def _marks(descriptor: int) -> dict[str, str]:
    names = ("uid", "flags", "keywords", "received", "saved")
    return {name: os.getxattr(descriptor, f"user.dbox.{name}").decode() for name in names}


_READER = """
import hashlib, os, sys
root, reads, gone, bad = sys.argv[1], 0, 0, []
while not os.path.exists(sys.argv[2]):
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                size = os.stat(f"{directory}/{name}").st_size
                data = open(f"{directory}/{name}", "rb").read()
                os.getxattr(f"{directory}/{name}", "user.dbox.flags")
            except FileNotFoundError:
                gone += 1
                continue
            except OSError as exc:
                bad.append(f"{directory}/{name}: {exc}")
                continue
            head, _, body = data.partition(b"\\n\\n")
            reads += 1
            if head != b"Subject: " + hashlib.sha256(body).hexdigest().encode():
                bad.append(f"{directory}/{name}: {len(data)} bytes, mixed or partial")
            elif size != len(data):
                bad.append(f"{directory}/{name}: stat says {size}, read {len(data)}")
print(reads, gone)
print("\\n".join(bad[:10]))
"""


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
@pytest.mark.parametrize("zlib", ["", "zstd"])
def test_readers_never_see_a_partial_or_mixed_message(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, tmp_path: Path, driver: str, zlib: str
) -> None:
    """Readers loop over the tree while Dovecot appends, copies, moves, expunges and purges."""
    settings = {"mdbox_rotate_size": "256k"} | ({"zlib_save": zlib} if zlib else {})
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    rng = random.Random(5)
    account.append([Append(message(n, rng.randrange(10, 30_000))) for n in range(50)])
    account.doveadm("mailbox create", "Other")
    mnt = mounts.mount(account.location)
    stop = tmp_path / "stop"
    command = [sys.executable, "-c", _READER, str(mnt), str(stop)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            _churn(account, rng)
    finally:
        stop.touch()
        outputs = [reader.communicate(timeout=60)[0] for reader in readers]
    for output in outputs:
        counts, _, bad = output.partition("\n")
        assert bad.strip() == ""
        assert int(counts.split()[0]) > 50
    assert_shows_soon(account, mnt, tally)
    assert_shows(mounts.mount(account.location), Expected.of(account), tally)


def _churn(account: Account, rng: random.Random) -> None:
    sizes = (10, 300, 5000, 30_000, 300_000)
    new = [Append(message(rng.randrange(10**9), rng.choice(sizes))) for _ in range(5)]
    source, target = rng.sample(["INBOX", "Other"], 2)
    account.append(new, source)
    imap = account.imap()
    _, (count,) = imap.select(source)
    last = int(count or 0)
    low = rng.randrange(1, last + 1)
    some = f"{low}:{min(last, low + 4)}"
    imap.copy(some, target)
    imap.store(some, "+FLAGS", rng.choice([r"(\Seen)", "(K1)", r"(\Answered K2)"]))
    imap.store(some, "+FLAGS", r"(\Deleted)")
    imap.expunge()
    imap.logout()
    if rng.random() < 0.3:
        account.purge()
