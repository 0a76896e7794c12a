"""Bodies that are compressed or encrypted, or only begin like such ones: the mount shows what Dovecot shows.

Every store is made by a real Dovecot: with ``mail_crypt``, or without any plugin that looks into bodies.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from tests.live.crypt_keys import global_keys
from tests.live.dovecot import Account, Dovecot
from tests.live.equal import Expected, Tally, assert_shows
from tests.live.mounts import Mounts, dboxfs, xattrs

both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
MAGIC = b"CRYPTED\x03\x07"
SECRET = b"Subject: secret\n\n" + b"nobody reads this line\n" * 40
TEXT = b"Subject: inner\n\ntext\n"
LIKE_OTHERS = [
    b"\x1f\x8b\x08 looks compressed\n",
    b"BZh9 so does this\r\n",
    b"\x28\xb5\x2f\xfd and this\n",
    b"Dovecot-LZ4\r\x2a\x9b\xc5\n\n",
    b"\xfd7zXZ\0 and that",
    gzip.compress(TEXT),
    bz2.compress(TEXT),
    lzma.compress(TEXT),
    zstandard.compress(TEXT),
    gzip.compress(b"\n" * 5000) + b"\n",
    MAGIC + b" is how it begins\n",
    b"\x1f\x8b\x08" + b"a long one\n" * 50_000,
]


@pytest.fixture(scope="module")
def keys(dovecot_daemon: Dovecot) -> dict[str, str]:
    """Settings of ``mail_crypt`` with one global key pair."""
    return global_keys(dovecot_daemon).settings


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        yield
    assert caught.value.errno == number


def encrypting(dovecot: Dovecot, driver: str, keys: dict[str, str], zlib: str = "") -> Account:
    """A store with a secret message between two that a Dovecot without the plugin saved."""
    plain = dovecot.account(f"{driver}:{{home}}/mail")
    account = dovecot.account(plain.location, **keys, **({"zlib_save": zlib} if zlib else {}))
    plain.save(TEXT)
    account.save(SECRET)
    plain.save(TEXT)
    return account


def hand_over(dovecot: Dovecot, root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, dovecot.mail_uid, root.parent.stat().st_gid)


@both
@pytest.mark.parametrize("zlib", ["", "gz"])
@pytest.mark.expected_log("is encrypted")
def test_an_encrypted_message_is_refused_and_never_shown_as_mail(
    dovecot: Dovecot, mounts: Mounts, driver: str, zlib: str, keys: dict[str, str]
) -> None:
    account = encrypting(dovecot, driver, keys, zlib)
    first, secret, last = account.fetch()
    assert (secret.text, MAGIC in b"".join(p.read_bytes() for p in account.root.rglob("[um].*"))) == (
        SECRET,
        True,
    )
    mnt = mounts.mount(account.location)
    path = mnt / "INBOX" / "2.eml"
    assert path.stat().st_size == secret.physical_size
    attributes = xattrs(path)
    assert attributes["guid"] == secret.guid
    assert attributes["virtual_size"] == str(secret.virtual_size)
    for _ in range(2):
        with refused(errno.EACCES):
            path.read_bytes()
    for other in (first, last):
        assert (mnt / "INBOX" / f"{other.uid}.eml").read_bytes() == other.text
    lines = [line for line in mounts.log_file(mnt).read_text().splitlines() if "is encrypted" in line]
    assert len(lines) == 1, "one line says why"
    assert "INBOX: uid 2" in lines[0]
    assert json.loads((mnt / ".dboxfs" / "stats.json").read_text())["damaged_messages"] == 0


@both
@pytest.mark.expected_log("is encrypted")
def test_an_encrypted_message_is_copied_moved_and_removed_like_any_other_and_never_altered(
    dovecot: Dovecot, mounts: Mounts, driver: str, keys: dict[str, str]
) -> None:
    account = encrypting(dovecot, driver, keys)
    account.doveadm("mailbox create", "Work")
    mnt = mounts.mount(account.location, "rw")
    os.link(mnt / "INBOX" / "2.eml", mnt / "Work" / "copied")
    (mnt / "INBOX" / "2.eml").rename(mnt / "Work" / "moved")
    for change in (lambda path: os.utime(path, (5, 5)), lambda path: path.open("ab").close()):
        with refused(errno.EACCES):
            change(mnt / "Work" / "moved")
    assert [message.text for message in account.fetch("Work")] == [SECRET, SECRET]
    (mnt / "Work" / "copied").unlink()
    assert [message.text for message in account.fetch("Work")] == [SECRET]


@both
@pytest.mark.parametrize("version", [2, 3])
def test_bytes_that_begin_like_an_encrypted_message_can_not_be_written(
    mounts: Mounts, tmp_path: Path, driver: str, version: int
) -> None:
    store = tmp_path / "store"
    assert dboxfs("init", "--format", driver, f"--dbox-version={version}", store).returncode == 0
    mnt = mounts.mount(f"{driver}:{store}", "rw")
    for size in (0, 400_000):
        path = mnt / "INBOX" / "new"
        with refused(errno.EINVAL), path.open("wb") as file:
            file.write(MAGIC + b"x" * size)
    (mnt / "INBOX" / "good").write_bytes(MAGIC[:-1] + b" is no magic\n")
    assert os.listdir(mnt / "INBOX") == ["good"]


@both
@pytest.mark.expected_log("is encrypted")
def test_convert_and_rescue_keep_ciphertext_that_dovecot_still_reads(
    dovecot: Dovecot, driver: str, keys: dict[str, str]
) -> None:
    account = encrypting(dovecot, driver, keys)
    expected = account.fetch()
    done = dboxfs("check", account.location)
    assert done.returncode == 0
    assert "INBOX: 1 messages are encrypted (mail_crypt), a mount gives EACCES: uid 2 (" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 errors, 0 warnings, 1 notes"
    for target in ("sdbox", "mdbox"):
        for command in (["convert", "--verify"], ["rescue"]):
            to = dovecot.account(f"{target}:{{home}}/mail", **keys)
            done = dboxfs(*command, "--format", target, account.location, to.root)
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("stay encrypted (mail_crypt), Dovecot needs their keys: uid 2" in done.stdout) == (
                command[0] == "convert"
            )
            hand_over(dovecot, to.root)
            found = to.fetch()
            for what in ("text", "guid", "physical_size", "virtual_size", "received", "uid"):
                assert [getattr(m, what) for m in found] == [getattr(m, what) for m in expected], what
    to = dovecot.account(f"{driver}:{{home}}/mail")
    done = dboxfs("convert", "--dbox-version=3", "--verify", account.location, to.root)
    assert done.returncode == 1
    assert "uid 2" in done.stderr
    assert "encrypted" in done.stderr
    assert not any(MAGIC in path.read_bytes() for path in to.root.rglob("[um].*"))


@both
def test_a_message_that_begins_like_a_coded_one_is_shown_as_dovecot_shows_it(
    dovecot: Dovecot, mounts: Mounts, tally: Tally, driver: str
) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail", mail_plugins="notify")
    for text in LIKE_OTHERS:
        account.save(text)
    expected = Expected.of(account)
    assert [m.text[:9] for m in expected.messages["INBOX"]] == [text[:9] for text in LIKE_OTHERS]
    assert_shows(mounts.mount(account.location), expected, tally)
    done = dboxfs("check", account.location)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 errors, 0 warnings, 0 notes")
    for target in ("sdbox", "mdbox"):
        to = dovecot.account(f"{target}:{{home}}/mail", mail_plugins="notify")
        done = dboxfs("convert", "--verify", "--format", target, account.location, to.root)
        assert done.returncode == 0, done.stderr
        hand_over(dovecot, to.root)
        assert to.fetch() == expected.messages["INBOX"]
    to = dovecot.account(f"{driver}:{{home}}/mail")
    done = dboxfs("convert", "--dbox-version=3", "--verify", account.location, to.root)
    assert done.returncode == 0, done.stderr
    mnt = mounts.mount(to.location)
    shown = [(mnt / "INBOX" / f"{n}.eml").read_bytes() for n in range(1, len(LIKE_OTHERS) + 1)]
    assert shown == [m.text for m in expected.messages["INBOX"]]
